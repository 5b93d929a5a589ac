//! The tiles in plain Rust: what the matrix instructions are tested against. The weights are to be
//! packed for [`super::super::super::Isa::Portable`], which leaves signed quants as they are.

use super::super::dots::ROWS;
use super::super::panel::{PANEL_ROWS, STEP_BYTES, STEP_SCALES};
use super::super::planes::STEP;
use super::super::shorts;
use super::expand::{Expand, ExpandShorts};
use super::{Product, SIDE, TILE, TileKernels, WIDE};
use half::bf16;

pub(in super::super) static KERNELS: TileKernels =
    TileKernels { begin: || {}, end: || {}, multiply, expand, expand_shorts, round };

fn round(x: &[f32; STEP], out: &mut [u16; STEP]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = bf16::from_f32(*x).to_bits();
    }
}

fn expand(from: &Expand<'_>, out: &mut [u16]) {
    let meaning = from.meaning;
    for step in 0..from.steps {
        let tile = &mut out[(2 * step + from.which) * TILE..][..TILE];
        for column in 0..STEP {
            let sub = if meaning.subs == 1 { 0 } else { column / (STEP / 2) };
            for row in 0..SIDE {
                let vector = step * STEP_BYTES + column / 4 * (4 * PANEL_ROWS);
                let q = from.quants[vector + 4 * row + column % 4];
                let q = if meaning.signed {
                    f32::from(q as i8)
                } else {
                    f32::from(q) - f32::from(meaning.zero)
                };
                let at = step * STEP_SCALES + sub * PANEL_ROWS + row;
                let min = if meaning.mins { from.mins[at] } else { 0.0 };
                let value = q.mul_add(from.scales[at], min);
                tile[column / 2 * WIDE + 2 * row + column % 2] = bf16::from_f32(value).to_bits();
            }
        }
    }
}

fn expand_shorts(from: &ExpandShorts<'_>, out: &mut [u16]) {
    let mut values = vec![0.0; from.steps * STEP];
    for row in 0..SIDE {
        let bytes = from.steps * STEP / shorts::STEP * shorts::STEP_BYTES;
        shorts::row(&from.groups[row / ROWS][..bytes], row % ROWS, &mut values);
        for (step, values) in values.chunks_exact(STEP).enumerate() {
            let tile = &mut out[(2 * step + from.which) * TILE..][..TILE];
            for (column, value) in values.iter().enumerate() {
                let at = column / 2 * WIDE + 2 * row + column % 2;
                tile[at] = bf16::from_f32(*value).to_bits();
            }
        }
    }
}

/// # Safety
/// Every pointer of `p` must have what it says.
unsafe fn multiply(p: Product) {
    let number = |bits: u16| bf16::from_bits(bits).to_f32();
    for t in 0..WIDE {
        for r in 0..WIDE {
            // SAFETY: one of 32 tokens, of 32 rows, of two tiles of each step.
            unsafe {
                let result = p.results.add(t * WIDE + r);
                let mut sum = if p.add { *result } else { 0.0 };
                for step in 0..p.steps {
                    let token = p.tokens[t / SIDE].add(step * TILE + t % SIDE * STEP);
                    let weights = p.weights.add((2 * step + r / SIDE) * TILE + 2 * (r % SIDE));
                    for column in 0..STEP {
                        let weight = *weights.add(column / 2 * WIDE + column % 2);
                        sum += number(*token.add(column)) * number(weight);
                    }
                }
                *result = sum;
            }
        }
    }
}
