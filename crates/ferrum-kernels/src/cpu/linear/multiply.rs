//! One panel of 16 rows of a weight times all tokens of a step.

use super::super::aligned::AlignedVec;
use super::activations::Block;
use super::dots::ROWS;
use super::float::FloatGemm;
use super::gemv::Gemv;
use super::kernels::{BlockKernels, ByTokens, Kernels};
use super::panel::{GROUPS, Gemm, PANEL_ROWS, PANEL_STEPS, Panel, STEP_BYTES, STEP_SCALES};
use super::planes::STEP;
use super::shorts::{self, PART, ShortGemm, ShortKernels};
use super::weight::CpuWeight;
use crate::{PackedWeight, Result};
use std::ops::Range;

/// From this number of tokens on, a panel is unpacked once for all of them. Below, it is cheaper to
/// unpack in registers, once for every few tokens. Measured: formats cross between 12 and 32.
const GEMM_TOKENS: usize = 24;

/// Above this number of tokens, weights of single numbers are multiplied with at most four at once:
/// eight make more of weights that come from memory, and are slower where the tokens do (0.83).
const EIGHT_TOKENS: usize = 16;

/// The input of a linear.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// Number of tokens.
    pub(super) tokens: usize,
    /// `[tokens][cols]`
    pub(super) floats: &'a [f32],
    /// `[tokens][cols / 32]`; empty where no weight asks for it.
    pub(super) blocks: &'a [Block],
    /// `[tokens][cols / 64]`; likewise.
    pub(super) shorts: &'a [shorts::Block],
}

/// Memory for a panel of unpacked weights.
pub(super) struct PanelMemory {
    quants: AlignedVec<u8>,
    scales: AlignedVec<f32>,
    mins: AlignedVec<f32>,
}

impl PanelMemory {
    pub(super) fn new() -> Result<Self> {
        const WHAT: &str = "a panel of unpacked weights";
        Ok(PanelMemory {
            quants: AlignedVec::zeroed(PANEL_STEPS * STEP_BYTES, WHAT)?,
            scales: AlignedVec::zeroed(PANEL_STEPS * STEP_SCALES, WHAT)?,
            mins: AlignedVec::zeroed(PANEL_STEPS * STEP_SCALES, WHAT)?,
        })
    }

    /// What kernels write to.
    pub(super) fn pointers(&mut self) -> Panel {
        Panel {
            quants: self.quants.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            mins: self.mins.as_mut_ptr(),
        }
    }

    /// Unpacks some steps of a panel's groups, whose rows have `stride` of them; the steps are whole
    /// blocks.
    pub(super) fn unpack(
        &mut self,
        kernels: &BlockKernels,
        (groups, stride): ([Option<&[u8]>; GROUPS], usize),
        steps: Range<usize>,
    ) {
        assert!(steps.len() <= PANEL_STEPS, "room for the steps");
        let block_bytes = groups[0].map_or(0, <[u8]>::len) / (stride / kernels.steps);
        for (g, group) in groups.into_iter().enumerate() {
            let Some(group) = group else { break };
            let weights = group[steps.start / kernels.steps * block_bytes..].as_ptr();
            // SAFETY: the group's blocks from there on are at least as many steps, which a panel has
            // room for.
            unsafe { (kernels.expand)(weights, steps.len() / kernels.steps, g, self.pointers()) }
        }
    }

    /// Quants, scales and minima, to read.
    pub(super) fn contents(&self) -> (&[u8], &[f32], &[f32]) {
        (&self.quants, &self.scales, &self.mins)
    }
}

/// Panel `panel` of `weight` times the tokens of `input`, to `out[tokens][16]`. Where a weight ends
/// within the panel, the results of rows that it does not have are meaningless.
pub(super) fn multiply(
    weight: &CpuWeight,
    panel: usize,
    input: &Input<'_>,
    memory: &mut PanelMemory,
    out: &mut [f32],
) {
    let cols = weight.cols();
    let groups = weight.panel(panel);
    assert!(out.len() >= input.tokens * PANEL_ROWS, "room for the results");
    match weight.kernels {
        Kernels::Floats(kernels) => {
            assert!(input.floats.len() >= input.tokens * cols, "the input of every token");
            floats(kernels, groups, cols, input, out);
        }
        Kernels::Blocks(kernels) => {
            assert!(input.blocks.len() >= input.tokens * (cols / STEP), "a quantised input");
            if input.tokens < GEMM_TOKENS {
                gemv(kernels, groups, cols / STEP, input, out);
            } else {
                gemm(kernels, groups, cols / STEP, input, memory, out);
            }
        }
        Kernels::Shorts(kernels) => {
            out[..input.tokens * PANEL_ROWS].fill(0.0);
            let place = Place { first: out.as_mut_ptr(), stride: PANEL_ROWS };
            // SAFETY: there is room for all tokens.
            unsafe { rounded((kernels, groups, cols), input, &place, &|_| {}) }
        }
    }
}

/// The tokens in tiles of the largest kernels: (first token, kernel).
fn tiles<P>(tokens: usize, kernels: ByTokens<P>) -> impl Iterator<Item = (usize, unsafe fn(P))> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = (tokens - first).checked_ilog2()? as usize;
        let kernel = left.min(kernels.len() - 1);
        let tile = (first, kernels[kernel]);
        first += 1 << kernel;
        Some(tile)
    })
}

fn floats(
    kernels: ByTokens<FloatGemm>,
    groups: [Option<&[u8]>; GROUPS],
    cols: usize,
    input: &Input<'_>,
    out: &mut [f32],
) {
    let first = groups[0].unwrap_or_default().as_ptr();
    let groups = groups.map(|group| group.map_or(first, <[u8]>::as_ptr));
    let largest = if input.tokens <= EIGHT_TOKENS { 8_usize } else { 4 };
    let kernels = &kernels[..kernels.len().min(largest.ilog2() as usize + 1)];
    for (token, kernel) in tiles(input.tokens, kernels) {
        let tokens = input.floats[token * cols..].as_ptr();
        let out = out[token * PANEL_ROWS..].as_mut_ptr();
        // SAFETY: a panel's first group exists; a group has `cols` columns; `multiply` has checked
        // the lengths of the input and of the results.
        unsafe { kernel(FloatGemm { groups, cols, tokens, out }) }
    }
}

/// Where results of a panel go: 16 values of each token.
pub(super) struct Place {
    pub(super) first: *mut f32,
    /// From a token's to the next.
    pub(super) stride: usize,
}

/// Adds the results of a weight that may be rounded to where they belong; `begin` makes what they are
/// added to, of each token.
///
/// # Safety
/// There must be room for the results of all tokens of `input`, and nobody else use it.
pub(super) unsafe fn rounded(
    (kernels, groups, cols): (&ShortKernels, [Option<&[u8]>; GROUPS], usize),
    input: &Input<'_>,
    place: &Place,
    begin: &dyn Fn(usize),
) {
    let stride = cols / shorts::STEP;
    assert!(input.shorts.len() >= input.tokens * stride, "a rounded input");
    let all = groups[0].unwrap_or_default();
    let groups = groups.map(|group| group.unwrap_or(all));
    for first in (0..stride).step_by(PART) {
        let steps = PART.min(stride - first);
        let groups = groups.map(|group| group[first * shorts::STEP_BYTES..].as_ptr());
        let mut token = 0;
        while token < input.tokens {
            let tile = kernels.gemm.len().min(input.tokens - token);
            if first == 0 {
                (token..token + tile).for_each(begin);
            }
            let tokens = input.shorts[token * stride + first..].as_ptr();
            let (out, out_stride) = (place.first.wrapping_add(token * place.stride), place.stride);
            let p = ShortGemm { groups, steps, tokens, stride, out, out_stride };
            // SAFETY: a group has `stride` steps; there is such an input of each token, and the
            // caller promises the place of the results.
            unsafe { (kernels.gemm[tile - 1])(p) }
            token += tile;
        }
    }
}

fn gemv(
    kernels: &BlockKernels,
    groups: [Option<&[u8]>; GROUPS],
    stride: usize,
    input: &Input<'_>,
    out: &mut [f32],
) {
    let blocks = stride / kernels.steps;
    for (g, group) in groups.into_iter().enumerate() {
        let Some(group) = group else { break };
        for (token, kernel) in tiles(input.tokens, kernels.gemv) {
            let p = Gemv {
                weights: group.as_ptr(),
                blocks,
                tokens: input.blocks[token * stride..].as_ptr(),
                stride,
                out: out[token * PANEL_ROWS + g * ROWS..].as_mut_ptr(),
            };
            // SAFETY: a group has `blocks` packed blocks; `multiply` has checked the lengths of
            // the input and of the results.
            unsafe { kernel(p) }
        }
    }
}

fn gemm(
    kernels: &BlockKernels,
    groups: [Option<&[u8]>; GROUPS],
    stride: usize,
    input: &Input<'_>,
    memory: &mut PanelMemory,
    out: &mut [f32],
) {
    out[..input.tokens * PANEL_ROWS].fill(0.0);
    let panel = memory.pointers();
    for first in (0..stride).step_by(PANEL_STEPS) {
        let steps = PANEL_STEPS.min(stride - first);
        memory.unpack(kernels, (groups, stride), first..first + steps);
        for (token, kernel) in tiles(input.tokens, kernels.gemm) {
            let p = Gemm {
                panel,
                steps,
                tokens: input.blocks[token * stride + first..].as_ptr(),
                stride,
                out: out[token * PANEL_ROWS..].as_mut_ptr(),
            };
            // SAFETY: the panel has just been filled with `steps` steps (its second half may hold
            // older ones, whose results are not used); `multiply` has checked the lengths of the
            // input and of the results.
            unsafe { kernel(p) }
        }
    }
}
