//! Packed Q4_Z: 4 bits, a scale and a zero point per 32 columns.
//!
//! Header: `f16 d[8]`, `u8 z[8]`. The zero point becomes a minimum, `-d · z`, when it is read.

use super::super::super::simd::Simd;
use super::super::dots::{Dots, ROWS};
use super::super::planes::{self, VECTORS};
use super::{BlockFormat, Rows, Scales, Unsigned, interleave};
use crate::Format;

/// Bytes of eight half-precision numbers.
const HALVES: usize = 2 * ROWS;

/// 4 bits; `d · q - d · z` per 32 columns.
pub(in super::super) struct Q4Z;

impl BlockFormat for Q4Z {
    const FORMAT: Format = Format::Q4_Z;
    type Quants = Unsigned<0, 15, 1, true>;
    const BITS: usize = 4;
    type Header<D: Dots> = Scales<D>;

    fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
        interleave::<2>(rows, 0, out);
        interleave::<1>(rows, 2, &mut out[HALVES..]);
    }

    fn pack_quants(rows: &Rows<'_>, _step: usize, out: &mut [u8]) {
        planes::interleave(4, rows, 3, out);
    }

    #[inline(always)]
    unsafe fn header<D: Dots>(p: *const u8) -> Scales<D> {
        // SAFETY: the header holds eight halves and eight bytes; an array of bytes has no alignment.
        let (scale, zeros) = unsafe {
            let zeros = p.add(HALVES).cast::<[u8; ROWS]>().read();
            (D::load_f16(p), u64::from_le_bytes(zeros))
        };
        let min = scale.mul(D::bytes_to_floats(zeros)).mul(D::Floats::splat(-1.0));
        Scales { scale: [scale; 2], min: [min; 2] }
    }

    #[inline(always)]
    unsafe fn scales<D: Dots>(header: &Scales<D>, _step: usize) -> Scales<D> {
        Scales { ..*header }
    }

    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { planes::unpack::<D, 4>(p) }
    }
}
