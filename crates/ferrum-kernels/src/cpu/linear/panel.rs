//! Packed weights times many tokens: 16 rows are unpacked once into a panel that stays in the
//! nearest caches, then all tokens are swept over it.

use super::super::simd::Simd;
use super::activations::Block;
use super::dots::{Dots, ROWS, VECTOR};
use super::formats::{BlockFormat, Quants, vectors};
use super::planes::{STEP, VECTORS};
use super::products::{Step, Sums, Tile, Tokens, accumulate};
use std::ops::Range;

/// Groups of eight rows in a panel.
pub(super) const GROUPS: usize = 2;

/// Rows in a panel.
pub(super) const PANEL_ROWS: usize = GROUPS * ROWS;

/// Steps of 32 columns that a panel holds at most; a multiple of the steps in any block.
pub(super) const PANEL_STEPS: usize = 64;

/// Bytes of a step's quants in a panel.
pub(super) const STEP_BYTES: usize = VECTORS * GROUPS * VECTOR;

/// Scales (or minima) of a step in a panel.
pub(super) const STEP_SCALES: usize = 2 * GROUPS * ROWS;

/// A panel's memory: `PANEL_STEPS` times its size per step.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    /// `[steps][8 vectors][2 groups][32 bytes]`, the vectors as [`Dots::arrange`] leaves them.
    pub(super) quants: *mut u8,
    /// `[steps][2 halves][2 groups][8 rows]`
    pub(super) scales: *mut f32,
    /// Likewise.
    pub(super) mins: *mut f32,
}

/// Unpacks one group's blocks into a panel.
///
/// # Safety
/// `weights` must hold `blocks` packed blocks of `F`, `blocks · F::STEPS` be at most
/// [`PANEL_STEPS`], `group` below [`GROUPS`].
#[inline(always)]
pub(super) unsafe fn expand<D: Dots, F: BlockFormat>(
    weights: *const u8,
    blocks: usize,
    group: usize,
    panel: Panel,
) {
    for b in 0..blocks {
        // SAFETY: block b is one of `blocks`, and its steps are among those of the panel.
        unsafe {
            let block = weights.add(b * F::BYTES);
            let header = F::header::<D>(block);
            for step in 0..F::STEPS {
                let at = b * F::STEPS + step;
                let packed = block.add(F::HEADER_BYTES + step * F::BITS * STEP);
                let quants = panel.quants.add(at * STEP_BYTES);
                for (v, bytes) in D::arrange(vectors::<D, F>(packed)).into_iter().enumerate() {
                    D::store_bytes(quants.add((v * GROUPS + group) * VECTOR), bytes);
                }
                let scales = F::scales::<D>(&header, step);
                for sub in 0..F::Quants::SUBS {
                    let at = at * STEP_SCALES + (sub * GROUPS + group) * ROWS;
                    scales.scale[sub].store(eight(panel.scales.add(at)));
                    if F::Quants::MINS {
                        scales.min[sub].store(eight(panel.mins.add(at)));
                    }
                }
            }
        }
    }
}

/// # Safety
/// Eight values must be there, and not be in use.
#[inline(always)]
unsafe fn eight<'a>(p: *mut f32) -> &'a mut [f32] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(p, ROWS) }
}

/// What a kernel needs to multiply a panel with some tokens.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    /// The panel.
    pub(super) panel: Panel,
    /// Steps in it.
    pub(super) steps: usize,
    /// Activation blocks of the first token, from the panel's first column on.
    pub(super) tokens: *const Block,
    /// Activation blocks of a token.
    pub(super) stride: usize,
    /// `[tokens][16 rows]`, added to.
    pub(super) out: *mut f32,
}

/// A step of a panel.
struct PanelStep {
    quants: *const u8,
    scales: *const f32,
    mins: *const f32,
}

// SAFETY of the blocks below: `gemm` makes steps that are in the panel, and v, sub and r are below
// VECTORS, 2 and GROUPS.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one comment for all, above")]
impl<D: Dots> Step<D> for PanelStep {
    #[inline(always)]
    unsafe fn sums<Q: Quants, const R: usize, const T: usize>(
        &self,
        tokens: Tokens,
        halves: Range<usize>,
    ) -> Sums<D, R, T> {
        let vector = |v, r| unsafe { D::load_bytes(self.quants.add((v * GROUPS + r) * VECTOR)) };
        unsafe { D::panel_sums::<Q, R, T>(vector, tokens, halves) }
    }

    #[inline(always)]
    fn scale(&self, sub: usize, r: usize) -> D::Floats {
        unsafe { D::load_f32(self.scales.add((sub * GROUPS + r) * ROWS).cast()) }
    }

    #[inline(always)]
    fn min(&self, sub: usize, r: usize) -> D::Floats {
        unsafe { D::load_f32(self.mins.add((sub * GROUPS + r) * ROWS).cast()) }
    }
}

/// The 16 rows of a panel times `T` tokens.
///
/// # Safety
/// The panel must hold `steps` steps with quants `Q`; `tokens` must have `T` times `stride` blocks
/// less those before the panel's first column; `out` `T` times 16 values.
#[inline(always)]
pub(super) unsafe fn gemm<D: Dots, Q: Quants, const T: usize>(p: Gemm) {
    let mut tile: Tile<D, GROUPS, T> = [[D::Floats::splat(0.0); GROUPS]; T];
    for (i, sums) in tile.as_flattened_mut().iter_mut().enumerate() {
        // SAFETY: there are 16 values of each token.
        *sums = unsafe { D::load_f32(p.out.add(i * ROWS).cast()) };
    }
    for s in 0..p.steps {
        // SAFETY: step s is in the panel, and each of the T tokens has a block for it.
        unsafe {
            let step = PanelStep {
                quants: p.panel.quants.add(s * STEP_BYTES),
                scales: p.panel.scales.add(s * STEP_SCALES),
                mins: p.panel.mins.add(s * STEP_SCALES),
            };
            let tokens = Tokens { first: p.tokens.add(s), stride: p.stride };
            accumulate::<D, Q, GROUPS, T>(&mut tile, &step, tokens);
        }
    }
    for (i, sums) in tile.as_flattened().iter().enumerate() {
        // SAFETY: as for loading.
        sums.store(unsafe { eight(p.out.add(i * ROWS)) });
    }
}
