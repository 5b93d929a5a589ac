//! The state of the online softmax, and how the states of two splits become one.

use super::plan::Tile;
use super::{SPLIT, Shape, WriteOutputs, kernels, splits};
use crate::cpu::Isa;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::{Kernel, LANES, Simd};

/// State of the online softmax for the rows of a tile.
pub(super) struct State<'a> {
    /// Largest score so far `[rows]`.
    pub(super) max: &'a mut [f32],
    /// Sum of exp(score - max) `[rows]`.
    pub(super) total: &'a mut [f32],
    /// Sum of exp(score - max) · value `[rows, value_dim]`.
    pub(super) acc: &'a mut [f32],
}

impl<'a> State<'a> {
    /// Values that a state of `rows` rows takes.
    pub(super) fn len(rows: usize, value_dim: usize) -> usize {
        rows * (value_dim + 2)
    }

    /// The state in `memory`, of [`State::len`] values.
    pub(super) fn at(memory: &'a mut [f32], rows: usize) -> Self {
        let (max, rest) = memory.split_at_mut(rows);
        let (total, acc) = rest.split_at_mut(rows);
        State { max, total, acc }
    }

    /// Nothing seen yet.
    pub(super) fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
        self.acc.fill(0.0);
    }
}

/// Takes the state of split number `split` of a tile into another, for the rows that see something
/// of it. Splits must come in order; a row's first overwrites what was there.
pub(super) struct MergeSplit<'a, 'b, 'c> {
    pub(super) shape: &'a Shape,
    pub(super) tile: &'a Tile,
    pub(super) split: usize,
    pub(super) into: &'a mut State<'b>,
    pub(super) from: &'a State<'c>,
}

impl Kernel for MergeSplit<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let MergeSplit { shape, tile, split, into, from } = self;
        let dim = shape.value_dim();
        for row in 0..into.max.len() {
            let seen = splits(&shape.visible(tile.position(shape, row)));
            let acc = &mut into.acc[row * dim..][..dim];
            let other_acc = &from.acc[row * dim..][..dim];
            if split == seen.start {
                into.max[row] = from.max[row];
                into.total[row] = from.total[row];
                acc.copy_from_slice(other_acc);
            } else if seen.contains(&split) {
                let max = into.max[row].max(from.max[row]);
                let [mine, theirs] = kernels::exp_of::<S, 2>([into.max[row], from.max[row]], max);
                into.max[row] = max;
                into.total[row] = into.total[row] * mine + from.total[row] * theirs;
                combine::<S>(acc, mine, other_acc, theirs);
            }
        }
    }
}

/// `a = a · fa + b · fb`
#[inline(always)]
pub(super) fn combine<S: Simd>(a: &mut [f32], fa: f32, b: &[f32], fb: f32) {
    let (fa, fb) = (S::splat(fa), S::splat(fb));
    for (a, b) in a.as_chunks_mut::<LANES>().0.iter_mut().zip(b.as_chunks::<LANES>().0) {
        S::load(b).mul_add(fb, S::load(a).mul(fa)).store(a);
    }
}

/// Merges the splits of a tile that were computed apart, and writes its outputs.
pub(super) struct Merge<'a> {
    pub(super) isa: Isa,
    pub(super) shape: &'a Shape,
    pub(super) tile: &'a Tile,
    /// The states of its splits.
    pub(super) partials: &'a mut [f32],
    pub(super) scratch: &'a mut [f32],
    /// `[heads]`
    pub(super) sinks: Option<&'a [f32]>,
    /// `[T, heads · value_dim]`
    pub(super) dst: &'a SharedSlice<'a, f32>,
}

impl Merge<'_> {
    /// Does it.
    pub(super) fn run(self) {
        let Merge { isa, shape, tile, partials, scratch, sinks, dst } = self;
        let rows = tile.rows(shape);
        let len = State::len(rows, shape.value_dim());
        let mut merged = State::at(&mut scratch[..len], rows);
        for (split, partial) in tile.splits.clone().zip(partials.chunks_exact_mut(len)) {
            let from = &State::at(partial, rows);
            isa.dispatch(MergeSplit { shape, tile, split, into: &mut merged, from });
        }
        isa.dispatch(WriteOutputs { shape, tile, state: &merged, sinks, dst });
    }
}

const _: () = assert!(SPLIT.is_multiple_of(super::STEP), "a step lies within one split");
