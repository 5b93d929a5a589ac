//! [`crate::Backend::expert_gated_linear`]: as [`super::gated_linear`], with the weights of each of
//! the token's experts.

use super::gated_linear::activate;
use super::{Reference, dot};
use crate::host::HostBuffer;
use crate::params::ExpertGatedLinear;
use crate::{PackedWeight, Result, checks};

pub(super) fn expert_gated_linear(
    dst: &mut HostBuffer,
    p: &ExpertGatedLinear<'_, Reference>,
) -> Result<()> {
    let view = checks::expert_gated_linear(dst, p)?;
    let (n, cols) = (p.gate.rows(), p.gate.cols());
    for (slot, (&expert, y)) in view.ids.iter().zip(view.dst.chunks_exact_mut(n)).enumerate() {
        let x = &view.input[slot / p.used * cols..][..cols];
        for (i, y) in y.iter_mut().enumerate() {
            let row = expert as usize * n + i;
            let gate = activate(p.activation, dot(p.gate.row(row), x));
            *y = (gate * dot(p.up.row(row), x)) as f32;
        }
    }
    Ok(())
}
