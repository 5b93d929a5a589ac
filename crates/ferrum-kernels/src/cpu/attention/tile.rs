//! Attention of one tile: some tokens of a sequence against the keys and values of one head.

use super::kernels::{Scores, add_values, scores, softmax};
use super::merge::State;
use super::plan::Tile;
use super::{SPLIT, STEP, Shape, write_outputs};
use crate::KV_BLOCK_SIZE;
use crate::checks::AttentionView;
use crate::cpu::kv_cache::KvElement;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::{Kernel, Simd};
use std::array;
use std::ops::Range;

/// Rows that are computed together: each key and value that is loaded serves them all. With two
/// registers of positions (or values) for each row, six rows fill the sixteen registers of AVX2.
const MAX_ROWS: usize = 6;

/// A tile, or one split of it.
pub(super) struct Attend<'a, E> {
    pub(super) shape: &'a Shape,
    pub(super) view: &'a AttentionView<'a>,
    pub(super) tile: &'a Tile,
    /// Keys of the layer: see [`crate::cpu::CpuKvCache`].
    pub(super) k: &'a [E],
    /// Values of the layer.
    pub(super) v: &'a [E],
    /// The one split to compute, and where to leave its state; `None` for the whole tile.
    pub(super) split: Option<(usize, &'a mut [f32])>,
    pub(super) scratch: &'a mut [f32],
    /// `[T, heads · head_dim]`
    pub(super) dst: &'a SharedSlice<'a, f32>,
}

impl<E: KvElement> Kernel for Attend<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Attend { shape, view, tile, k, v, split, scratch, dst } = self;
        let rows = tile.rows(shape);
        let state_len = State::len(rows, shape.head_dim);
        let (q, scratch) = scratch.split_at_mut(rows * shape.head_dim);
        let (split_state, scratch) = scratch.split_at_mut(state_len);
        load_queries(shape, tile, view.q, q);
        let blocks = Blocks { shape, tile, k, v, table: view.seq(tile.seq).blocks };
        if let Some((split, state)) = split {
            return attend_split::<S, E>(&blocks, q, split, &mut State::at(state, rows));
        }
        let mut state = State::at(split_state, rows);
        let mut merged = State::at(&mut scratch[..state_len], rows);
        for split in tile.splits.clone() {
            attend_split::<S, E>(&blocks, q, split, &mut state);
            merged.merge::<S>(shape, tile, split, &state);
        }
        // SAFETY: only this task computes this tile, and no tile shares its outputs.
        unsafe { write_outputs::<S>(shape, tile, &merged, dst) }
    }
}

/// The keys and values that a tile sees.
struct Blocks<'a, E> {
    shape: &'a Shape,
    tile: &'a Tile,
    k: &'a [E],
    v: &'a [E],
    /// Cache blocks of the sequence.
    table: &'a [i32],
}

impl<'a, E> Blocks<'a, E> {
    /// Keys `[head_dim][KV_BLOCK_SIZE]` and values `[KV_BLOCK_SIZE][head_dim]` of block `i` of the
    /// sequence.
    #[inline(always)]
    fn get(&self, i: usize) -> (&'a [E], &'a [E]) {
        let len = KV_BLOCK_SIZE * self.shape.head_dim;
        let start = (self.table[i] as usize * self.shape.kv_heads + self.tile.kv_head) * len;
        (&self.k[start..][..len], &self.v[start..][..len])
    }
}

/// Rows `0..rows` in blocks of nearly equal size, at most [`MAX_ROWS`].
#[inline(always)]
fn row_blocks(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let blocks = rows.div_ceil(MAX_ROWS);
    (0..blocks).map(move |i| i * rows / blocks..(i + 1) * rows / blocks)
}

/// The tile's queries times the scale, in row blocks of `[head_dim][rows of the block]`.
fn load_queries(shape: &Shape, tile: &Tile, q: &[f32], packed: &mut [f32]) {
    let dim = shape.head_dim;
    for block in row_blocks(tile.rows(shape)) {
        let packed = &mut packed[block.start * dim..][..block.len() * dim];
        for (i, row) in block.clone().enumerate() {
            let token = tile.tokens.start + row / shape.group;
            let head = tile.kv_head * shape.group + row % shape.group;
            let q = &q[(token * shape.heads + head) * dim..][..dim];
            for (packed, q) in packed.chunks_exact_mut(block.len()).zip(q) {
                packed[i] = q * shape.scale;
            }
        }
    }
}

/// One split of the context, for all rows.
#[inline(always)]
fn attend_split<S: Simd, E: KvElement>(
    blocks: &Blocks<'_, E>,
    q: &[f32],
    split: usize,
    state: &mut State<'_>,
) {
    let Blocks { shape, tile, .. } = *blocks;
    let first = tile.first_position;
    let seen = shape.visible_to_any(first..first + tile.tokens.len());
    let positions = seen.start.max(split * SPLIT)..seen.end.min((split + 1) * SPLIT);
    state.clear();
    for start in (positions.start / STEP * STEP..positions.end).step_by(STEP) {
        for rows in row_blocks(tile.rows(shape)) {
            match rows.len() {
                1 => attend_step::<S, E, 1, 4>(blocks, q, start, rows.start, state),
                2 => attend_step::<S, E, 2, 4>(blocks, q, start, rows.start, state),
                3 => attend_step::<S, E, 3, 4>(blocks, q, start, rows.start, state),
                4 => attend_step::<S, E, 4, 2>(blocks, q, start, rows.start, state),
                5 => attend_step::<S, E, 5, 2>(blocks, q, start, rows.start, state),
                _ => attend_step::<S, E, 6, 2>(blocks, q, start, rows.start, state),
            }
        }
    }
}

/// One step of the online softmax, for `R` rows from `row`, in passes of `P` registers.
#[inline(always)]
fn attend_step<S: Simd, E: KvElement, const R: usize, const P: usize>(
    blocks: &Blocks<'_, E>,
    q: &[f32],
    start: usize,
    row: usize,
    state: &mut State<'_>,
) {
    let Blocks { shape, tile, .. } = *blocks;
    let dim = shape.head_dim;
    // What each row sees of the step, counted from its start.
    let mut seen = [(0, 0); R];
    for (i, seen) in seen.iter_mut().enumerate() {
        let visible = shape.visible(tile.position(shape, row + i));
        *seen = (within(visible.start, start, STEP), within(visible.end, start, STEP));
    }
    // Positions grow with the rows, so the first row starts first and the last one ends last.
    let (first, last) = (seen[0].0, seen[R - 1].1);
    if first >= last {
        return;
    }
    let step_blocks = first / KV_BLOCK_SIZE..last.div_ceil(KV_BLOCK_SIZE);
    let (q, fetch) = (&q[row * dim..][..R * dim], row == 0);
    let acc = &mut state.acc[row * dim..][..R * dim];
    let mut s: Scores<R> = [[0.0; STEP]; R];
    for block in step_blocks.clone() {
        let (k, v) = blocks.get(start / KV_BLOCK_SIZE + block);
        // The values are wanted next.
        scores::<S, E, R, P>(q, k, fetch.then_some(v), block * KV_BLOCK_SIZE, &mut s);
    }
    for i in 0..R {
        if seen[i].0 < seen[i].1 {
            let acc = &mut acc[i * dim..][..dim];
            let (max, total) = (&mut state.max[row + i], &mut state.total[row + i]);
            softmax::<S>(&mut s[i], seen[i].0..seen[i].1, shape.softcap, max, total, acc);
        }
    }
    for block in step_blocks {
        let at = start / KV_BLOCK_SIZE + block;
        // The keys of the next step are wanted next.
        let next = (at + STEP / KV_BLOCK_SIZE).min(blocks.table.len() - 1);
        let next = fetch.then(|| blocks.get(next).0);
        step_values::<S, E, R, P>(&s, &seen, block, blocks.get(at).1, next, acc);
    }
}

/// `x - start`, held to `0..=len`.
#[inline(always)]
fn within(x: usize, start: usize, len: usize) -> usize {
    x.saturating_sub(start).min(len)
}

/// Adds the values of block number `block` of the step to the sums of `R` rows.
///
/// A row that does not see a position must not touch its value, not even with a weight of zero:
/// what is there may be no number. So the rows go together through the positions that all of them
/// see, and alone through the few that only some do.
#[inline(always)]
fn step_values<S: Simd, E: KvElement, const R: usize, const P: usize>(
    s: &Scores<R>,
    seen: &[(usize, usize); R],
    block: usize,
    v: &[E],
    next: Option<&[E]>,
    acc: &mut [f32],
) {
    let at = block * KV_BLOCK_SIZE;
    let dim = acc.len() / R;
    let clip = |x: usize| within(x, at, KV_BLOCK_SIZE);
    let (first, last) = (clip(seen[R - 1].0), clip(seen[0].1));
    if first == 0 && last == KV_BLOCK_SIZE {
        return add_values::<S, E, R, P>(s, at, 0..last, v, next, acc);
    }
    let together = first.min(last)..last;
    for i in 0..R {
        let before = clip(seen[i].0)..clip(seen[i].1).min(together.start);
        let acc = &mut acc[i * dim..][..dim];
        add_values::<S, E, 1, 4>(array::from_ref(&s[i]), at, before, v, None, acc);
    }
    add_values::<S, E, R, P>(s, at, together.clone(), v, next, acc);
    for i in 0..R {
        let after = together.end.max(clip(seen[i].0))..clip(seen[i].1);
        let acc = &mut acc[i * dim..][..dim];
        add_values::<S, E, 1, 4>(array::from_ref(&s[i]), at, after, v, None, acc);
    }
}
