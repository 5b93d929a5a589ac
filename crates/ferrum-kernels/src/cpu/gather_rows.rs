//! Picking rows.

use super::Cpu;
use crate::host::HostBuffer;
use crate::params::GatherRows;
use crate::{KernelError, Result};

/// [`crate::Backend::gather_rows`].
pub(super) fn gather_rows(dst: &mut HostBuffer, p: &GatherRows<'_, Cpu>) -> Result<()> {
    const OP: &str = "gather_rows";
    let rows = p.rows.i32(OP, p.count)?;
    let have = crate::Buffer::len(p.src) / p.width.max(1);
    let src = p.src.f32(OP, have * p.width)?;
    let dst = dst.f32_mut(OP, p.count * p.width)?;
    for (r, &row) in rows.iter().enumerate() {
        let row = usize::try_from(row).ok().filter(|&row| row < have);
        let row =
            row.ok_or_else(|| KernelError::shape(OP, format!("row {} of {have}", rows[r])))?;
        dst[r * p.width..][..p.width].copy_from_slice(&src[row * p.width..][..p.width]);
    }
    Ok(())
}
