//! Linear layers over packed weights.
//!
//! A weight is packed once, at load: eight rows are interleaved so that the lanes of a vector are
//! rows, in exactly the bytes of the file. One layout serves a single token ([`gemv`]: unpacked in
//! registers) and many ([`panel`]: unpacked once for all tokens). Activations are quantised once
//! per input to `i8` with a scale per 32 ([`activations`]) and shared by all outputs. Work is
//! divided into panels of 16 rows of all outputs ([`multiply`]), in one parallel region.
//!
//! [`formats`] says how each format is packed and unpacked, [`dots`] what the instruction sets
//! are asked for, [`products`] in which order results are summed, [`kernels`] compiles the
//! combinations; `wide` is the panel kernel of AVX-512.

mod activations;
mod columns;
mod dots;
mod embed;
mod experts;
mod float;
mod formats;
mod gemv;
mod kernels;
mod multiply;
mod packing;
mod panel;
mod peak;
mod planes;
mod products;
mod shorts;
mod weight;
#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(test)]
mod tests;

pub(super) use embed::embed;
pub(super) use experts::{expert_combine, expert_gated_linear};
pub(super) use peak::{dot_operations, dot_products};
pub use weight::CpuWeight;
pub(super) use weight::{pack, packed_bytes, supported};

use super::math;
use super::shared::SharedSlice;
use super::{Cpu, CpuStream, split_rows};
use crate::checks::{self, GatedLinearView};
use crate::host::{HostBuffer, grow};
use crate::params::{GatedLinear, Linear, LinearOutput};
use crate::{PackedWeight, Result};
use activations::Block;
use kernels::Kernels;
use multiply::{Input, PanelMemory, Place, multiply, rounded};
use panel::PANEL_ROWS;
use planes::STEP;
use std::ops::Range;

/// Outputs computed in one parallel region.
const REGION_OUTPUTS: usize = 8;

/// Chunks per thread of a region with few tokens: enough to even out the threads.
const CHUNKS_PER_THREAD: usize = 16;

/// Scratch of the linears, kept between steps: it grows to the largest step and is then reused.
#[derive(Default)]
pub(crate) struct Workspace {
    /// An input in the order of a weight's columns.
    arranged: Vec<f32>,
    /// The second products of a gated linear whose weights want different orders.
    ups: Vec<f32>,
    blocks: Vec<Block>,
    shorts: Vec<shorts::Block>,
    /// One per thread.
    scratch: Vec<Scratch>,
    experts: experts::Workspace,
}

/// Scratch of one thread.
struct Scratch {
    panel: PanelMemory,
    /// `[tokens][16 rows]`, the results of up to two weights.
    results: [Vec<f32>; 2],
}

impl Workspace {
    /// Makes room for `threads` threads and the results of `tokens` tokens.
    fn reserve(&mut self, threads: usize, tokens: usize) -> Result<()> {
        while self.scratch.len() < threads {
            self.scratch.push(Scratch { panel: PanelMemory::new()?, results: Default::default() });
        }
        for results in self.scratch.iter_mut().flat_map(|s| &mut s.results) {
            grow(results, tokens * PANEL_ROWS)?;
        }
        Ok(())
    }
}

/// One output of a region.
struct Job<'a> {
    weight: &'a CpuWeight,
    dst: SharedSlice<'a, f32>,
    bias: Option<&'a [f32]>,
    accumulate: bool,
}

impl Job<'_> {
    /// The bias of some rows of a panel, and zeros for those that it has not.
    fn bias(&self, rows: Range<usize>) -> [f32; PANEL_ROWS] {
        let mut bias = [0.0; PANEL_ROWS];
        if let Some(all) = self.bias {
            bias[..rows.len()].copy_from_slice(&all[rows]);
        }
        bias
    }
}

/// [`crate::Backend::linear`]
pub(super) fn linear(s: &mut CpuStream, p: Linear<'_, '_, Cpu>) -> Result<()> {
    checks::linear(&p)?;
    let Some(first) = p.outputs.first() else { return Ok(()) };
    let floats = p.input.f32("linear", p.rows * first.weight.cols())?;
    for outputs in p.outputs.chunk_by_mut(|a, b| a.weight.columns() == b.weight.columns()) {
        let columns = outputs[0].weight.columns();
        columns::arranged(s, floats, columns, |s, floats| outputs_of(s, p.rows, floats, outputs))?;
    }
    Ok(())
}

/// Outputs of an input that is in the order of their columns.
fn outputs_of(
    s: &mut CpuStream,
    tokens: usize,
    floats: &[f32],
    outputs: &mut [LinearOutput<'_, Cpu>],
) -> Result<()> {
    prepare(s, tokens, floats, outputs.iter().map(|o| o.weight))?;
    for outputs in outputs.chunks_mut(REGION_OUTPUTS) {
        let mut jobs: [Option<Job<'_>>; REGION_OUTPUTS] = [const { None }; REGION_OUTPUTS];
        for (job, output) in jobs.iter_mut().zip(outputs) {
            *job = Some(new_job(tokens, output)?);
        }
        run(s, tokens, floats, &jobs);
    }
    Ok(())
}

/// [`crate::Backend::gated_linear`]
pub(super) fn gated_linear(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &GatedLinear<'_, Cpu>,
) -> Result<()> {
    let GatedLinearView { input: floats, dst } = checks::gated_linear(dst, p)?;
    let (gate, up) = (p.gate, p.up);
    if gate.columns() != up.columns() {
        return gated_apart(s, floats, dst, p);
    }
    columns::arranged(s, floats, gate.columns(), |s, floats| {
        prepare(s, p.rows, floats, [gate, up].into_iter())?;
        let job = Job { weight: gate, dst: SharedSlice::new(dst), bias: None, accumulate: false };
        let isa = s.isa;
        region(s, p.rows, floats, gate.panels(), &|panel, input, scratch| {
            let Scratch { panel: memory, results: [gates, ups] } = scratch;
            multiply(gate, panel, input, memory, gates);
            multiply(up, panel, input, memory, ups);
            let len = input.tokens * PANEL_ROWS;
            math::gate(isa, p.activation, &mut gates[..len], &ups[..len]);
            // SAFETY: each panel is given to one thread.
            unsafe { store(&job, panel, input.tokens, gates) }
        });
        Ok(())
    })
}

/// The same where the two weights have their columns in different orders, one product after the other.
fn gated_apart(
    s: &mut CpuStream,
    floats: &[f32],
    dst: &mut [f32],
    p: &GatedLinear<'_, Cpu>,
) -> Result<()> {
    let mut ups = std::mem::take(&mut s.linear.ups);
    grow(&mut ups, dst.len())?;
    let ups_of = &mut ups[..dst.len()];
    for (weight, dst) in [(p.gate, &mut *dst), (p.up, &mut *ups_of)] {
        columns::arranged(s, floats, weight.columns(), |s, floats| {
            prepare(s, p.rows, floats, std::iter::once(weight))?;
            let dst = SharedSlice::new(dst);
            run(s, p.rows, floats, &[Some(Job { weight, dst, bias: None, accumulate: false })]);
            Ok(())
        })?;
    }
    let (isa, width) = (s.isa, p.gate.rows());
    let out = SharedSlice::new(dst);
    split_rows(&mut s.team, p.rows, width, &|rows| {
        let values = rows.start * width..rows.end * width;
        // SAFETY: ranges of rows are disjoint.
        let out = unsafe { out.range_mut(values.clone()) };
        math::gate(isa, p.activation, out, &ups_of[values]);
    });
    s.linear.ups = ups;
    Ok(())
}

/// Computes all outputs in one parallel region.
fn run(s: &mut CpuStream, tokens: usize, floats: &[f32], jobs: &[Option<Job<'_>>]) {
    let jobs = || jobs.iter().flatten();
    let total = jobs().map(|job| job.weight.panels()).sum();
    region(s, tokens, floats, total, &|panel, input, scratch| {
        let mut panel = panel;
        for job in jobs() {
            let own = job.weight.panels();
            if panel < own {
                // SAFETY: each panel is given to one thread.
                if unsafe { store_rounded(job, panel, input) } {
                    return;
                }
                let Scratch { panel: memory, results: [results, _] } = scratch;
                multiply(job.weight, panel, input, memory, results);
                // SAFETY: each panel is given to one thread.
                unsafe { store(job, panel, input.tokens, results) }
                return;
            }
            panel -= own;
        }
    });
}

/// Calls `f` for each panel in `0..panels`, on whichever thread is free.
fn region(
    s: &mut CpuStream,
    tokens: usize,
    floats: &[f32],
    panels: usize,
    f: &(dyn Fn(usize, &Input<'_>, &mut Scratch) + Sync),
) {
    let input = Input { tokens, floats, blocks: &s.linear.blocks, shorts: &s.linear.shorts };
    let scratch = SharedSlice::new(&mut s.linear.scratch);
    let per_chunk = panels.div_ceil(CHUNKS_PER_THREAD * s.team.threads()).max(1);
    s.team.stream(panels.div_ceil(per_chunk), &|thread, chunk| {
        // SAFETY: each thread uses the scratch of its own number.
        let scratch = unsafe { scratch.range_mut(thread..thread + 1) };
        for panel in chunk * per_chunk..panels.min((chunk + 1) * per_chunk) {
            f(panel, &input, &mut scratch[0]);
        }
    });
}

/// Writes the results `[tokens][16]` of a panel to where they belong.
///
/// # Safety
/// No other thread may store the same panel of the job at the same time.
unsafe fn store(job: &Job<'_>, panel: usize, tokens: usize, results: &[f32]) {
    let rows = job.weight.rows();
    let first = panel * PANEL_ROWS;
    let last = rows.min(first + PANEL_ROWS);
    let bias = job.bias(first..last);
    for (t, results) in results.as_chunks::<PANEL_ROWS>().0.iter().take(tokens).enumerate() {
        // SAFETY: the rows of a panel are those of no other, and of no other token.
        let dst = unsafe { job.dst.range_mut(t * rows + first..t * rows + last) };
        let add = |dst: &mut [f32]| {
            for ((dst, result), bias) in dst.iter_mut().zip(results).zip(&bias) {
                let result = result + bias;
                *dst = if job.accumulate { *dst + result } else { result };
            }
        };
        // Whole panels apart, because a number that is known is a few vector instructions.
        match dst.as_chunks_mut::<PANEL_ROWS>().0.first_mut() {
            Some(whole) => add(whole),
            None => add(dst),
        }
    }
}

/// Multiplies a whole panel of a weight that may be rounded right where the results belong: bias, and
/// what is accumulated on, come first in their sums. Whether it has done so.
///
/// # Safety
/// As for [`store`].
unsafe fn store_rounded(job: &Job<'_>, panel: usize, input: &Input<'_>) -> bool {
    let Kernels::Shorts(kernels) = job.weight.kernels else { return false };
    let (rows, first) = (job.weight.rows(), panel * PANEL_ROWS);
    if first + PANEL_ROWS > rows {
        return false;
    }
    let bias = job.bias(first..first + PANEL_ROWS);
    let begin = |t: usize| {
        // SAFETY: the rows of a panel are those of no other, and of no other token.
        let dst = unsafe { job.dst.range_mut(t * rows + first..t * rows + first + PANEL_ROWS) };
        for (dst, bias) in dst.iter_mut().zip(&bias) {
            *dst = if job.accumulate { *dst + bias } else { *bias };
        }
    };
    let place = Place { first: job.dst.pointer(first), stride: rows };
    let weight = (kernels, job.weight.panel(panel), job.weight.cols());
    // SAFETY: likewise; `checks::linear` has held the output against the number of tokens.
    unsafe { rounded(weight, input, &place, &begin) }
    true
}

/// Brings the input into the forms that the weights ask for, and makes room for the results.
fn prepare<'a>(
    s: &mut CpuStream,
    tokens: usize,
    floats: &[f32],
    weights: impl Iterator<Item = &'a CpuWeight>,
) -> Result<()> {
    s.linear.reserve(s.team.threads(), tokens)?;
    let (mut quantized, mut rounding) = (false, None);
    for weight in weights {
        match weight.kernels {
            Kernels::Blocks(_) => quantized = true,
            Kernels::Shorts(kernels) => rounding = Some(kernels),
            Kernels::Floats(_) => {}
        }
    }
    let (isa, count) = (s.isa, floats.len() / STEP);
    if quantized {
        grow(&mut s.linear.blocks, count)?;
        let blocks = &mut s.linear.blocks[..count];
        convert(&mut s.team, floats, blocks, &|x, blocks| kernels::quantize(isa, x, blocks));
    }
    if let Some(rounding) = rounding {
        grow(&mut s.linear.shorts, floats.len() / shorts::STEP)?;
        let blocks = &mut s.linear.shorts[..floats.len() / shorts::STEP];
        let round = |x: &[f32], blocks: &mut [shorts::Block]| rounding.round(x, blocks);
        convert(&mut s.team, floats, blocks, &round);
    }
    Ok(())
}

/// Makes blocks of as many values each, on all threads where there is enough of it.
fn convert<B: Send>(
    team: &mut super::team::Team,
    floats: &[f32],
    blocks: &mut [B],
    f: &(dyn Fn(&[f32], &mut [B]) + Sync),
) {
    /// Blocks worth a chunk of its own.
    const CHUNK: usize = 128;
    let chunks = blocks.len().div_ceil(CHUNK);
    if chunks <= 1 {
        return f(floats, blocks);
    }
    let (count, width) = (blocks.len(), floats.len() / blocks.len());
    let blocks = SharedSlice::new(blocks);
    team.chunks(chunks, &|_, chunk| {
        let range = chunk * CHUNK..count.min((chunk + 1) * CHUNK);
        let floats = &floats[range.start * width..range.end * width];
        // SAFETY: chunks do not overlap.
        f(floats, unsafe { blocks.range_mut(range) });
    });
}

/// The output as a job; [`checks::linear`] has accepted it.
fn new_job<'a>(tokens: usize, output: &'a mut LinearOutput<'_, Cpu>) -> Result<Job<'a>> {
    const OP: &str = "linear";
    let rows = output.weight.rows();
    let bias = output.bias.map(|bias| bias.f32(OP, rows)).transpose()?;
    let dst = output.dst.f32_mut(OP, tokens * rows)?;
    let accumulate = output.accumulate;
    Ok(Job { weight: output.weight, dst: SharedSlice::new(dst), bias, accumulate })
}

fn is_quantized(weight: &CpuWeight) -> bool {
    matches!(weight.kernels, Kernels::Blocks(_))
}
