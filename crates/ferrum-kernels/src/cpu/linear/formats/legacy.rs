//! Packed Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: one scale, and perhaps a minimum, per 32 columns.
//!
//! Header: `f16 d[8]`, and for Q4_1 and Q5_1 `f16 m[8]`.

use super::super::dots::{Dots, ROWS};
use super::super::planes::{self, STEP, VECTORS};
use super::{BlockFormat, Rows, Scales, Signed, Unsigned, interleave, nibbles, pack_each};
use crate::Format;

/// Bytes of eight half-precision numbers.
const HALVES: usize = 2 * ROWS;

/// Adds the fifth bits of 32 values, bit `i` of a little-endian word that of value `i`.
fn fifth_bits(word: &[u8], out: &mut [u8; STEP]) {
    for (byte, out) in word.iter().zip(out.chunks_exact_mut(8)) {
        for (bit, q) in out.iter_mut().enumerate() {
            *q |= ((byte >> bit) & 1) << 4;
        }
    }
}

/// A format of this family: its constants, and where a block of the file has what.
macro_rules! legacy {
    ($name:ident, $format:ident, $bits:literal, $quants:ty, mins: $mins:literal,
     |$rows:ident, $out:ident| $pack:block) => {
        /// The format of this name.
        pub(in super::super) struct $name;

        impl BlockFormat for $name {
            const FORMAT: Format = Format::$format;
            type Quants = $quants;
            const BITS: usize = $bits;
            type Header<D: Dots> = Scales<D>;

            fn pack_header(rows: &Rows<'_>, out: &mut [u8]) {
                interleave::<2>(rows, 0, out);
                if $mins {
                    interleave::<2>(rows, 2, &mut out[HALVES..]);
                }
            }

            fn pack_quants($rows: &Rows<'_>, _step: usize, $out: &mut [u8]) $pack

            #[inline(always)]
            unsafe fn header<D: Dots>(p: *const u8) -> Scales<D> {
                // SAFETY: the header holds eight halves, or twice eight where there are minima.
                unsafe {
                    let scale = D::load_f16(p);
                    let min = if $mins { D::load_f16(p.add(HALVES)) } else { scale };
                    Scales { scale: [scale; 2], min: [min; 2] }
                }
            }

            #[inline(always)]
            unsafe fn scales<D: Dots>(header: &Scales<D>, _step: usize) -> Scales<D> {
                Scales { ..*header }
            }

            #[inline(always)]
            unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS] {
                // SAFETY: the caller's promise.
                unsafe { planes::unpack::<D, $bits>(p) }
            }
        }
    };
}

legacy!(Q4_0, Q4_0, 4, Unsigned<8, 15, 1, false>, mins: false, |rows, out| {
    planes::interleave(4, rows, 2, out);
});
legacy!(Q4_1, Q4_1, 4, Unsigned<0, 15, 1, true>, mins: true, |rows, out| {
    planes::interleave(4, rows, 4, out);
});
legacy!(Q5_0, Q5_0, 5, Unsigned<16, 31, 1, false>, mins: false, |rows, out| {
    pack_each(5, rows, out, |block, out| {
        nibbles(&block[6..], out);
        fifth_bits(&block[2..6], out);
    });
});
legacy!(Q5_1, Q5_1, 5, Unsigned<0, 31, 1, true>, mins: true, |rows, out| {
    pack_each(5, rows, out, |block, out| {
        nibbles(&block[8..], out);
        fifth_bits(&block[4..8], out);
    });
});
legacy!(Q8_0, Q8_0, 8, Signed, mins: false, |rows, out| {
    planes::interleave(8, rows, 2, out);
});
