//! Packed weights times a few tokens: weights are streamed from memory once, in order, and
//! unpacked in registers.

use super::super::simd::Simd;
use super::activations::Block;
use super::dots::{Dots, ROWS};
use super::formats::{BlockFormat, vectors};
use super::panel::PANEL_ROWS;
use super::planes::STEP;
use super::products::{Tokens, Unpacked, accumulate};

/// How far ahead of the weights in use memory is asked for. Measured; from 1 to 2 KB all the same.
const AHEAD: usize = 2048;

/// Bytes of a cache line.
const LINE: usize = 64;

/// What a kernel needs to multiply one group of eight rows.
#[derive(Clone, Copy)]
pub(super) struct Gemv {
    /// The group's packed blocks.
    pub(super) weights: *const u8,
    /// Packed blocks in the group.
    pub(super) blocks: usize,
    /// Activations of the first token.
    pub(super) tokens: *const Block,
    /// Activation blocks of a token.
    pub(super) stride: usize,
    /// Eight results of the first token; those of the next are [`PANEL_ROWS`] further.
    pub(super) out: *mut f32,
}

/// Eight rows times `T` tokens.
///
/// # Safety
/// `weights` must hold `blocks` packed blocks of `F`, `tokens` `T` times `stride` activation
/// blocks, `stride` being `blocks · F::STEPS`; `out` must have room for the results.
#[inline(always)]
pub(super) unsafe fn gemv<D: Dots, F: BlockFormat, const T: usize>(p: Gemv) {
    let mut tile = [[D::Floats::splat(0.0)]; T];
    for b in 0..p.blocks {
        // SAFETY: block b is one of `blocks`; so are its header and steps; the activation blocks
        // of each token are `stride` in number, one for each step.
        unsafe {
            let block = p.weights.add(b * F::BYTES);
            let header = F::header::<D>(block);
            prefetch::<D>(block, F::HEADER_BYTES);
            for step in 0..F::STEPS {
                let quants = block.add(F::HEADER_BYTES + step * F::BITS * STEP);
                prefetch::<D>(quants, F::BITS * STEP);
                let unpacked = Unpacked::<D> {
                    vectors: vectors::<D, F>(quants),
                    scales: F::scales::<D>(&header, step),
                };
                let at = b * F::STEPS + step;
                let tokens = Tokens { first: p.tokens.add(at), stride: p.stride };
                accumulate::<D, F::Quants, 1, T>(&mut tile, &unpacked, tokens);
            }
        }
    }
    for (t, [row]) in tile.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(p.out.add(t * PANEL_ROWS), ROWS) };
        row.store(out);
    }
}

/// Asks for what lies [`AHEAD`] of `bytes` bytes at `p`.
#[inline(always)]
pub(super) fn prefetch<D: Dots>(p: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE) {
        // The address may lie past the weights: it is not read through.
        D::prefetch_once(p.wrapping_add(AHEAD + line * LINE));
    }
}
