//! The tiles by the instructions of AMX (Intel's Instruction Set Extensions Programming Reference,
//! chapter 3). The compiler knows neither: they are written as assembly.

use super::super::dots::SIGN;
use super::super::panel::{STEP_BYTES, STEP_SCALES};
use super::super::planes::{STEP, VECTORS};
use super::super::shorts;
use super::expand::{Expand, ExpandShorts};
use super::{Product, SIDE, TILE, TileKernels, WIDE};
use std::arch::asm;
use std::arch::x86_64::*;

pub(super) static KERNELS: TileKernels =
    TileKernels { begin, end, multiply, expand, expand_shorts, round };

/// Bytes of a tile's row, and from a tile's row to the next.
const LINE: usize = 64;

/// What `ldtilecfg` takes: palette 1, and of each tile the rows and the bytes of a row.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    line: [u16; 16],
    rows: [u8; 16],
}

/// Every tile is as large as can be.
static SHAPES: Shapes = {
    let mut shapes =
        Shapes { palette: 1, start: 0, reserved: [0; 14], line: [0; 16], rows: [0; 16] };
    let mut tile = 0;
    while tile < 8 {
        shapes.line[tile] = LINE as u16;
        shapes.rows[tile] = SIDE as u8;
        tile += 1;
    }
    shapes
};

/// # Safety
/// The processor must have AMX, and the system let this process use it.
unsafe fn begin() {
    // SAFETY: reads the 64 bytes of the shapes; no tile is in use outside of [`multiply`].
    unsafe { asm!("ldtilecfg [{}]", in(reg) &SHAPES, options(readonly, nostack, preserves_flags)) }
}

/// # Safety
/// As for [`begin`].
unsafe fn end() {
    // SAFETY: no tile is in use outside of [`multiply`].
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
}

/// # Safety
/// [`begin`] must have been called on this thread; every pointer of `p` must have what it says, and
/// there be a step.
unsafe fn multiply(p: Product) {
    const BYTES: usize = 2 * TILE;
    // SAFETY: the tiles read are those of the tokens and of the weights, of each step, and those
    // written the results; no tile is in use outside of this function.
    unsafe {
        asm!(
            "test {add}, {add}",
            "jz 2f",
            "tileloadd tmm0, [{out} + {wide}]",
            "tileloadd tmm1, [{out} + {wide} + 64]",
            "tileloadd tmm2, [{below} + {wide}]",
            "tileloadd tmm3, [{below} + {wide} + 64]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "tileloadd tmm4, [{a} + {line}]",
            "tileloadd tmm6, [{w} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w} + {line} + {bytes}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{b} + {line}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, {bytes}",
            "add {b}, {bytes}",
            "add {w}, 2 * {bytes}",
            "dec {steps}",
            "jnz 3b",
            "tilestored [{out} + {wide}], tmm0",
            "tilestored [{out} + {wide} + 64], tmm1",
            "tilestored [{below} + {wide}], tmm2",
            "tilestored [{below} + {wide} + 64], tmm3",
            add = in(reg) usize::from(p.add),
            out = in(reg) p.results,
            below = in(reg) p.results.add(SIDE * WIDE),
            wide = in(reg) WIDE * size_of::<f32>(),
            line = in(reg) LINE,
            a = inout(reg) p.tokens[0] => _,
            b = inout(reg) p.tokens[1] => _,
            w = inout(reg) p.weights => _,
            steps = inout(reg) p.steps => _,
            bytes = const BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// # Safety
/// The processor must have AVX-512 with bfloat16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn round(x: &[f32; STEP], out: &mut [u16; STEP]) {
    // SAFETY: 32 values are read and 32 written.
    unsafe {
        let low = _mm512_loadu_ps(x.as_ptr());
        let high = _mm512_loadu_ps(x[SIDE..].as_ptr());
        store(_mm512_cvtne2ps_pbh(high, low), out.as_mut_ptr());
    }
}

/// # Safety
/// 32 values must be writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn store(v: __m512bh, out: *mut u16) {
    // SAFETY: the caller's promise; the types have the same bits.
    unsafe { _mm512_storeu_si512(out.cast(), std::mem::transmute::<__m512bh, __m512i>(v)) }
}

/// # Safety
/// The processor must have AVX-512 BW with bfloat16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn expand(from: &Expand<'_>, out: &mut [u16]) {
    let (steps, meaning) = (from.steps, from.meaning);
    let quants = &from.quants[..steps * STEP_BYTES];
    let scales = &from.scales[..steps * STEP_SCALES];
    let mins = &from.mins[..steps * STEP_SCALES];
    let zero = f32::from(if meaning.signed { SIGN } else { meaning.zero });
    let zero = _mm512_set1_ps(-zero);
    // SAFETY: every step is in the slices, and its two halves' scales and eight vectors in it.
    unsafe {
        for step in 0..steps {
            let at = |sub: usize| step * STEP_SCALES + sub * SIDE;
            let tile = out[(2 * step + from.which) * TILE..][..TILE].as_mut_ptr();
            for sub in 0..meaning.subs {
                let scale = _mm512_loadu_ps(scales[at(sub)..].as_ptr());
                let mut offset = _mm512_mul_ps(scale, zero);
                if meaning.mins {
                    offset = _mm512_add_ps(offset, _mm512_loadu_ps(mins[at(sub)..].as_ptr()));
                }
                let vectors = VECTORS / meaning.subs;
                for v in sub * vectors..(sub + 1) * vectors {
                    let q = quants[step * STEP_BYTES + v * LINE..].as_ptr();
                    four_columns(
                        _mm512_loadu_si512(q.cast()),
                        scale,
                        offset,
                        tile.add(v * 2 * WIDE),
                    );
                }
            }
        }
    }
}

/// # Safety
/// The processor must have AVX-512 BW with bfloat16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn expand_shorts(from: &ExpandShorts<'_>, out: &mut [u16]) {
    let bytes = from.steps * STEP / shorts::STEP * shorts::STEP_BYTES;
    let groups = from.groups.map(|group| &group[..bytes]);
    let both = |at: usize| {
        // SAFETY: 32 bytes of each group, as the slices say; the processor has what it takes.
        unsafe {
            let half = |group: &[u8]| _mm256_loadu_si256(group[at..at + 32].as_ptr().cast());
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(groups[0])), half(groups[1]))
        }
    };
    for pair in 0..from.steps * STEP / 2 {
        let (step, within) = (pair / shorts::PAIRS, pair % shorts::PAIRS);
        let scale = _mm512_castsi512_ps(both(step * shorts::STEP_BYTES));
        let q = both(step * shorts::STEP_BYTES + shorts::SCALES + within * 32);
        let low = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(q));
        let value = |q: __m512i| _mm512_mul_ps(_mm512_cvtepi32_ps(q), scale);
        let pairs = STEP / 2;
        let tile = (2 * (pair / pairs) + from.which) * TILE + pair % pairs * WIDE;
        // SAFETY: 32 values are writable in the slice.
        unsafe {
            let out = out[tile..tile + WIDE].as_mut_ptr();
            store_pairs(value(low), value(_mm512_srai_epi32::<16>(q)), out);
        }
    }
}

/// Four columns of 16 rows as pairs: those of the first two, then those of the others.
///
/// # Safety
/// 64 values must be writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn four_columns(q: __m512i, scale: __m512, offset: __m512, out: *mut u16) {
    let byte = _mm512_set1_epi32(0xff);
    let value = |q: __m512i| _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), scale, offset);
    let first = value(_mm512_and_si512(q, byte));
    let second = value(_mm512_and_si512(_mm512_srli_epi32::<8>(q), byte));
    let third = value(_mm512_and_si512(_mm512_srli_epi32::<16>(q), byte));
    let fourth = value(_mm512_srli_epi32::<24>(q));
    // SAFETY: the caller's promise.
    unsafe {
        store_pairs(first, second, out);
        store_pairs(third, fourth, out.add(WIDE));
    }
}

/// Two columns of 16 rows, rounded, as a pair of each row.
///
/// # Safety
/// 32 values must be writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn store_pairs(first: __m512, second: __m512, out: *mut u16) {
    // From 16 values of a column and 16 of the next to pairs of a row.
    let pairs = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0,
    );
    // SAFETY: the caller's promise; the types have the same bits.
    unsafe {
        let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
        _mm512_storeu_si512(out.cast(), _mm512_permutexvar_epi16(pairs, both));
    }
}
