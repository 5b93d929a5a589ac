//! [`crate::Backend::rope`]: `(a, b)` becomes `(a·cos - b·sin, a·sin + b·cos)`

use super::Reference;
use crate::host::HostBuffer;
use crate::params::{Rope, RopeStyle};
use crate::{Result, checks};

pub(super) fn rope(x: &mut HostBuffer, p: &Rope<'_, Reference>) -> Result<()> {
    let view = checks::rope(x, p)?;
    let half = p.rotary_dim / 2;
    for (head, x) in view.x.chunks_exact_mut(p.head_dim).enumerate() {
        let position = view.positions[head / p.heads] as usize;
        for i in 0..half {
            let (a, b) = match p.style {
                RopeStyle::Split => (i, i + half),
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            };
            let entry = (position * half + i) * 2;
            let (cos, sin) = (f64::from(view.table[entry]), f64::from(view.table[entry + 1]));
            let (xa, xb) = (f64::from(x[a]), f64::from(x[b]));
            x[a] = (xa * cos - xb * sin) as f32;
            x[b] = (xa * sin + xb * cos) as f32;
        }
    }
    Ok(())
}
