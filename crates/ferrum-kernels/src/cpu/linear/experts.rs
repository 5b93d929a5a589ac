//! Linears over the experts of a mixture: each token has its own few of a stack's matrices.
//!
//! The slots of a step (a token's share of one expert) are sorted by expert and their inputs laid
//! side by side, so that a panel of an expert is multiplied once with all tokens that chose it: in
//! prefill it is unpacked once for them, in decode the experts in use are read once. The sums of a
//! token run over its experts in the order of their numbers, which is the same in every step.

use super::super::shared::SharedSlice;
use super::super::{Cpu, CpuStream, NAME, math};
use super::activations::Block;
use super::kernels::Kernels;
use super::multiply::{Input, multiply};
use super::panel::PANEL_ROWS;
use super::planes::STEP;
use super::weight::CpuWeight;
use super::{CHUNKS_PER_THREAD, Scratch, is_quantized};
use crate::checks::{self, ExpertCombineView, ExpertGatedLinearView};
use crate::host::{HostBuffer, grow};
use crate::params::{ExpertCombine, ExpertGatedLinear};
use crate::{KernelError, PackedWeight, Result};
use std::ops::Range;

/// Rows of a gather worth a chunk of their own.
const GATHER_CHUNK: usize = 32;

/// Scratch of the experts' linears, kept between steps.
#[derive(Default)]
pub(super) struct Workspace {
    buckets: Buckets,
    /// Quantised inputs, in the order of the buckets.
    blocks: Vec<Block>,
    /// Inputs, likewise; for weights of single numbers.
    floats: Vec<f32>,
}

/// The slots of a step by expert. Slot `t · k + j` is token `t`'s share of its expert `j`.
#[derive(Default)]
struct Buckets {
    /// Slots in the order of their experts, and within an expert in their own.
    slots: Vec<usize>,
    /// The experts that have any, in the order of their numbers.
    used: Vec<Bucket>,
    /// Per expert: where its slots end.
    ends: Vec<usize>,
}

/// The slots of one expert, as a range of [`Buckets::slots`].
struct Bucket {
    expert: usize,
    range: Range<usize>,
}

impl Buckets {
    /// Sorts slots by the experts in `ids`, all below `experts`.
    fn sort(&mut self, ids: &[i32], experts: usize) -> Result<()> {
        grow(&mut self.slots, ids.len())?;
        grow(&mut self.ends, experts)?;
        let ends = &mut self.ends[..experts];
        ends.fill(0);
        ids.iter().for_each(|&id| ends[id as usize] += 1);
        self.used.clear();
        let mut start = 0;
        for (expert, end) in ends.iter_mut().enumerate() {
            let range = start..start + *end;
            // For now the start: the slots below move it to the end.
            *end = start;
            start = range.end;
            if !range.is_empty() {
                self.used.push(Bucket { expert, range });
            }
        }
        for (slot, &id) in ids.iter().enumerate() {
            let next = &mut ends[id as usize];
            self.slots[*next] = slot;
            *next += 1;
        }
        Ok(())
    }

    /// Slots of the expert that has the most.
    fn largest(&self) -> usize {
        self.used.iter().map(|bucket| bucket.range.len()).max().unwrap_or(0)
    }
}

/// What the slots of a step are multiplied with.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// `[rows][cols]`
    floats: &'a [f32],
    cols: usize,
    /// Slots that share a row of `floats`.
    slots_per_row: usize,
    /// `[slots]`
    ids: &'a [i32],
}

/// Sorts the slots and lays their inputs side by side, in the form that the weights ask for.
fn prepare(s: &mut CpuStream, source: Source<'_>, weights: &[&CpuWeight]) -> Result<()> {
    let Source { floats, cols, slots_per_row, ids } = source;
    if weights.iter().any(|w| matches!(w.kernels, Kernels::Shorts(_))) {
        let what = "experts of which numbers may be rounded".into();
        return Err(KernelError::Unsupported { backend: NAME, what });
    }
    let quantized = weights.iter().any(|w| is_quantized(w));
    // Results are reserved below, for the tokens of one expert.
    super::prepare(s, 0, floats, weights.iter().copied())?;
    let slots = ids.len();
    s.linear.experts.buckets.sort(ids, weights.first().map_or(0, |w| w.experts()))?;
    s.linear.reserve(s.team.threads(), s.linear.experts.buckets.largest())?;
    let work = &mut s.linear.experts;
    let row = |i: usize| work.buckets.slots[i] / slots_per_row;
    let chunks = slots.div_ceil(GATHER_CHUNK);
    let range = |chunk: usize| chunk * GATHER_CHUNK..slots.min((chunk + 1) * GATHER_CHUNK);
    if quantized {
        let width = cols / STEP;
        grow(&mut work.blocks, slots * width)?;
        let (from, to) = (&s.linear.blocks, SharedSlice::new(&mut work.blocks));
        s.team.chunks(chunks, &|_, chunk| {
            for i in range(chunk) {
                // SAFETY: each row is written once.
                let to = unsafe { to.range_mut(i * width..(i + 1) * width) };
                to.copy_from_slice(&from[row(i) * width..][..width]);
            }
        });
    }
    if !weights.iter().all(|w| is_quantized(w)) {
        grow(&mut work.floats, slots * cols)?;
        let to = SharedSlice::new(&mut work.floats);
        s.team.chunks(chunks, &|_, chunk| {
            for i in range(chunk) {
                // SAFETY: each row is written once.
                let to = unsafe { to.range_mut(i * cols..(i + 1) * cols) };
                to.copy_from_slice(&floats[row(i) * cols..][..cols]);
            }
        });
    }
    Ok(())
}

impl Workspace {
    /// The inputs of a bucket.
    fn input(&self, bucket: &Bucket, cols: usize) -> Input<'_> {
        fn part<'a, T>(values: &'a [T], range: &Range<usize>, width: usize) -> &'a [T] {
            values.get(range.start * width..range.end * width).unwrap_or_default()
        }
        Input {
            tokens: bucket.range.len(),
            floats: part(&self.floats, &bucket.range, cols),
            blocks: part(&self.blocks, &bucket.range, cols / STEP),
            // Stacks are not rounded.
            shorts: &[],
        }
    }
}

/// [`crate::Backend::expert_gated_linear`]
pub(in super::super) fn expert_gated_linear(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &ExpertGatedLinear<'_, Cpu>,
) -> Result<()> {
    let ExpertGatedLinearView { input: floats, ids, dst } = checks::expert_gated_linear(dst, p)?;
    let (gate, up) = (p.gate, p.up);
    let source = Source { floats, cols: gate.cols(), slots_per_row: p.used, ids };
    prepare(s, source, &[gate, up])?;
    let (isa, threads, work) = (s.isa, s.team.threads(), &s.linear.experts);
    let (rows, panels) = (gate.rows(), gate.panels());
    let (dst, scratch) = (SharedSlice::new(dst), SharedSlice::new(&mut s.linear.scratch));
    // Panels of one expert follow one another, so that its inputs stay in the cache.
    let total = work.buckets.used.len() * panels;
    let per_chunk = total.div_ceil(CHUNKS_PER_THREAD * threads).max(1);
    s.team.stream(total.div_ceil(per_chunk), &|thread, chunk| {
        // SAFETY: each thread uses the scratch of its own number.
        let scratch = unsafe { scratch.range_mut(thread..thread + 1) };
        let Scratch { panel: memory, results: [gates, ups] } = &mut scratch[0];
        for i in chunk * per_chunk..total.min((chunk + 1) * per_chunk) {
            let (bucket, panel) = (&work.buckets.used[i / panels], i % panels);
            let input = work.input(bucket, gate.cols());
            multiply(gate, bucket.expert * panels + panel, &input, memory, gates);
            multiply(up, bucket.expert * panels + panel, &input, memory, ups);
            let len = input.tokens * PANEL_ROWS;
            math::gate(isa, p.activation, &mut gates[..len], &ups[..len]);
            let (first, last) = (panel * PANEL_ROWS, rows.min((panel + 1) * PANEL_ROWS));
            let slots = &work.buckets.slots[bucket.range.clone()];
            for (&slot, gates) in slots.iter().zip(gates.chunks_exact(PANEL_ROWS)) {
                // SAFETY: a slot is in one bucket, and a panel is given to one thread.
                let dst = unsafe { dst.range_mut(slot * rows + first..slot * rows + last) };
                dst.copy_from_slice(&gates[..last - first]);
            }
        }
    });
    Ok(())
}

/// [`crate::Backend::expert_combine`]
pub(in super::super) fn expert_combine(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &ExpertCombine<'_, Cpu>,
) -> Result<()> {
    /// Panels of all experts that a thread adds up at a time: their sums and the inputs of an
    /// expert stay in the cache.
    const PANELS: usize = 8;
    let ExpertCombineView { input: floats, ids, weights, dst } = checks::expert_combine(dst, p)?;
    let weight = p.weight;
    let source = Source { floats, cols: weight.cols(), slots_per_row: 1, ids };
    prepare(s, source, &[weight])?;
    let (threads, work) = (s.team.threads(), &s.linear.experts);
    let (dst, scratch) = (SharedSlice::new(dst), SharedSlice::new(&mut s.linear.scratch));
    let panels = weight.panels();
    let per_chunk = panels.div_ceil(4 * threads).min(PANELS);
    s.team.stream(panels.div_ceil(per_chunk), &|thread, chunk| {
        // SAFETY: each thread uses the scratch of its own number.
        let scratch = unsafe { scratch.range_mut(thread..thread + 1) };
        let range = chunk * per_chunk..panels.min((chunk + 1) * per_chunk);
        let sums = Sums { weight, tokens: p.rows, used: p.used, weights, dst: &dst };
        // SAFETY: each range of panels is given to one thread.
        unsafe {
            if !p.accumulate {
                sums.clear(&range);
            }
            sums.add(work, range, &mut scratch[0]);
        }
    });
    Ok(())
}

/// Where [`expert_combine`] adds up.
struct Sums<'a> {
    weight: &'a CpuWeight,
    tokens: usize,
    /// Slots of a token.
    used: usize,
    /// Factor of each slot.
    weights: &'a [f32],
    /// `[tokens][rows]`
    dst: &'a SharedSlice<'a, f32>,
}

impl Sums<'_> {
    /// The results of some panels for one token.
    ///
    /// # Safety
    /// No other thread may use those of the same panels.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    unsafe fn of(&self, token: usize, panels: &Range<usize>) -> &mut [f32] {
        let rows = self.weight.rows();
        let (first, last) = (panels.start * PANEL_ROWS, rows.min(panels.end * PANEL_ROWS));
        // SAFETY: the rows of a panel are those of no other, and of no other token.
        unsafe { self.dst.range_mut(token * rows + first..token * rows + last) }
    }

    /// Sets the results of some panels to zero.
    ///
    /// # Safety
    /// No other thread may use those of the same panels.
    unsafe fn clear(&self, panels: &Range<usize>) {
        for token in 0..self.tokens {
            // SAFETY: the caller's promise.
            unsafe { self.of(token, panels) }.fill(0.0);
        }
    }

    /// Adds the products of all experts in use with some panels of theirs.
    ///
    /// # Safety
    /// No other thread may use the results of the same panels.
    unsafe fn add(&self, work: &Workspace, panels: Range<usize>, scratch: &mut Scratch) {
        let Scratch { panel: memory, results: [results, _] } = scratch;
        for bucket in &work.buckets.used {
            let input = work.input(bucket, self.weight.cols());
            let slots = &work.buckets.slots[bucket.range.clone()];
            for panel in panels.clone() {
                let at = bucket.expert * self.weight.panels() + panel;
                multiply(self.weight, at, &input, memory, results);
                for (&slot, results) in slots.iter().zip(results.chunks_exact(PANEL_ROWS)) {
                    let factor = self.weights[slot];
                    // SAFETY: the caller's promise.
                    let sums = unsafe { self.of(slot / self.used, &(panel..panel + 1)) };
                    for (sum, result) in sums.iter_mut().zip(results) {
                        *sum += factor * result;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_sorted_by_expert_and_then_by_token() {
        let mut buckets = Buckets::default();
        // Four tokens of two experts each; the second sort must not see the first.
        buckets.sort(&[0, 1, 2, 3, 4, 5, 6, 7, 7, 7], 8).unwrap();
        buckets.sort(&[5, 1, 3, 5, 1, 0, 5, 3], 7).unwrap();
        let found: Vec<_> = (buckets.used.iter())
            .map(|b| (b.expert, buckets.slots[b.range.clone()].to_vec()))
            .collect();
        let want = [(0, vec![5]), (1, vec![1, 4]), (3, vec![2, 7]), (5, vec![0, 3, 6])].to_vec();
        assert_eq!(found, want);
        assert_eq!(buckets.largest(), 3);
    }
}
