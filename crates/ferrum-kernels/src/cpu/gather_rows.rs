//! Picking rows.

use super::Cpu;
use crate::host::HostBuffer;
use crate::params::GatherRows;
use crate::{Result, checks};

/// [`crate::Backend::gather_rows`]. Few rows are picked, so one thread does it.
pub(super) fn gather_rows(dst: &mut HostBuffer, p: &GatherRows<'_, Cpu>) -> Result<()> {
    let view = checks::gather_rows(dst, p)?;
    for (dst, &row) in view.dst.chunks_exact_mut(p.width).zip(view.rows) {
        dst.copy_from_slice(&view.src[row as usize * p.width..][..p.width]);
    }
    Ok(())
}
