//! `rope`: a block a token, a thread a pair of values.

use super::launch::Grid;
use super::modules::Source;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer};
use crate::params::{Rope, RopeStyle};
use crate::{Result, checks};

pub(super) fn rope(s: &mut CudaStream, x: &mut CudaBuffer, p: &Rope<'_, Cuda>) -> Result<()> {
    let view = checks::rope(x, p)?;
    let entry = match p.style {
        RopeStyle::Split => "rope_split",
        RopeStyle::Interleaved => "rope_interleaved",
    };
    let launch = s.launch("rope", Source::Rope, entry);
    let launch = launch.write(&view.x).read(&view.table).read(&view.positions);
    let launch = launch.int(p.heads).int(p.head_dim).int(p.rotary_dim);
    let pairs = p.heads * p.rotary_dim / 2;
    let threads = pairs.next_multiple_of(32).clamp(32, 256);
    // SAFETY: `checks` has held the lengths, and the positions against the table.
    unsafe { launch.run(Grid { blocks: [p.rows, 1, 1], threads, shared: 0 }) }
}
