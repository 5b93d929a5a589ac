//! Causal attention over the paged KV cache, for prefill chunks and decodes in one batch.
//!
//! What a token gets depends on nothing but its query and the keys and values that it sees: not on
//! the other tokens of the step, the size of a chunk, or the number of threads. For this, one order
//! of operations holds everywhere:
//! - a score is a sum over the head's values, in order;
//! - the softmax goes online (Milakov & Gimelshein 2018, arXiv:1805.02867) through steps of
//!   [`STEP`] positions, which start at multiples of `STEP`;
//! - a value of the output is a sum over the positions, in order;
//! - both start anew at each multiple of [`SPLIT`] positions, so that threads may share a long
//!   context (Dao et al. 2023, "Flash-Decoding"), and the splits are merged in order.

mod kernels;
mod merge;
mod packed;
mod plan;
mod scaled;
mod tile;

use super::kv_cache::{Data, KvElement, Stored};
use super::shared::SharedSlice;
use super::simd::{Kernel, Simd};
use super::{Cpu, CpuStream};
use crate::checks::{self, AttentionView};
use crate::host::{HostBuffer, grow};
use crate::params::{Attention, KvSpec, KvValues};
use crate::{KV_BLOCK_SIZE, KvStorage, Result};
use merge::{Merge, State};
use plan::{Plan, Tile};
use std::ops::Range;
use tile::Attend;

pub(super) use packed::{check as check_packed, packed_attention};

/// Positions of a step of the online softmax: enough to make up for its fixed cost, few enough
/// for the step's keys and values to stay in the first-level cache.
const STEP: usize = 2 * KV_BLOCK_SIZE;

/// Positions after which sums start anew: the unit of work that a long context is shared out in.
const SPLIT: usize = 4 * STEP;

/// Values of partial states that one thread merges as fast as a team.
const SERIAL_MERGE: usize = 2048;

/// Scratch of attention, kept between steps.
#[derive(Default)]
pub(crate) struct Workspace {
    plan: Plan,
    /// States of the splits that are computed apart, until they are merged.
    partials: Vec<f32>,
    /// Scratch of each thread.
    threads: Vec<f32>,
    /// The tokens of each sequence of [`packed_attention`].
    sequences: Vec<Range<usize>>,
}

/// What all tiles of an operation share.
#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    values: KvValues,
    /// Query heads that share a head of keys and values.
    group: usize,
    scale: f32,
    window: Option<usize>,
    softcap: Option<f32>,
}

impl Shape {
    fn new(p: &Attention<'_, Cpu>, group: usize) -> Self {
        let &KvSpec { kv_heads, head_dim, values, .. } = p.kv.spec();
        let &Attention { heads, scale, window, softcap, .. } = p;
        Shape { heads, kv_heads, head_dim, values, group, scale, window, softcap }
    }

    /// Values per head of the output.
    #[inline(always)]
    fn value_dim(&self) -> usize {
        self.values.dim(self.head_dim)
    }

    /// Numbers of a step's values in their own layout, where the cache has them in that of keys.
    fn transposed_len(&self) -> usize {
        match self.values {
            KvValues::Own => 0,
            KvValues::PrefixOfKey(dim) => STEP * dim,
        }
    }

    /// Positions that a token at `position` sees.
    fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }

    /// Positions that the tokens at `positions` see, all together.
    fn visible_to_any(&self, positions: Range<usize>) -> Range<usize> {
        self.visible(positions.start).start..positions.end
    }
}

/// The splits that `positions` reach into.
fn splits(positions: &Range<usize>) -> Range<usize> {
    positions.start / SPLIT..positions.end.div_ceil(SPLIT)
}

/// [`crate::Backend::attention`].
pub(super) fn attention(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &Attention<'_, Cpu>,
) -> Result<()> {
    let mut view = checks::attention(dst, p)?;
    let shape = Shape::new(p, view.group);
    let threads = s.team.threads();
    s.attention.plan.make(&view, &shape, threads);
    let ws = &mut s.attention;
    grow(&mut ws.partials, ws.plan.partials)?;
    grow(&mut ws.threads, threads * scratch_len(&ws.plan, &shape))?;
    let dst = std::mem::take(&mut view.dst);
    match &p.kv.data {
        Data::F16 { k, v } => run(s, &shape, &view, plain(k), plain(v), dst),
        Data::BF16 { k, v } => run(s, &shape, &view, plain(k), plain(v), dst),
        Data::E4m3 { k, v } => run(s, &shape, &view, plain(k), plain(v), dst),
        Data::F32 { k, v } => run(s, &shape, &view, plain(k), plain(v), dst),
        Data::Q8 { k, v } => run(s, &shape, &view, k.stored(), v.stored(), dst),
    }
    Ok(())
}

/// Without scales.
fn plain<E>(values: &[E]) -> Stored<'_, E> {
    Stored { values, scales: &[] }
}

/// Scratch of one thread: the scaled queries of a tile, the state of a split, the merged state, the
/// values of a step where they are a part of its keys.
fn scratch_len(plan: &Plan, shape: &Shape) -> usize {
    let states = 2 * State::len(plan.rows, shape.value_dim());
    plan.rows * shape.head_dim + states + shape.transposed_len()
}

fn run<E: KvElement>(
    s: &mut CpuStream,
    shape: &Shape,
    view: &AttentionView<'_>,
    k: Stored<'_, E>,
    v: Stored<'_, E>,
    dst: &mut [f32],
) {
    let isa = s.isa;
    let Workspace { plan, partials, threads, .. } = &mut s.attention;
    let scratch_len = scratch_len(plan, shape);
    let (partials, threads, dst) =
        (SharedSlice::new(partials), SharedSlice::new(threads), SharedSlice::new(dst));
    s.team.chunks(plan.tasks.len(), &|thread, i| {
        let task = &plan.tasks[i];
        let tile = &plan.tiles[task.tile];
        let len = State::len(tile.rows(shape), shape.value_dim());
        // SAFETY: each thread has its own scratch, and each split of a tile its own partial state.
        let (scratch, partials) = unsafe {
            let partials = task.splits.clone().map(|splits| {
                let at = |split: usize| tile.partials + (split - tile.splits.start) * len;
                (splits.start, partials.range_mut(at(splits.start)..at(splits.end)))
            });
            (threads.range_mut(thread * scratch_len..(thread + 1) * scratch_len), partials)
        };
        Attend { isa, shape, view, tile, k, v, partials, scratch, dst: &dst }.run();
    });
    let merges = |i: usize, thread: usize| {
        let tile = &plan.tiles[plan.merges[i]];
        let state = State::len(tile.rows(shape), shape.value_dim());
        let end = tile.partials + tile.splits.len() * state;
        // SAFETY: each thread has its own scratch, and each tile its own partial states.
        let (scratch, partials) = unsafe {
            (
                threads.range_mut(thread * scratch_len..(thread + 1) * scratch_len),
                partials.range_mut(tile.partials..end),
            )
        };
        Merge { isa, shape, tile, partials, scratch, sinks: view.sinks, dst: &dst }.run();
    };
    if plan.partials < SERIAL_MERGE {
        (0..plan.merges.len()).for_each(|i| merges(i, 0));
    } else {
        s.team.chunks(plan.merges.len(), &|thread, i| merges(i, thread));
    }
}

/// Writes the normalised outputs of a tile, which only one task may do.
struct WriteOutputs<'a, 'b> {
    shape: &'a Shape,
    tile: &'a Tile,
    state: &'a State<'b>,
    /// `[heads]`
    sinks: Option<&'a [f32]>,
    /// `[T, heads · value_dim]`
    dst: &'a SharedSlice<'a, f32>,
}

impl Kernel for WriteOutputs<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let WriteOutputs { shape, tile, state, sinks, dst } = self;
        let dim = shape.value_dim();
        for (row, (sums, &total)) in state.acc.chunks_exact(dim).zip(&*state.total).enumerate() {
            let token = tile.tokens.start + row / shape.group;
            let head = tile.kv_head * shape.group + row % shape.group;
            // The maximum need not know of the sink: a weight that outgrows all others stays finite
            // (`math::exp`), and leaves nothing of them.
            let sink = sinks.map(|sinks| kernels::exp_of::<S, 1>([sinks[head]], state.max[row])[0]);
            let start = (token * shape.heads + head) * dim;
            // SAFETY: one task writes a tile's outputs, and no two tiles share any.
            let dst = unsafe { dst.range_mut(start..start + dim) };
            kernels::divide::<S>(sums, total + sink.unwrap_or(0.0), dst);
        }
    }
}

#[cfg(test)]
mod tests;
