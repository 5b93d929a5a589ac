//! A non-linearity on its own.

use super::shared::SharedSlice;
use super::{CpuStream, math, split_rows};
use crate::host::HostBuffer;
use crate::params::Activate;
use crate::{Result, checks};

/// [`crate::Backend::activate`].
pub(super) fn activate(s: &mut CpuStream, x: &mut HostBuffer, p: &Activate) -> Result<()> {
    let x = SharedSlice::new(checks::activate(x, p)?);
    let (isa, width) = (s.isa, p.width);
    split_rows(&mut s.team, p.rows, width, &|rows| {
        // SAFETY: ranges of rows are disjoint.
        let x = unsafe { x.range_mut(rows.start * width..rows.end * width) };
        math::activate_all(isa, p.activation, x);
    });
    Ok(())
}
