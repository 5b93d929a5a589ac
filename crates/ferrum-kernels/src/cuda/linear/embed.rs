//! `embed`: a thread a group of 32 columns, or (of single numbers) a thread a value.

use super::super::launch::Grid;
use super::super::modules::Source;
use super::super::stream::CudaStream;
use super::super::{Cuda, CudaBuffer};
use super::layout::GROUP;
use crate::params::Embed;
use crate::{Result, checks};

const THREADS: usize = 128;

/// [`crate::Backend::embed`]
pub(in super::super) fn embed(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &Embed<'_, Cuda>,
) -> Result<()> {
    let view = checks::embed(dst, p)?;
    let table = p.table;
    let source = match table.is_coded() {
        true => Source::PackCodes(table.format),
        false => Source::PackFloats(table.format),
    };
    let launch = s.launch("embed", source, "embed");
    let launch = launch.planes(table).read(&view.tokens).write(&view.dst);
    let launch = launch.int(p.rows).int(table.rows);
    let (launch, per_row) = match table.is_coded() {
        true => (launch.int(table.groups()), table.groups()),
        false => (launch.int(table.cols).int(table.groups() * GROUP), table.cols),
    };
    let launch = launch.float(p.scale).flag(p.accumulate);
    let blocks = (p.rows * per_row).div_ceil(THREADS);
    // SAFETY: `checks` has held the lengths against the buffers, and tokens that it does not know are
    // held against the table by the kernel.
    unsafe { launch.run(Grid { blocks: [blocks, 1, 1], threads: THREADS, shared: 0 }) }
}
