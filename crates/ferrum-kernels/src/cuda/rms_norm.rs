//! `rms_norm`: a block a group.

use super::launch::Grid;
use super::modules::Source;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer};
use crate::params::RmsNorm;
use crate::{Result, checks};

pub(super) fn rms_norm(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &RmsNorm<'_, Cuda>,
) -> Result<()> {
    let view = checks::rms_norm(dst, p)?;
    let launch = s.launch("rms_norm", Source::RmsNorm, "rms_norm").write(&view.dst);
    let launch = match &view.src {
        Some(src) => launch.read(src),
        None => launch.write(&view.dst),
    };
    let launch = launch.read(&view.weight).int(p.width).float(p.eps).flag(p.accumulate);
    // SAFETY: `checks` has held the lengths against the buffers.
    unsafe { launch.run(Grid { blocks: [p.groups, 1, 1], threads: threads(p.width), shared: 0 }) }
}

/// Threads for a group of so many values: whole warps, four values a thread if there are many.
pub(super) fn threads(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(32).clamp(32, 256)
}
