//! Rows of a packed table, unpacked: token ids to vectors.

use super::super::shared::SharedSlice;
use super::super::{Cpu, CpuStream, Isa};
use super::Scratch;
use super::dots::{ROWS, VECTOR};
use super::kernels::{BlockKernels, Kernels, kernels};
use super::multiply::PanelMemory;
use super::panel::{GROUPS, PANEL_ROWS, PANEL_STEPS, STEP_BYTES, STEP_SCALES};
use super::planes::STEP;
use super::shorts;
use super::weight::CpuWeight;
use crate::checks::{self, EmbedView};
use crate::host::HostBuffer;
use crate::params::Embed;
use crate::{Format, PackedWeight, Result};
use half::{bf16, f16};

/// [`crate::Backend::embed`]
pub(in super::super) fn embed(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &Embed<'_, Cpu>,
) -> Result<()> {
    let EmbedView { tokens, dst } = checks::embed(dst, p)?;
    let cols = p.table.cols();
    // Room for the row that is added.
    s.linear.reserve(s.team.threads(), if p.accumulate { cols.div_ceil(PANEL_ROWS) } else { 0 })?;
    let scratch = SharedSlice::new(&mut s.linear.scratch);
    let dst = SharedSlice::new(dst);
    s.team.chunks(p.rows, &|thread, t| {
        // SAFETY: each thread uses the scratch of its own number, and each token has its own row.
        let (scratch, out) = unsafe {
            (scratch.range_mut(thread..thread + 1), dst.range_mut(t * cols..(t + 1) * cols))
        };
        let Scratch { panel, results: [values, _] } = &mut scratch[0];
        if p.accumulate {
            let values = &mut values[..cols];
            row(p.table, tokens[t] as usize, panel, values);
            out.iter_mut().zip(values).for_each(|(out, v)| *out += *v * p.scale);
        } else {
            row(p.table, tokens[t] as usize, panel, out);
            out.iter_mut().for_each(|v| *v *= p.scale);
        }
    });
    Ok(())
}

/// Unpacks one row; the values are those of [`crate::weight::dequantize_row`], but for weights that were
/// rounded.
fn row(table: &CpuWeight, row: usize, memory: &mut PanelMemory, out: &mut [f32]) {
    let group = table.group(row / ROWS);
    let r = row % ROWS;
    if let Kernels::Shorts(_) = table.kernels {
        return shorts::row(group, r, out);
    }
    // The panel of the portable kernels is the plain one.
    match kernels(Isa::Portable, table.format()) {
        Some(Kernels::Blocks(kernels)) => blocks(kernels, group, r, memory, out),
        _ => match table.format() {
            Format::F16 => floats(group, r, out, |b| f16::from_le_bytes(b).to_f32()),
            Format::BF16 => floats(group, r, out, |b| bf16::from_le_bytes(b).to_f32()),
            _ => floats(group, r, out, f32::from_le_bytes),
        },
    }
}

fn floats<const N: usize>(group: &[u8], r: usize, out: &mut [f32], value: fn([u8; N]) -> f32) {
    for (eight, out) in group.as_chunks::<N>().0.chunks_exact(ROWS).zip(out) {
        *out = value(eight[r]);
    }
}

fn blocks(
    kernels: &BlockKernels,
    group: &[u8],
    r: usize,
    memory: &mut PanelMemory,
    out: &mut [f32],
) {
    let meaning = kernels.meaning;
    let block_bytes = group.len() / (out.len() / (kernels.steps * STEP));
    for (part, out) in out.chunks_mut(PANEL_STEPS * STEP).enumerate() {
        let count = out.len() / STEP / kernels.steps;
        let weights = &group[part * (PANEL_STEPS / kernels.steps) * block_bytes..];
        assert!(weights.len() >= count * block_bytes);
        // SAFETY: the group's blocks from here on are at least `count`, which a panel has room for.
        unsafe { (kernels.expand)(weights.as_ptr(), count, 0, memory.pointers()) }
        let (quants, scales, mins) = memory.contents();
        for (c, out) in out.iter_mut().enumerate() {
            let (step, c) = (c / STEP, c % STEP);
            let q = quants[step * STEP_BYTES + c / 4 * GROUPS * VECTOR + r * 4 + c % 4];
            let q = if meaning.signed {
                i32::from(q as i8)
            } else {
                i32::from(q) - i32::from(meaning.zero)
            };
            let at = step * STEP_SCALES + c * meaning.subs / STEP * GROUPS * ROWS + r;
            *out = scales[at] * q as f32;
            if meaning.mins {
                *out += mins[at];
            }
        }
    }
}
