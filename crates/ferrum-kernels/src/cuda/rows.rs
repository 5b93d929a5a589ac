//! `gather_rows` and `scatter_add`.

use super::launch::Grid;
use super::modules::Source;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer};
use crate::params::{GatherRows, ScatterAdd};
use crate::{Result, checks};

/// Threads that copy a row.
const THREADS: usize = 128;

pub(super) fn gather_rows(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &GatherRows<'_, Cuda>,
) -> Result<()> {
    let view = checks::gather_rows(dst, p)?;
    let launch = s.launch("gather_rows", Source::Rows, "gather_rows");
    let launch = launch.write(&view.dst).read(&view.src).read(&view.rows).int(p.width);
    // SAFETY: `checks` has held the lengths and the rows against the buffers.
    unsafe { launch.run(Grid { blocks: [p.count, 1, 1], threads: THREADS, shared: 0 }) }
}

pub(super) fn scatter_add(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &ScatterAdd<'_, Cuda>,
) -> Result<()> {
    let view = checks::scatter_add(dst, p)?;
    let launch = s.launch("scatter_add", Source::Rows, "scatter_add");
    let launch = launch.write(&view.dst).read(&view.src).read(&view.rows).int(p.width);
    // SAFETY: as above; the rows differ, so no two blocks add to one.
    unsafe { launch.run(Grid { blocks: [p.count, 1, 1], threads: THREADS, shared: 0 }) }
}
