//! `route_topk`: a warp a token.

use super::Cuda;
use super::launch::Grid;
use super::modules::Source;
use super::stream::CudaStream;
use crate::params::RouteTopk;
use crate::{Result, checks};

pub(super) fn route_topk(s: &mut CudaStream, p: RouteTopk<'_, Cuda>) -> Result<()> {
    let (rows, experts, used, normalize, scale) = (p.rows, p.experts, p.used, p.normalize, p.scale);
    let view = checks::route_topk(p)?;
    let launch = s.launch("route_topk", Source::RouteTopk, "route_topk");
    let launch = launch.write(&view.ids).write(&view.weights).read(&view.scores);
    let launch = launch.int(experts).int(used).flag(normalize).float(scale);
    // SAFETY: `checks` has held the lengths against the buffers.
    unsafe { launch.run(Grid { blocks: [rows, 1, 1], threads: 32, shared: 0 }) }
}
