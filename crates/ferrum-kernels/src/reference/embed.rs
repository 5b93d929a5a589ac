//! [`crate::Backend::embed`]: `dst[t, :] (+)= scale · table[tokens[t], :]`

use super::Reference;
use crate::host::HostBuffer;
use crate::params::Embed;
use crate::{PackedWeight, Result, checks};

pub(super) fn embed(dst: &mut HostBuffer, p: &Embed<'_, Reference>) -> Result<()> {
    let view = checks::embed(dst, p)?;
    for (out, &token) in view.dst.chunks_exact_mut(p.table.cols()).zip(view.tokens) {
        for (out, &w) in out.iter_mut().zip(p.table.row(token as usize)) {
            let before = if p.accumulate { f64::from(*out) } else { 0.0 };
            *out = (before + f64::from(p.scale) * f64::from(w)) as f32;
        }
    }
    Ok(())
}
