//! `layer_norm`: a block a group.

use super::launch::Grid;
use super::modules::Source;
use super::rms_norm::threads;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer};
use crate::params::LayerNorm;
use crate::{Result, checks};

pub(super) fn layer_norm(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &LayerNorm<'_, Cuda>,
) -> Result<()> {
    let view = checks::layer_norm(dst, p)?;
    let launch = s.launch("layer_norm", Source::LayerNorm, "layer_norm").write(&view.dst);
    let launch = match &view.src {
        Some(src) => launch.read(src),
        None => launch.write(&view.dst),
    };
    let launch = launch.read(&view.weight).read(&view.bias).int(p.width).float(p.eps);
    // SAFETY: `checks` has held the lengths against the buffers.
    unsafe { launch.run(Grid { blocks: [p.groups, 1, 1], threads: threads(p.width), shared: 0 }) }
}
