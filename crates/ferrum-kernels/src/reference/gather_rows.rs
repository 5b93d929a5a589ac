//! [`crate::Backend::gather_rows`]: `dst[r, :] = src[rows[r], :]`

use super::Reference;
use crate::host::HostBuffer;
use crate::params::GatherRows;
use crate::{Result, checks};

pub(super) fn gather_rows(dst: &mut HostBuffer, p: &GatherRows<'_, Reference>) -> Result<()> {
    let view = checks::gather_rows(dst, p)?;
    for (out, &row) in view.dst.chunks_exact_mut(p.width).zip(view.rows) {
        out.copy_from_slice(&view.src[row as usize * p.width..][..p.width]);
    }
    Ok(())
}
