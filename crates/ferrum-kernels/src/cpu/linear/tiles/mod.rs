//! Packed weights times many tokens by matrix instructions (AMX): both are brought to bfloat16, in
//! tiles of 16 by 32, and a tile of products is summed over all columns in registers of its own.
//!
//! Integers would have to leave the tiles after every 32 columns, to be multiplied with their scales:
//! that costs more than the products, and makes them no faster than VNNI by more than half. bfloat16
//! has room for what a weight of a few bits and its scale come to, with an error of at most 2⁻⁸ of it;
//! activations are off by as much, which is less than as `i8` with a common scale.
//!
//! So a token's result is not to the bit what it is in a step of fewer than [`MIN_TOKENS`]; from there
//! on it does not depend on how many others are in the step. With rounded weights it never does.
//!
//! A thread takes some pairs of panels and goes through [`PART`] steps of 32 columns of all of them
//! at a time: the weights of a pair stay in the nearest cache, while the tokens are swept over them,
//! and the activations of a part and the sums so far in the next one.

#[cfg(target_arch = "x86_64")]
mod amx;
mod expand;
#[cfg(any(test, not(target_arch = "x86_64")))]
pub(super) mod plain;
#[cfg(not(target_arch = "x86_64"))]
use plain as amx;

use super::super::Isa;
use super::super::aligned::AlignedVec;
use super::super::shared::SharedSlice;
use super::super::team::Team;
use super::kernels::Kernels;
use super::multiply::PanelMemory;
use super::panel::{GROUPS, PANEL_ROWS, PANEL_STEPS};
use super::planes::STEP;
use super::shorts;
use super::weight::CpuWeight;
use crate::{PackedWeight, Result};
use expand::{Expand, ExpandShorts};
use std::ops::Range;

/// From this number of tokens on, unpacking weights to tiles pays. Measured.
pub(super) const MIN_TOKENS: usize = 64;

/// Tokens of a tile, and rows of a weight.
const SIDE: usize = PANEL_ROWS;

/// Tokens, and rows of a weight, that are multiplied at once: two tiles of each make four of results.
pub(super) const WIDE: usize = 2 * SIDE;

/// Values of a tile of activations or weights: 16 times the 32 columns of a step.
const TILE: usize = SIDE * STEP;

/// Steps gone through with all tokens before the next ones: 32 KiB of weights. A multiple of the steps
/// in any block, and no more than a panel holds.
const PART: usize = 16;
const _: () = assert!(PART.is_multiple_of(8) && PART <= PANEL_STEPS);

/// Tokens gone through with a part, at most.
const TOKENS: usize = 512;

/// Pairs of panels that a thread takes at a time, at most: their sums are 512 KiB.
const PAIRS: usize = 8;

/// Results of 32 tokens, of 32 rows each.
pub(super) type Results = [[f32; WIDE]; WIDE];

/// What multiplies tiles.
pub(super) struct TileKernels {
    /// Readies the tiles of the calling thread.
    begin: unsafe fn(),
    /// Gives them back.
    end: unsafe fn(),
    /// [`Product`]
    multiply: unsafe fn(Product),
    /// [`Expand`]
    expand: unsafe fn(&Expand<'_>, &mut [u16]),
    /// [`ExpandShorts`]
    expand_shorts: unsafe fn(&ExpandShorts<'_>, &mut [u16]),
    /// Rounds values to bfloat16.
    round: unsafe fn(&[f32; STEP], &mut [u16; STEP]),
}

/// 32 tokens times 32 rows.
#[derive(Clone, Copy)]
struct Product {
    /// Two tiles of activations for each step, one after the other: `[steps][16 tokens][32]`
    tokens: [*const u16; 2],
    /// `[steps][2][16 pairs of columns][16 rows][2]`
    weights: *const u16,
    /// Steps of 32 columns.
    steps: usize,
    /// [`Results`]
    results: *mut f32,
    /// Whether the products are added to them.
    add: bool,
}

/// The kernels for `isa`, where it has any.
pub(super) fn kernels(isa: Isa) -> Option<&'static TileKernels> {
    (isa == Isa::Amx).then_some(&amx::KERNELS)
}

/// Parts of the columns, in steps: about as long as each other, and of whole blocks.
fn parts(steps: usize) -> impl Iterator<Item = Range<usize>> {
    // The steps of the longest blocks, or of those that are rounded.
    let unit = [8, 2, 1].into_iter().find(|&unit| steps.is_multiple_of(unit)).unwrap_or(1);
    let len = steps.div_ceil(steps.div_ceil(PART)).next_multiple_of(unit);
    (0..steps).step_by(len).map(move |start| start..steps.min(start + len))
}

/// Activations as bfloat16: of each part `[tokens / 16][steps][16][32]`, the tokens rounded up to 32. So
/// those of a part lie together, and in places of a cache that are not each other's.
#[derive(Default)]
struct Activations {
    /// On cache lines, because a tile's rows are as long as those.
    values: Option<AlignedVec<u16>>,
}

impl Activations {
    /// Rounds those of `floats`, `[tokens][cols]`.
    fn round(
        &mut self,
        kernels: &TileKernels,
        team: &mut Team,
        (floats, cols): (&[f32], usize),
    ) -> Result<()> {
        let tokens = floats.len() / cols;
        let len = tokens.next_multiple_of(WIDE) * cols;
        let values = match &mut self.values {
            Some(values) if values.len() >= len => values,
            values => values.insert(AlignedVec::zeroed(len, "tiles of activations")?),
        };
        let values = SharedSlice::new(&mut values[..len]);
        team.chunks(tokens.div_ceil(SIDE), &|_, tile| {
            for part in parts(cols / STEP) {
                // SAFETY: each tile of tokens is written once.
                let out = unsafe { values.range_mut(place(tokens, tile, &part)) };
                let tokens = floats.chunks_exact(cols).skip(tile * SIDE).take(SIDE);
                for (t, token) in tokens.enumerate() {
                    let steps = &token.as_chunks::<STEP>().0[part.clone()];
                    for (x, out) in steps.iter().zip(out.as_chunks_mut::<TILE>().0) {
                        // SAFETY: kernels are given out for instruction sets that a stream has.
                        unsafe { (kernels.round)(x, &mut out.as_chunks_mut().0[t]) }
                    }
                }
            }
        });
        Ok(())
    }
}

/// Where [`Activations`] has a part of the columns of a tile of tokens.
fn place(tokens: usize, tile: usize, part: &Range<usize>) -> Range<usize> {
    let first = part.start * STEP * tokens.next_multiple_of(WIDE) + tile * part.len() * TILE;
    first..first + part.len() * TILE
}

/// Scratch of one thread.
pub(super) struct Memory {
    panel: PanelMemory,
    weights: AlignedVec<u16>,
    /// Sums of the pairs that the thread has taken: `[pairs][tokens / 32]`, each as [`Results`].
    sums: AlignedVec<f32>,
}

impl Memory {
    fn new() -> Result<Self> {
        const WHAT: &str = "tiles of weights and results";
        Ok(Memory {
            panel: PanelMemory::new()?,
            weights: AlignedVec::zeroed(PART * GROUPS * TILE, WHAT)?,
            sums: AlignedVec::zeroed(PAIRS * TOKENS * WIDE, WHAT)?,
        })
    }
}

/// What the tiles need between steps.
#[derive(Default)]
pub(super) struct Workspace {
    activations: Activations,
    /// One per thread.
    memory: Vec<Memory>,
}

/// Two panels whose results are made at once.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) weights: [&'a CpuWeight; 2],
    pub(super) panels: [usize; 2],
}

/// A linear's work.
pub(super) struct Work<'a> {
    pub(super) kernels: &'static TileKernels,
    /// `[tokens][cols]`
    pub(super) floats: &'a [f32],
    pub(super) cols: usize,
    pub(super) pairs: usize,
    /// The panels of each pair.
    pub(super) pair: &'a (dyn Fn(usize) -> Pair<'a> + Sync),
    /// Takes the results of a pair and of some tokens, at most 32; called once for each.
    pub(super) finish: &'a (dyn Fn(usize, Range<usize>, &mut Results) + Sync),
}

/// Whether the weight can be brought to tiles, and that pays with so many tokens. Rounded weights are
/// always brought to them, which takes little: so a text has the same vector in any batch.
pub(super) fn pay(weight: &CpuWeight, tokens: usize) -> bool {
    match weight.kernels {
        Kernels::Blocks(_) => tokens >= MIN_TOKENS,
        Kernels::Shorts(_) => true,
        Kernels::Floats(_) => false,
    }
}

/// Does all of it, in one parallel region.
pub(super) fn run(team: &mut Team, workspace: &mut Workspace, work: &Work<'_>) -> Result<()> {
    let Workspace { activations, memory } = workspace;
    while memory.len() < team.threads() {
        memory.push(Memory::new()?);
    }
    activations.round(work.kernels, team, (work.floats, work.cols))?;
    let values = activations.values.as_deref().unwrap_or_default();
    let memory = SharedSlice::new(memory);
    let per_chunk = work.pairs.div_ceil(2 * team.threads()).clamp(1, PAIRS);
    team.stream(work.pairs.div_ceil(per_chunk), &|thread, chunk| {
        // SAFETY: each thread uses the memory of its own number.
        let memory = unsafe { memory.range_mut(thread..thread + 1) };
        let pairs = chunk * per_chunk..work.pairs.min((chunk + 1) * per_chunk);
        // SAFETY: kernels are given out for instruction sets that a stream has.
        unsafe { (work.kernels.begin)() };
        work.multiply(pairs, values, &mut memory[0]);
        // SAFETY: likewise.
        unsafe { (work.kernels.end)() };
    });
    Ok(())
}

impl Work<'_> {
    /// Some pairs times all tokens.
    fn multiply(&self, pairs: Range<usize>, activations: &[u16], memory: &mut Memory) {
        let tokens = self.floats.len() / self.cols;
        for first in (0..tokens).step_by(TOKENS) {
            let block = first..tokens.min(first + TOKENS);
            for part in parts(self.cols / STEP) {
                for (slot, pair) in pairs.clone().enumerate() {
                    self.expand(pair, part.clone(), memory);
                    let sums = &mut memory.sums[slot * TOKENS * WIDE..];
                    self.sweep(
                        (pair, block.clone()),
                        part.clone(),
                        activations,
                        &memory.weights,
                        sums,
                    );
                }
            }
        }
    }

    /// Brings the weights of a pair to tiles, `part` of their steps.
    fn expand(&self, pair: usize, part: Range<usize>, memory: &mut Memory) {
        let Pair { weights, panels } = (self.pair)(pair);
        for (which, (weight, panel)) in weights.into_iter().zip(panels).enumerate() {
            let groups = weight.panel(panel);
            let kernels = match weight.kernels {
                Kernels::Blocks(kernels) => kernels,
                Kernels::Shorts(_) => {
                    let first = groups[0].unwrap_or_default();
                    let start = part.start * STEP / shorts::STEP * shorts::STEP_BYTES;
                    let groups = groups.map(|group| &group.unwrap_or(first)[start..]);
                    let from = ExpandShorts { groups, steps: part.len(), which };
                    // SAFETY: kernels are given out for instruction sets that a stream has.
                    unsafe { (self.kernels.expand_shorts)(&from, &mut memory.weights) }
                    continue;
                }
                // Not brought to tiles (`pay`).
                Kernels::Floats(_) => continue,
            };
            memory.panel.unpack(kernels, (groups, weight.cols() / STEP), part.clone());
            let (quants, scales, mins) = memory.panel.contents();
            let from =
                Expand { quants, scales, mins, meaning: kernels.meaning, steps: part.len(), which };
            // SAFETY: kernels are given out for instruction sets that a stream has.
            unsafe { (self.kernels.expand)(&from, &mut memory.weights) }
        }
    }

    /// Adds the products of a pair and some tokens to `sums`, and finishes them after the last part.
    fn sweep(
        &self,
        (pair, tokens): (usize, Range<usize>),
        part: Range<usize>,
        activations: &[u16],
        weights: &[u16],
        sums: &mut [f32],
    ) {
        let (all, last) = (self.floats.len() / self.cols, part.end == self.cols / STEP);
        let sums = sums.as_chunks_mut::<WIDE>().0.as_chunks_mut::<WIDE>().0;
        for (first, results) in tokens.clone().step_by(WIDE).zip(sums) {
            let tile = |i: usize| &activations[place(all, first / SIDE + i, &part)];
            let product = Product {
                tokens: [tile(0).as_ptr(), tile(1).as_ptr()],
                weights: weights[..part.len() * GROUPS * TILE].as_ptr(),
                steps: part.len(),
                results: results.as_flattened_mut().as_mut_ptr(),
                add: part.start > 0,
            };
            // SAFETY: tokens, weights and results are as many as said, by the slices above; kernels
            // are given out for instruction sets that a stream has.
            unsafe { (self.kernels.multiply)(product) }
            if last {
                (self.finish)(pair, first..tokens.end.min(first + WIDE), results);
            }
        }
    }
}
