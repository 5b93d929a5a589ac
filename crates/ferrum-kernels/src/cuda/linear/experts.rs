//! Linears over the experts of a mixture: each token has its own few of a stack's matrices.
//!
//! A slot is a token's share of one expert. With few tokens each slot is multiplied on its own; with
//! more, the device sorts slots by their experts, so that a tile of slots shares the reading of a
//! weight. The ids are read on the device alone.

use super::super::buffer::Part;
use super::super::launch::Grid;
use super::super::modules::Source;
use super::super::pointwise::number;
use super::super::stream::{CudaStream, Scratch};
use super::super::{Cuda, CudaBuffer};
use super::CudaWeight;
use super::gated;
use super::input::Input;
use super::product::{Method, Output, Product, Slots, Sorted};
use crate::params::{ExpertCombine, ExpertGatedLinear};
use crate::{Result, checks};

/// Threads that sort slots, one block.
const SORT_THREADS: usize = 1024;

/// Threads of a block that adds up slots.
const COMBINE_THREADS: usize = 256;

/// Bytes of a number of a slot or tile.
const NUMBER: usize = size_of::<i32>();

/// How the products of `tokens` tokens are computed, each in `used` slots.
fn method(weight: &CudaWeight, tokens: usize, used: usize) -> Method {
    match Method::new(weight.format, tokens) {
        // Slots side by side have different experts.
        Method::Gemv(_) => Method::Gemv(1),
        // Tiles that an expert's slots fill on average.
        _ if tokens * used <= 16 * weight.experts => Method::Gemm(16),
        _ => Method::Gemm(64),
    }
}

/// Sorts slots for [`Method::Gemm`]; `None` where nothing needs it.
///
/// # Safety
/// `ids` must have so many values.
unsafe fn sort(
    s: &mut CudaStream,
    op: &'static str,
    ids: &Part<'_>,
    slots: usize,
    experts: usize,
    methods: &[Method],
) -> Result<Option<Sorted>> {
    let widths = methods.iter().filter_map(|method| match method {
        Method::Gemm(width) => Some(*width),
        Method::Gemv(_) | Method::Library => None,
    });
    let Some(width) = widths.max() else { return Ok(None) };
    // Each expert has at most one tile that is not full.
    let tiles = slots / width + experts.min(slots);
    let tiles_at = slots.saturating_mul(NUMBER);
    let bytes = tiles.saturating_mul(3 * NUMBER).saturating_add(tiles_at);
    let memory = s.scratch(Scratch::Experts, bytes)?;
    let launch = s.launch(op, Source::Experts, "sort_slots").read(ids);
    let launch = launch.memory(&memory, 0).memory(&memory, tiles_at);
    let launch = launch.int(slots).int(experts).int(width).int(tiles);
    let shared = experts.saturating_mul(NUMBER);
    // SAFETY: the caller's promise; there is room for the slots and the tiles.
    unsafe { launch.run(Grid { blocks: [1, 1, 1], threads: SORT_THREADS, shared })? }
    Ok(Some(Sorted { memory, tiles_at, tiles }))
}

/// [`crate::Backend::expert_gated_linear`]
pub(in super::super) fn expert_gated_linear(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &ExpertGatedLinear<'_, Cuda>,
) -> Result<()> {
    const OP: &str = "expert_gated_linear";
    let view = checks::expert_gated_linear(dst, p)?;
    let slots = p.rows * p.used;
    let methods = [p.gate, p.up].map(|weight| method(weight, p.rows, p.used));
    let forms = [methods[0].form(p.gate.format), methods[1].form(p.up.format)];
    let input = Input::new(s, OP, &view.input, [p.rows, p.gate.cols], None, &forms)?;
    // SAFETY: `checks` has held the lengths against the buffers, and the ids against the experts as
    // far as it knows them; the others the kernels do.
    let sorted = unsafe { sort(s, OP, &view.ids, slots, p.gate.experts, &methods)? };
    let product = Product {
        op: OP,
        outputs: &[Output::plain(p.gate, view.dst.memory)],
        gated: None,
        method: methods[0],
        input: &input,
        count: slots,
        slots: Some(Slots { ids: view.ids.memory, per_row: p.used, sorted: sorted.as_ref() }),
    };
    // SAFETY: as above.
    unsafe { gated(s, product, p.up, methods[1], number(p.activation)) }
}

/// [`crate::Backend::expert_combine`]
pub(in super::super) fn expert_combine(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &ExpertCombine<'_, Cuda>,
) -> Result<()> {
    const OP: &str = "expert_combine";
    let view = checks::expert_combine(dst, p)?;
    let (slots, n) = (p.rows * p.used, p.weight.rows);
    let method = method(p.weight, p.rows, p.used);
    let input = Input::new(
        s,
        OP,
        &view.input,
        [slots, p.weight.cols],
        None,
        &[method.form(p.weight.format)],
    )?;
    let bytes = slots.saturating_mul(n).saturating_mul(size_of::<f32>());
    let products = s.scratch(Scratch::Products, bytes)?;
    // SAFETY: as above.
    let sorted = unsafe { sort(s, OP, &view.ids, slots, p.weight.experts, &[method])? };
    let product = Product {
        op: OP,
        outputs: &[Output::plain(p.weight, &products)],
        gated: None,
        method,
        input: &input,
        count: slots,
        slots: Some(Slots { ids: view.ids.memory, per_row: 1, sorted: sorted.as_ref() }),
    };
    // SAFETY: as above; the products are as long as `bytes`.
    unsafe { product.run(s)? }
    let launch = s.launch(OP, Source::Experts, "combine_slots").memory(&products, 0);
    let launch = launch.read(&view.weights).read(&view.ids).write(&view.dst);
    let launch = launch.int(p.rows).int(n).int(p.used).int(p.weight.experts).flag(p.accumulate);
    let blocks = (p.rows * n).div_ceil(COMBINE_THREADS);
    let grid = Grid { blocks: [blocks, 1, 1], threads: COMBINE_THREADS, shared: 0 };
    // SAFETY: likewise.
    unsafe { launch.run(grid) }
}
