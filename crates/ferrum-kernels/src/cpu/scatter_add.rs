//! Adding to some rows.

use super::shared::SharedSlice;
use super::{Cpu, CpuStream, split_rows};
use crate::host::HostBuffer;
use crate::params::ScatterAdd;
use crate::{Result, checks};

/// [`crate::Backend::scatter_add`].
pub(super) fn scatter_add(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &ScatterAdd<'_, Cpu>,
) -> Result<()> {
    let view = checks::scatter_add(dst, p)?;
    let (width, dst) = (p.width, SharedSlice::new(view.dst));
    split_rows(&mut s.team, p.count, width, &|range| {
        for r in range {
            let at = view.rows[r] as usize * width;
            // SAFETY: no row is named twice, as the check has seen.
            let dst = unsafe { dst.range_mut(at..at + width) };
            dst.iter_mut().zip(&view.src[r * width..]).for_each(|(dst, src)| *dst += src);
        }
    });
    Ok(())
}
