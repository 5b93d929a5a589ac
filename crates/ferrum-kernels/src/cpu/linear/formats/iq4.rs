//! Packed IQ4_NL, IQ4_XS and MXFP4: 4-bit codes of unevenly spaced values.
//!
//! Headers: IQ4_NL `f16 d[8]`; MXFP4 `u8 e[8]`; IQ4_XS `f16 d[8]`, then the 6-bit scales of every 32
//! columns as the K formats store them.

use super::super::dots::{Dots, ROWS};
use super::super::planes::{self, STEP, VECTORS};
use super::k_quants::{Super, pack_six, transpose};
use super::{BlockFormat, Rows, Scales, Signed, Unsigned, interleave};
use crate::Format;
use crate::weight::{iq4, mxfp4};

/// Bytes of eight half-precision numbers.
const HALVES: usize = 2 * ROWS;

/// The 16 values plus `zero`, as bytes.
const fn table(values: [i8; 16], zero: i8) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (values[i] + zero) as u8;
        i += 1;
    }
    out
}

/// The values of IQ4_NL and IQ4_XS, as the bytes of `i8`.
const IQ4: [u8; 16] = table(iq4::VALUES, 0);

/// Zero point that makes the values of MXFP4 unsigned.
const MXFP4_ZERO: u8 = 16;

/// The values of MXFP4 plus the zero point.
const MXFP4: [u8; 16] = table(mxfp4::VALUES, MXFP4_ZERO as i8);

/// # Safety
/// 128 bytes must be readable.
#[inline(always)]
unsafe fn look_up<D: Dots>(table: &[u8; 16], p: *const u8) -> [D::Bytes; VECTORS] {
    // SAFETY: the caller's promise.
    let mut vectors = unsafe { planes::unpack::<D, 4>(p) };
    for v in &mut vectors {
        *v = D::lookup(table, *v);
    }
    vectors
}

/// 4 bits; `d · VALUES[q]` per 32 columns.
pub(in super::super) struct Iq4Nl;

impl BlockFormat for Iq4Nl {
    const FORMAT: Format = Format::IQ4_NL;
    type Quants = Signed;
    const BITS: usize = 4;
    type Header<D: Dots> = D::Floats;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 0, out);
    }

    fn pack_quants(rows: &Rows<'_>, _step: usize, out: &mut [u8]) {
        planes::interleave(4, rows, 2, out);
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> D::Floats {
        // SAFETY: the header holds eight halves.
        unsafe { D::load_f16(p) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dots>(header: &D::Floats, _step: usize) -> Scales<D> {
        Scales::one(*header)
    }

    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { look_up::<D>(&IQ4, p) }
    }
}

/// 4 bits; `d · (sc - 32) · VALUES[q]` per 32 columns, `sc` of 6 bits.
pub(in super::super) struct Iq4Xs;

impl BlockFormat for Iq4Xs {
    const FORMAT: Format = Format::IQ4_XS;
    type Quants = Signed;
    const BITS: usize = 4;
    type Header<D: Dots> = Super<D>;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 0, out);
        let codes: [u8; 64] =
            transpose(rows, |row| iq4::iq4_xs_scales(&row[2..8]).map(|s| (s + 32) as u8));
        pack_six(&codes, &mut out[HALVES..]);
    }

    fn pack_quants(rows: &Rows<'_>, step: usize, out: &mut [u8]) {
        planes::interleave(4, rows, 8 + step * STEP / 2, out);
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> Super<D> {
        // SAFETY: the caller's promise.
        unsafe { Super::without_minima(p) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dots>(h: &Super<D>, step: usize) -> Scales<D> {
        // SAFETY: the header has 8 codes of each row, one of each step.
        Scales::one(h.scale(unsafe { h.six(8, step) }, 32.0))
    }

    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { look_up::<D>(&IQ4, p) }
    }
}

/// 4 bits; `2^(e - 128) · VALUES[q]` per 32 columns (the values are doubled).
pub(in super::super) struct Mxfp4;

impl BlockFormat for Mxfp4 {
    const FORMAT: Format = Format::MXFP4;
    type Quants = Unsigned<MXFP4_ZERO, { MXFP4_ZERO + 12 }, 1, false>;
    const BITS: usize = 4;
    type Header<D: Dots> = D::Floats;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<1>(rows, 0, out);
    }

    fn pack_quants(rows: &Rows<'_>, _step: usize, out: &mut [u8]) {
        planes::interleave(4, rows, 1, out);
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> D::Floats {
        // SAFETY: the header holds eight bytes.
        unsafe { D::load_e8m0(p) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dots>(header: &D::Floats, _step: usize) -> Scales<D> {
        Scales::one(*header)
    }

    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { look_up::<D>(&MXFP4, p) }
    }
}
