//! [`crate::Backend::rope`]: `(a, b)` becomes `(a·cos - b·sin, a·sin + b·cos)`

use super::Reference;
use super::rms_norm::normalised;
use crate::params::{Rope, RopeStyle};
use crate::{Result, checks};

pub(super) fn rope(p: Rope<'_, '_, Reference>) -> Result<()> {
    let Rope { head_dim, rotary_dim, style, eps, .. } = p;
    let view = checks::rope(p)?;
    let half = rotary_dim / 2;
    for input in view.inputs {
        for (head, to) in input.x.chunks_exact_mut(head_dim).enumerate() {
            let position = view.positions[head / input.heads] as usize;
            let mut x: Vec<f64> = match input.norm {
                Some(weight) => normalised(to, weight, eps),
                None => to.iter().map(|&x| f64::from(x)).collect(),
            };
            for i in 0..half {
                let (a, b) = match style {
                    RopeStyle::Split => (i, i + half),
                    RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                };
                let entry = (position * half + i) * 2;
                let (cos, sin) = (f64::from(view.table[entry]), f64::from(view.table[entry + 1]));
                (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
            }
            to.iter_mut().zip(x).for_each(|(to, x)| *to = x as f32);
        }
    }
    Ok(())
}
