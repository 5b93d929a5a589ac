//! Packed Q2_K to Q6_K: blocks of 256 columns whose scales are themselves quantised, per 16 or 32
//! columns.
//!
//! Header: `f16 d[8]`, with minima `f16 dmin[8]`, then the quantised scales ("codes") of all eight
//! rows, sub-block after sub-block, and the minima after them. Codes of 6 bits are stored as low
//! nibbles (code `i` beside code `i + n/2`) and then bit pairs (`i`, `i + n/4`, …).

use super::super::super::simd::Simd;
use super::super::dots::{Dots, ROWS};
use super::super::planes::{self, STEP, VECTORS};
use super::{BlockFormat, Rows, Scales, Unsigned, interleave, pack_each};
use crate::Format;
use crate::weight::k_quants::{k_scale_mins, q3_k_scales};

/// Bytes of eight half-precision numbers.
const HALVES: usize = 2 * ROWS;

/// A header: the scales of the blocks, and where the codes are.
pub(in super::super) struct Super<D: Dots> {
    d: D::Floats,
    /// `-dmin`, where there are minima.
    dmin: D::Floats,
    codes: *const u8,
}

impl<D: Dots> Super<D> {
    /// A header without minima: d, then the codes.
    ///
    /// # Safety
    /// Eight halves must be readable.
    #[inline(always)]
    pub(super) unsafe fn without_minima(p: *const u8) -> Self {
        // SAFETY: the caller's promise.
        let d = unsafe { D::load_f16(p) };
        Super { d, dmin: d, codes: p.wrapping_add(HALVES) }
    }

    /// A header with minima: d, dmin, then the codes.
    ///
    /// # Safety
    /// Twice eight halves must be readable.
    #[inline(always)]
    unsafe fn with_minima(p: *const u8) -> Self {
        // SAFETY: the caller's promise.
        let (d, dmin) = unsafe { (D::load_f16(p), D::load_f16(p.add(HALVES))) };
        let dmin = dmin.mul(D::Floats::splat(-1.0));
        Super { d, dmin, codes: p.wrapping_add(2 * HALVES) }
    }

    /// Word `i` of the codes: a byte of each row, that of row 0 the lowest.
    ///
    /// # Safety
    /// The codes must have so many bytes.
    #[inline(always)]
    unsafe fn word(&self, i: usize) -> u64 {
        // SAFETY: the caller's promise; an array of bytes has no alignment.
        u64::from_le_bytes(unsafe { self.codes.add(i * ROWS).cast::<[u8; ROWS]>().read() })
    }

    /// The 6-bit code `i` of each row, of `n` that [`pack_six`] stored.
    ///
    /// # Safety
    /// The header must have been packed from so many codes.
    #[inline(always)]
    pub(super) unsafe fn six(&self, n: usize, i: usize) -> u64 {
        let bytes = u64::from_ne_bytes([1; 8]);
        let (half, quarter) = (n / 2, n / 4);
        // SAFETY: there are n / 2 words of nibbles and n / 4 of bit pairs.
        let (low, high) = unsafe { (self.word(i % half), self.word(half + i % quarter)) };
        let low = (low >> (4 * (i / half))) & (bytes * 15);
        let high = (high >> (2 * (i / quarter))) & (bytes * 3);
        low | high << 4
    }

    /// The scale that codes stand for, less `zero`: `d · (code - zero)`.
    #[inline(always)]
    pub(super) fn scale(&self, codes: u64, zero: f32) -> D::Floats {
        self.d.mul(D::bytes_to_floats(codes).sub(D::Floats::splat(zero)))
    }

    /// The minimum that codes stand for: `-dmin · code`.
    #[inline(always)]
    fn min(&self, codes: u64) -> D::Floats {
        self.dmin.mul(D::bytes_to_floats(codes))
    }
}

/// Two scales, and no minima.
#[inline(always)]
fn two<D: Dots>(first: D::Floats, second: D::Floats) -> Scales<D> {
    Scales { scale: [first, second], min: [first, second] }
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

/// 2 bits; `d · sc · q - dmin · m` per 16 columns, `sc` and `m` of 4 bits.
/// Header: d, dmin, then for every 16 columns a byte of each row, `sc` in the low nibble.
pub(in super::super) struct Q2K;

impl BlockFormat for Q2K {
    const FORMAT: Format = Format::Q2_K;
    type Quants = Unsigned<0, 3, 2, true>;
    const BITS: usize = 2;
    type Header<D: Dots> = Super<D>;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 80, out);
        interleave::<2>(rows, 82, &mut out[HALVES..]);
        let codes: [u8; 128] = transpose(rows, |row| std::array::from_fn::<u8, 16, _>(|i| row[i]));
        out[2 * HALVES..].copy_from_slice(&codes);
    }

    fn pack_quants(rows: &Rows<'_>, step: usize, out: &mut [u8]) {
        pack_each(Self::BITS, rows, out, |block, out| {
            combine(out, fields::<2>(&block[16..], step), std::iter::repeat(0), 0);
        });
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> Super<D> {
        // SAFETY: the caller's promise.
        unsafe { Super::with_minima(p) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dots>(h: &Super<D>, step: usize) -> Scales<D> {
        let nibbles = u64::from_ne_bytes([15; 8]);
        // SAFETY: the header has 16 words of codes, 2 of each step.
        let (first, second) = unsafe { (h.word(2 * step), h.word(2 * step + 1)) };
        Scales {
            scale: [h.scale(first & nibbles, 0.0), h.scale(second & nibbles, 0.0)],
            min: [h.min(first >> 4 & nibbles), h.min(second >> 4 & nibbles)],
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
    type Header<D: Dots> = Super<D>;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 108, out);
        let codes: [u8; 128] =
            transpose(rows, |row| q3_k_scales(&row[96..108]).map(|s| (s + 32) as u8));
        pack_six(&codes, &mut out[HALVES..]);
    }

    fn pack_quants(rows: &Rows<'_>, step: usize, out: &mut [u8]) {
        pack_each(Self::BITS, rows, out, |block, out| {
            combine(out, fields::<2>(&block[32..], step), fields::<1>(block, step), 2);
        });
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> Super<D> {
        // SAFETY: the caller's promise.
        unsafe { Super::without_minima(p) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dots>(h: &Super<D>, step: usize) -> Scales<D> {
        // SAFETY: the header has 16 codes of each row, 2 of each step.
        let (first, second) = unsafe { (h.six(16, 2 * step), h.six(16, 2 * step + 1)) };
        two(h.scale(first, 32.0), h.scale(second, 32.0))
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
            type Header<D: Dots> = Super<D>;

            fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
                interleave::<2>(rows, 0, out);
                interleave::<2>(rows, 2, &mut out[HALVES..]);
                let codes: [u8; 128] = transpose(rows, |row| {
                    let (scales, mins) = k_scale_mins(&row[4..16]);
                    std::array::from_fn::<u8, 16, _>(|i| if i < 8 { scales[i] } else { mins[i - 8] })
                });
                pack_six(&codes, &mut out[2 * HALVES..]);
            }

            fn pack_quants(rows: &Rows<'_>, $step: usize, out: &mut [u8]) {
                pack_each($bits, rows, out, |$block, $out| $stored);
            }

            #[inline(always)]
            unsafe fn header<D: Dots>(p: *const u8) -> Super<D> {
                // SAFETY: the caller's promise.
                unsafe { Super::with_minima(p) }
            }

            #[inline(always)]
            unsafe fn scales<D: Dots>(h: &Super<D>, step: usize) -> Scales<D> {
                // SAFETY: the header has 16 codes of each row, 8 of them scales.
                let (scale, min) = unsafe { (h.six(16, step), h.six(16, 8 + step)) };
                let (scale, min) = (h.scale(scale, 0.0), h.min(min));
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
    type Header<D: Dots> = Super<D>;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 208, out);
        let codes: [u8; 128] =
            transpose(rows, |row| std::array::from_fn::<u8, 16, _>(|i| row[192 + i] ^ 0x80));
        out[HALVES..].copy_from_slice(&codes);
    }

    fn pack_quants(rows: &Rows<'_>, step: usize, out: &mut [u8]) {
        pack_each(Self::BITS, rows, out, |block, out| {
            // Each 128 columns have their low nibbles in 64 bytes, in steps of 64.
            let low = &block[step / 4 * 64 + step % 2 * STEP..][..STEP];
            let nibble = 4 * (step % 4 / 2);
            let low = low.iter().map(|b| (b >> nibble) & 15);
            combine(out, low, fields::<2>(&block[128..], step), 4);
        });
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> Super<D> {
        // SAFETY: the caller's promise.
        unsafe { Super::without_minima(p) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dots>(h: &Super<D>, step: usize) -> Scales<D> {
        // SAFETY: the header has 16 words of codes, 2 of each step.
        let (first, second) = unsafe { (h.word(2 * step), h.word(2 * step + 1)) };
        two(h.scale(first, 128.0), h.scale(second, 128.0))
    }

    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { planes::unpack::<D, 6>(p) }
    }
}
