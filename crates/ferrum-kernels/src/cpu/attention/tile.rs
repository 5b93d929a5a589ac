//! Attention of one tile: some tokens of a sequence against the keys and values of one head.

use super::kernels::{AddAlone, Scores, Softmax, add_values, scores};
use super::merge::{MergeSplit, State};
use super::plan::Tile;
use super::{SPLIT, STEP, Shape, WriteOutputs};
use crate::checks::AttentionView;
use crate::cpu::Isa;
use crate::cpu::kv_cache::{KvElement, Stored};
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::{KV_BLOCK_SIZE, KV_SCALE_GROUP};
use std::ops::Range;

/// Rows that are computed together: each key and value that is loaded serves them all. With two
/// registers of positions (or values) for each row, six rows fill the sixteen registers of AVX2;
/// three rows with four registers each would fit too, but compilers do not find the way. The 32 of
/// AVX-512 hold four for each of up to four rows; for six, two are as fast.
const MAX_ROWS: usize = 6;

/// A tile, or some of its splits.
pub(super) struct Attend<'a, 'v, E> {
    pub(super) isa: Isa,
    pub(super) shape: &'a Shape,
    pub(super) view: &'a AttentionView<'v>,
    pub(super) tile: &'a Tile,
    /// Keys of the layer: see [`crate::cpu::CpuKvCache`].
    pub(super) k: Stored<'a, E>,
    /// Values of the layer; none where they are a part of the keys.
    pub(super) v: Stored<'a, E>,
    /// The first split to compute, and where to leave its state and those of the next ones;
    /// `None` for the whole tile.
    pub(super) partials: Option<(usize, &'a mut [f32])>,
    pub(super) scratch: &'a mut [f32],
    /// `[T, heads · value_dim]`
    pub(super) dst: &'a SharedSlice<'a, f32>,
}

impl<E: KvElement> Attend<'_, '_, E> {
    /// Computes it.
    pub(super) fn run(self) {
        let Attend { isa, shape, view, tile, k, v, partials, scratch, dst } = self;
        let rows = tile.rows(shape);
        let state_len = State::len(rows, shape.value_dim());
        let (q, scratch) = scratch.split_at_mut(rows * shape.head_dim);
        let (split_state, scratch) = scratch.split_at_mut(state_len);
        let (scratch, transposed) = scratch.split_at_mut(scratch.len() - shape.transposed_len());
        let transposed = elements(transposed);
        load_queries(shape, tile, view.q, q);
        let blocks = Blocks { shape, tile, k, v, table: view.seq(tile.seq).blocks };
        if let Some((first, partials)) = partials {
            for (i, state) in partials.chunks_exact_mut(state_len).enumerate() {
                let mut state = State::at(state, rows);
                attend_split(isa, &blocks, (q, &mut *transposed), first + i, &mut state);
            }
            return;
        }
        let mut state = State::at(split_state, rows);
        let mut merged = State::at(&mut scratch[..state_len], rows);
        for split in tile.splits.clone() {
            attend_split(isa, &blocks, (q, &mut *transposed), split, &mut state);
            isa.dispatch(MergeSplit { shape, tile, split, into: &mut merged, from: &state });
        }
        isa.dispatch(WriteOutputs { shape, tile, state: &merged, sinks: view.sinks, dst });
    }
}

/// The keys and values that a tile sees.
struct Blocks<'a, E> {
    shape: &'a Shape,
    tile: &'a Tile,
    k: Stored<'a, E>,
    v: Stored<'a, E>,
    /// Cache blocks of the sequence.
    table: &'a [i32],
}

impl<'a, E: KvElement> Blocks<'a, E> {
    /// What a layer's keys or values have of block `i` of the sequence.
    #[inline(always)]
    fn get(&self, all: Stored<'a, E>, i: usize) -> Stored<'a, E> {
        let len = KV_BLOCK_SIZE * self.shape.head_dim;
        let part = self.table[i] as usize * self.shape.kv_heads + self.tile.kv_head;
        all.part(part, len)
    }

    /// Keys of block `i`, `[head_dim][KV_BLOCK_SIZE]`.
    #[inline(always)]
    fn keys(&self, i: usize) -> Stored<'a, E> {
        self.get(self.k, i)
    }

    /// Values of the step from `start`, each block's `[KV_BLOCK_SIZE][value_dim]`; those of blocks that
    /// none of `positions` lies in are left out. Where they are a part of the keys, they are brought
    /// to `transposed`.
    fn values<'s>(
        &self,
        start: usize,
        positions: &Range<usize>,
        transposed: &'s mut [E],
    ) -> StepValues<'s, E>
    where
        'a: 's,
    {
        let mut values = [Stored::NONE; STEP / KV_BLOCK_SIZE];
        let mut parts = transposed.chunks_exact_mut(KV_BLOCK_SIZE * self.shape.value_dim());
        for (i, values) in values.iter_mut().enumerate() {
            let (block, first) = (start / KV_BLOCK_SIZE + i, start + i * KV_BLOCK_SIZE);
            let to = parts.next();
            if first >= positions.end || first + KV_BLOCK_SIZE <= positions.start {
                continue;
            }
            *values = match to {
                Some(to) => transpose(self.keys(block), to),
                None => self.get(self.v, block),
            };
        }
        values
    }
}

/// Values of the blocks of a step.
type StepValues<'a, E> = [Stored<'a, E>; STEP / KV_BLOCK_SIZE];

/// Brings the first values of each key of a block, `[..][KV_BLOCK_SIZE]`, to `[KV_BLOCK_SIZE][..]`, as
/// many as there is room for. Scales are the same for keys and values.
fn transpose<'s, E: KvElement>(keys: Stored<'s, E>, to: &'s mut [E]) -> Stored<'s, E> {
    let dim = to.len() / KV_BLOCK_SIZE;
    let eights = keys.values.as_chunks::<{ LANES * KV_BLOCK_SIZE }>().0;
    for (at, eight) in (0..dim).step_by(LANES).zip(eights) {
        for (position, row) in to.chunks_exact_mut(dim).enumerate() {
            for (i, value) in row[at..at + LANES].iter_mut().enumerate() {
                *value = eight[i * KV_BLOCK_SIZE + position];
            }
        }
    }
    let scales = if E::SCALED { dim / KV_SCALE_GROUP * KV_BLOCK_SIZE } else { 0 };
    Stored { values: to, scales: &keys.scales[..scales] }
}

/// Scratch as elements of a cache, one for each of its numbers.
fn elements<E: KvElement>(scratch: &mut [f32]) -> &mut [E] {
    const { assert!(size_of::<E>() <= size_of::<f32>() && align_of::<E>() <= align_of::<f32>()) };
    // SAFETY: as many elements, none larger than what was there nor more aligned; they are numbers, for
    // which all bits are good.
    unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast(), scratch.len()) }
}

/// Rows `0..rows` in blocks of nearly equal size, at most [`MAX_ROWS`].
#[inline(always)]
fn row_blocks(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let blocks = rows.div_ceil(MAX_ROWS);
    (0..blocks).map(move |i| i * rows / blocks..(i + 1) * rows / blocks)
}

/// The tile's queries times the scale, `[rows][head_dim]`.
fn load_queries(shape: &Shape, tile: &Tile, q: &[f32], scaled: &mut [f32]) {
    let width = shape.group * shape.head_dim;
    for (token, scaled) in tile.tokens.clone().zip(scaled.chunks_exact_mut(width)) {
        // The heads of the group lie side by side.
        let q = &q[(token * shape.kv_heads + tile.kv_head) * width..][..width];
        for (scaled, q) in scaled.iter_mut().zip(q) {
            *scaled = q * shape.scale;
        }
    }
}

/// One split of the context, for all rows.
fn attend_split<E: KvElement>(
    isa: Isa,
    blocks: &Blocks<'_, E>,
    (q, transposed): (&[f32], &mut [E]),
    split: usize,
    state: &mut State<'_>,
) {
    let Blocks { shape, tile, .. } = *blocks;
    let first = tile.first_position;
    let seen = shape.visible_to_any(first..first + tile.tokens.len());
    let positions = seen.start.max(split * SPLIT)..seen.end.min((split + 1) * SPLIT);
    state.clear();
    for start in (positions.start / STEP * STEP..positions.end).step_by(STEP) {
        let values = &blocks.values(start, &positions, transposed);
        for rows in row_blocks(tile.rows(shape)) {
            let step = Step { blocks, values, q, start, row: rows.start, state: &mut *state };
            match rows.len() {
                1 => attend_step::<E, 1>(isa, step),
                2 => attend_step::<E, 2>(isa, step),
                3 => attend_step::<E, 3>(isa, step),
                4 => attend_step::<E, 4>(isa, step),
                5 => attend_step::<E, 5>(isa, step),
                _ => attend_step::<E, 6>(isa, step),
            }
        }
    }
}

/// A [`Step`] for `R` rows.
///
/// Compiled apart for each number of rows: inlined into one function, they take the compiler two
/// minutes.
#[inline(never)]
fn attend_step<E: KvElement, const R: usize>(isa: Isa, step: Step<'_, '_, '_, E>) {
    isa.dispatch(StepOf::<E, R>(step));
}

/// One step of the online softmax, for some rows from `row`.
struct Step<'a, 'b, 'c, E> {
    blocks: &'a Blocks<'b, E>,
    values: &'a StepValues<'a, E>,
    q: &'a [f32],
    /// Its first position.
    start: usize,
    row: usize,
    state: &'a mut State<'c>,
}

/// [`Step`] for `R` rows.
struct StepOf<'a, 'b, 'c, E, const R: usize>(Step<'a, 'b, 'c, E>);

impl<E: KvElement, const R: usize> Kernel for StepOf<'_, '_, '_, E, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        if const { R <= 2 || (R <= 4 && S::REGISTERS >= 32) } {
            self.run_in_passes::<S, 4>();
        } else {
            self.run_in_passes::<S, 2>();
        }
    }
}

impl<'a, E: KvElement, const R: usize> StepOf<'a, '_, '_, E, R> {
    /// Does it in passes of `P` registers.
    #[inline(always)]
    fn run_in_passes<S: Simd, const P: usize>(self) {
        let Step { blocks, values, q, start, row, state } = self.0;
        let Blocks { shape, tile, .. } = *blocks;
        let (dim, value_dim) = (shape.head_dim, shape.value_dim());
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
        let q = &q[row * dim..][..R * dim];
        let acc = &mut state.acc[row * value_dim..][..R * value_dim];
        // The first rows bring close what all rows will want next.
        let fetch = |block: Stored<'a, E>| if row == 0 { block } else { Stored::NONE };
        let mut s: Scores<R> = [[0.0; STEP]; R];
        for block in step_blocks.clone() {
            let k = blocks.keys(start / KV_BLOCK_SIZE + block);
            scores::<S, E, R, P>(q, k, fetch(values[block]), block * KV_BLOCK_SIZE, &mut s);
        }
        for (i, (scores, seen)) in s.iter_mut().zip(&seen).enumerate() {
            if seen.0 < seen.1 {
                let acc = &mut acc[i * value_dim..][..value_dim];
                let (max, total) = (&mut state.max[row + i], &mut state.total[row + i]);
                let (seen, softcap) = (seen.0..seen.1, shape.softcap);
                S::call(Softmax { scores, seen, softcap, max, total, acc });
            }
        }
        for block in step_blocks {
            let at = start / KV_BLOCK_SIZE + block;
            let next = (at + STEP / KV_BLOCK_SIZE).min(blocks.table.len() - 1);
            let next = fetch(blocks.keys(next));
            step_values::<S, E, R, P>(&s, &seen, block, values[block], next, acc);
        }
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
    v: Stored<'_, E>,
    next: Stored<'_, E>,
    acc: &mut [f32],
) {
    let at = block * KV_BLOCK_SIZE;
    let dim = acc.len() / R;
    let clip = |x: usize| within(x, at, KV_BLOCK_SIZE);
    let (first, last) = (clip(seen[R - 1].0), clip(seen[0].1));
    let together = first.min(last)..last;
    if together.len() == KV_BLOCK_SIZE {
        return add_values::<S, E, R, P>(s, at, together, v, next, acc);
    }
    for ((scores, seen), acc) in s.iter().zip(seen).zip(acc.chunks_exact_mut(dim)) {
        let positions = clip(seen.0)..clip(seen.1).min(together.start);
        S::call(AddAlone { scores, at, positions, v, acc });
    }
    add_values::<S, E, R, P>(s, at, together.clone(), v, next, acc);
    for ((scores, seen), acc) in s.iter().zip(seen).zip(acc.chunks_exact_mut(dim)) {
        let positions = together.end.max(clip(seen.0))..clip(seen.1);
        S::call(AddAlone { scores, at, positions, v, acc });
    }
}
