//! Packed Q2_K to Q6_K: blocks of 256 columns whose scales are themselves quantised, per 16 or 32
//! columns.
//!
//! Header: `f16 d[8]`, with minima `f16 dmin[8]`, then the quantised scales ("codes") of all eight
//! rows, sub-block after sub-block, and the minima after them. Codes of 6 bits are stored as low
//! nibbles (code `i` beside code `i + n/2`) and then bit pairs (`i`, `i + n/4`, …).

use super::super::super::simd::Simd;
use super::super::dots::{Dots, ROWS};
use super::super::planes::{self, STEP, VECTORS};
use super::{BlockFormat, Rows, Scales, Unsigned, interleave};
use crate::Format;
use crate::weight::k_quants::{k_scale_mins, q3_k_scales};

/// Bytes of eight half-precision numbers.
const HALVES: usize = 2 * ROWS;

/// A header, read: the scales of the blocks, and `N` codes, eight of a kind side by side.
pub(in super::super) struct Super<D: Dots, const N: usize> {
    d: D::Floats,
    /// `-dmin`, where there are minima.
    dmin: D::Floats,
    codes: [u8; N],
}

impl<D: Dots, const N: usize> Super<D, N> {
    /// A header without minima.
    #[inline(always)]
    pub(super) fn new(d: D::Floats, codes: [u8; N]) -> Self {
        Super { d, dmin: d, codes }
    }

    /// The scale that a code stands for: `d · code`.
    #[inline(always)]
    pub(super) fn scale(&self, code: D::Floats) -> D::Floats {
        self.d.mul(code)
    }

    /// The scales of the two halves of a step, from codes of which `zero` is subtracted.
    #[inline(always)]
    fn two_scales(&self, step: usize, zero: f32) -> Scales<D> {
        let zero = D::Floats::splat(zero);
        let first = self.scale(self.code(2 * step).sub(zero));
        let second = self.scale(self.code(2 * step + 1).sub(zero));
        Scales { scale: [first, second], min: [first, second] }
    }

    /// The codes of scale (or minimum) `i`, as floats.
    #[inline(always)]
    pub(super) fn code(&self, i: usize) -> D::Floats {
        let codes = &self.codes[i * ROWS..(i + 1) * ROWS];
        // SAFETY: the slice has eight bytes.
        unsafe { D::load_u8(codes.as_ptr()) }
    }
}

/// Codes of each row, side by side: `codes[i][row]`.
pub(super) fn transpose<const I: usize, const N: usize>(
    rows: &Rows<'_>,
    codes: impl Fn(&[u8]) -> [u8; I],
) -> [u8; N] {
    let mut out = [0; N];
    for (r, row) in rows.iter().enumerate() {
        for (i, code) in codes(row).into_iter().enumerate() {
            out[i * ROWS + r] = code;
        }
    }
    out
}

/// Stores 6-bit codes in three quarters of their number of bytes.
pub(super) fn pack_six<const N: usize>(codes: &[u8; N], out: &mut [u8]) {
    for i in 0..N / 2 {
        out[i] = (codes[i] & 15) | (codes[i + N / 2] & 15) << 4;
    }
    for i in 0..N / 4 {
        out[N / 2 + i] = (0..4).fold(0, |b, f| b | (codes[i + f * (N / 4)] >> 4) << (2 * f));
    }
}

/// The codes that [`pack_six`] stored.
#[inline(always)]
pub(super) fn unpack_six<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let (low, high) = bytes[..N / 2 + N / 4].split_at(N / 2);
    let mut codes = [0; N];
    let (first, second) = codes.split_at_mut(N / 2);
    for ((first, second), byte) in first.iter_mut().zip(second).zip(low) {
        (*first, *second) = (byte & 15, byte >> 4);
    }
    for (field, codes) in codes.chunks_exact_mut(N / 4).enumerate() {
        for (code, byte) in codes.iter_mut().zip(high) {
            *code |= ((byte >> (2 * field)) & 3) << 4;
        }
    }
    codes
}

/// The 32 fields of `WIDTH` bits of step `step`, spread over 256 columns in steps of 32: byte `j`
/// of a group of 32 bytes holds value `j` of `8 / WIDTH` steps, from its low bits upwards.
fn fields<const WIDTH: usize>(bytes: &[u8], step: usize) -> impl Iterator<Item = u8> {
    let (group, field) = (step / (8 / WIDTH), step % (8 / WIDTH));
    let mask = (0xff_u32 >> (8 - WIDTH)) as u8;
    bytes[group * STEP..][..STEP].iter().map(move |b| (b >> (field * WIDTH)) & mask)
}

/// Fills `out` with `low`, and `high` shifted left by `shift`.
fn combine(
    out: &mut [u8; STEP],
    low: impl Iterator<Item = u8>,
    high: impl Iterator<Item = u8>,
    shift: u32,
) {
    for ((q, low), high) in out.iter_mut().zip(low).zip(high) {
        *q = low | high << shift;
    }
}

/// The bytes of a packed header.
///
/// # Safety
/// They must be readable.
#[inline(always)]
pub(super) unsafe fn bytes<'a, F: BlockFormat>(p: *const u8) -> &'a [u8] {
    // SAFETY: the caller's promise; the result is used in the same function.
    unsafe { std::slice::from_raw_parts(p, F::HEADER_BYTES) }
}

/// `-x`
#[inline(always)]
fn negative<S: Simd>(x: S) -> S {
    x.mul(S::splat(-1.0))
}

/// 2 bits; `d · sc · q - dmin · m` per 16 columns, `sc` and `m` of 4 bits.
/// Header: d, dmin, then for every 16 columns a byte of each row, `sc` in the low nibble.
pub(in super::super) struct Q2K;

impl BlockFormat for Q2K {
    const FORMAT: Format = Format::Q2_K;
    type Quants = Unsigned<0, 3, 2, true>;
    const BITS: usize = 2;
    type Header<D: Dots> = Super<D, 256>;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 80, out);
        interleave::<2>(rows, 82, &mut out[HALVES..]);
        let codes: [u8; 128] = transpose(rows, |row| std::array::from_fn::<u8, 16, _>(|i| row[i]));
        out[2 * HALVES..].copy_from_slice(&codes);
    }

    fn stored_quants(block: &[u8], step: usize, out: &mut [u8; STEP]) {
        combine(out, fields::<2>(&block[16..], step), std::iter::repeat(0), 0);
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> Super<D, 256> {
        // SAFETY: the header holds twice eight halves and 128 bytes.
        let (header, d, dmin) =
            unsafe { (bytes::<Self>(p), D::load_f16(p), D::load_f16(p.add(HALVES))) };
        let mut codes = [0; 256];
        let (scales, mins) = codes.split_at_mut(128);
        for ((scale, min), byte) in scales.iter_mut().zip(mins).zip(&header[2 * HALVES..]) {
            (*scale, *min) = (byte & 15, byte >> 4);
        }
        Super { d, dmin: negative(dmin), codes }
    }

    #[inline(always)]
    fn scales<D: Dots>(h: &Super<D, 256>, step: usize) -> Scales<D> {
        Scales {
            scale: [h.scale(h.code(2 * step)), h.scale(h.code(2 * step + 1))],
            min: [h.dmin.mul(h.code(16 + 2 * step)), h.dmin.mul(h.code(17 + 2 * step))],
        }
    }

    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { planes::unpack::<D, 2>(p) }
    }
}

/// 3 bits; `d · (sc - 32) · (q - 4)` per 16 columns, `sc` of 6 bits. Header: d, 16 codes.
pub(in super::super) struct Q3K;

impl BlockFormat for Q3K {
    const FORMAT: Format = Format::Q3_K;
    type Quants = Unsigned<4, 7, 2, false>;
    const BITS: usize = 3;
    type Header<D: Dots> = Super<D, 128>;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 108, out);
        let codes: [u8; 128] =
            transpose(rows, |row| q3_k_scales(&row[96..108]).map(|s| (s + 32) as u8));
        pack_six(&codes, &mut out[HALVES..]);
    }

    fn stored_quants(block: &[u8], step: usize, out: &mut [u8; STEP]) {
        combine(out, fields::<2>(&block[32..], step), fields::<1>(block, step), 2);
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> Super<D, 128> {
        // SAFETY: the header holds eight halves and 128 codes.
        let (header, d) = unsafe { (bytes::<Self>(p), D::load_f16(p)) };
        Super::new(d, unpack_six(&header[HALVES..]))
    }

    #[inline(always)]
    fn scales<D: Dots>(h: &Super<D, 128>, step: usize) -> Scales<D> {
        h.two_scales(step, 32.0)
    }

    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { planes::unpack::<D, 3>(p) }
    }
}

/// Q4_K and Q5_K have the same header: d, dmin, 8 scales and 8 minima of 6 bits per 32 columns.
macro_rules! with_minima {
    ($(#[$doc:meta])* $name:ident, $format:ident, $bits:literal, $max:literal,
     |$block:ident, $step:ident, $out:ident| $stored:block) => {
        $(#[$doc])*
        pub(in super::super) struct $name;

        impl BlockFormat for $name {
            const FORMAT: Format = Format::$format;
            type Quants = Unsigned<0, $max, 1, true>;
            const BITS: usize = $bits;
            type Header<D: Dots> = Super<D, 128>;

            fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
                interleave::<2>(rows, 0, out);
                interleave::<2>(rows, 2, &mut out[HALVES..]);
                let codes: [u8; 128] = transpose(rows, |row| {
                    let (scales, mins) = k_scale_mins(&row[4..16]);
                    std::array::from_fn::<u8, 16, _>(|i| if i < 8 { scales[i] } else { mins[i - 8] })
                });
                pack_six(&codes, &mut out[2 * HALVES..]);
            }

            fn stored_quants($block: &[u8], $step: usize, $out: &mut [u8; STEP]) $stored

            #[inline(always)]
            unsafe fn header<D: Dots>(p: *const u8) -> Super<D, 128> {
                // SAFETY: the header holds twice eight halves and 128 codes.
                let (header, d, dmin) =
                    unsafe { (bytes::<Self>(p), D::load_f16(p), D::load_f16(p.add(HALVES))) };
                Super { d, dmin: negative(dmin), codes: unpack_six(&header[2 * HALVES..]) }
            }

            #[inline(always)]
            fn scales<D: Dots>(h: &Super<D, 128>, step: usize) -> Scales<D> {
                let (scale, min) = (h.d.mul(h.code(step)), h.dmin.mul(h.code(8 + step)));
                Scales { scale: [scale; 2], min: [min; 2] }
            }

            #[inline(always)]
            unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
                // SAFETY: the caller's promise.
                unsafe { planes::unpack::<D, $bits>(p) }
            }
        }
    };
}

with_minima!(
    /// 4 bits; `d · sc · q - dmin · m` per 32 columns.
    Q4K, Q4_K, 4, 15, |block, step, out| {
        combine(out, fields::<4>(&block[16..], step), std::iter::repeat(0), 0);
    }
);
with_minima!(
    /// 5 bits; `d · sc · q - dmin · m` per 32 columns.
    Q5K, Q5_K, 5, 31, |block, step, out| {
        combine(out, fields::<4>(&block[48..], step), fields::<1>(&block[16..], step), 4);
    }
);

/// 6 bits; `d · sc · (q - 32)` per 16 columns, `sc` an `i8`. Header: d, then for every 16 columns
/// `sc + 128` of each row.
pub(in super::super) struct Q6K;

impl BlockFormat for Q6K {
    const FORMAT: Format = Format::Q6_K;
    type Quants = Unsigned<32, 63, 2, false>;
    const BITS: usize = 6;
    type Header<D: Dots> = Super<D, 128>;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 208, out);
        let codes: [u8; 128] =
            transpose(rows, |row| std::array::from_fn::<u8, 16, _>(|i| row[192 + i] ^ 0x80));
        out[HALVES..].copy_from_slice(&codes);
    }

    fn stored_quants(block: &[u8], step: usize, out: &mut [u8; STEP]) {
        // Each 128 columns have their low nibbles in 64 bytes, in steps of 64.
        let low = &block[step / 4 * 64 + step % 2 * STEP..][..STEP];
        let nibble = 4 * (step % 4 / 2);
        let low = low.iter().map(|b| (b >> nibble) & 15);
        combine(out, low, fields::<2>(&block[128..], step), 4);
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> Super<D, 128> {
        // SAFETY: the header holds eight halves and 128 bytes.
        let (header, d) = unsafe { (bytes::<Self>(p), D::load_f16(p)) };
        let mut codes = [0; 128];
        codes.copy_from_slice(&header[HALVES..]);
        Super::new(d, codes)
    }

    #[inline(always)]
    fn scales<D: Dots>(h: &Super<D, 128>, step: usize) -> Scales<D> {
        h.two_scales(step, 128.0)
    }

    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { planes::unpack::<D, 6>(p) }
    }
}
