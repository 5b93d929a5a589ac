//! The gate of an MLP whose two products are there already.

use super::shared::SharedSlice;
use super::{Cpu, CpuStream, math, split_rows};
use crate::host::HostBuffer;
use crate::params::Gate;
use crate::{Result, checks};

/// [`crate::Backend::gate`]: to the bit what [`crate::Backend::gated_linear`] makes of the same
/// products.
pub(super) fn gate(s: &mut CpuStream, x: &mut HostBuffer, p: &Gate<'_, Cpu>) -> Result<()> {
    let checks::GateView { x, up } = checks::gate(x, p)?;
    let x = SharedSlice::new(x);
    let (isa, width) = (s.isa, p.width);
    split_rows(&mut s.team, p.rows, width, &|rows| {
        let values = rows.start * width..rows.end * width;
        // SAFETY: ranges of rows are disjoint.
        let x = unsafe { x.range_mut(values.clone()) };
        math::gate(isa, p.activation, x, &up[values]);
    });
    Ok(())
}
