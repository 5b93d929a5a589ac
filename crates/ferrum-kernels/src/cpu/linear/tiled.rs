//! The linears of many tokens in [`tiles`].

use super::super::shared::SharedSlice;
use super::super::{Cpu, CpuStream, math};
use super::panel::PANEL_ROWS;
use super::tiles::{self, Results, TileKernels};
use super::weight::CpuWeight;
use super::{Job, REGION_OUTPUTS, new_job};
use crate::params::{GatedLinear, LinearOutput};
use crate::{PackedWeight, Result};
use std::ops::Range;

/// What multiplies so many tokens in tiles, where that pays and suits all weights.
pub(super) fn kernels<'a>(
    s: &CpuStream,
    tokens: usize,
    mut weights: impl Iterator<Item = &'a CpuWeight>,
) -> Option<&'static TileKernels> {
    let kernels = tiles::kernels(s.isa)?;
    weights.all(|weight| tiles::pay(weight, tokens)).then_some(kernels)
}

/// [`crate::Backend::linear`] of weights that suit, whose columns are in the order of the input.
pub(super) fn linear(
    s: &mut CpuStream,
    kernels: &'static TileKernels,
    (tokens, floats): (usize, &[f32]),
    outputs: &mut [LinearOutput<'_, Cpu>],
) -> Result<()> {
    let cols = floats.len() / tokens;
    for outputs in outputs.chunks_mut(REGION_OUTPUTS) {
        let mut jobs: [Option<Job<'_>>; REGION_OUTPUTS] = [const { None }; REGION_OUTPUTS];
        for (job, output) in jobs.iter_mut().zip(outputs) {
            *job = Some(new_job(tokens, output)?);
        }
        let pairs = |job: &Job<'_>| job.weight.panels().div_ceil(2);
        // The job that a pair belongs to, and which of its own it is.
        let find = |mut pair: usize| {
            let found = jobs.iter().flatten().find_map(|job| {
                let own = pairs(job);
                let found = (pair < own).then_some((job, pair));
                pair = pair.wrapping_sub(own);
                found
            });
            found.expect("a pair of one of the jobs")
        };
        let pair = |i: usize| {
            let (job, pair) = find(i);
            // Where there is no second panel, the first once more.
            let second = (2 * pair + 1).min(job.weight.panels() - 1);
            tiles::Pair { weights: [job.weight; 2], panels: [2 * pair, second] }
        };
        let finish = |i: usize, tokens: Range<usize>, results: &mut Results| {
            let (job, pair) = find(i);
            for (t, results) in tokens.zip(results) {
                // SAFETY: each pair is given to one thread.
                unsafe { add(job, pair * tiles::WIDE, t, results) }
            }
        };
        let pairs = jobs.iter().flatten().map(pairs).sum();
        let work = tiles::Work { kernels, floats, cols, pairs, pair: &pair, finish: &finish };
        tiles::run(&mut s.team, &mut s.linear.tiles, &work)?;
    }
    Ok(())
}

/// [`crate::Backend::gated_linear`], likewise: a pair is a panel of the gate and one of the other.
pub(super) fn gated_linear(
    s: &mut CpuStream,
    kernels: &'static TileKernels,
    (floats, dst): (&[f32], &mut [f32]),
    p: &GatedLinear<'_, Cpu>,
) -> Result<()> {
    let (isa, weights) = (s.isa, [p.gate, p.up]);
    let job = Job { weight: p.gate, dst: SharedSlice::new(dst), bias: None, accumulate: false };
    let pair = |i: usize| tiles::Pair { weights, panels: [i; 2] };
    let finish = |pair: usize, tokens: Range<usize>, results: &mut Results| {
        for (t, results) in tokens.zip(results) {
            let (gates, ups) = results.split_at_mut(PANEL_ROWS);
            math::gate(isa, p.activation, gates, ups);
            // SAFETY: each pair is given to one thread.
            unsafe { add(&job, pair * PANEL_ROWS, t, gates) }
        }
    };
    let (pairs, cols) = (p.gate.panels(), p.gate.cols());
    let work = tiles::Work { kernels, floats, cols, pairs, pair: &pair, finish: &finish };
    tiles::run(&mut s.team, &mut s.linear.tiles, &work)
}

/// Writes the results of some rows, from `first` on, and one token to where they belong; those of rows
/// that the weight does not have are left out.
///
/// # Safety
/// No other thread may write the same rows of the job at the same time.
unsafe fn add(job: &Job<'_>, first: usize, token: usize, results: &[f32]) {
    let rows = job.weight.rows();
    let last = rows.min(first + results.len());
    // SAFETY: the caller's promise; no token has the rows of another.
    let dst = unsafe { job.dst.range_mut(token * rows + first..token * rows + last) };
    for (i, (dst, result)) in dst.iter_mut().zip(results).enumerate() {
        let result = result + job.bias.map_or(0.0, |bias| bias[first + i]);
        *dst = if job.accumulate { *dst + result } else { result };
    }
}
