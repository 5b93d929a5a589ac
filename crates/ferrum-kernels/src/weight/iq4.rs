//! Plain dequantisation of the 4-bit formats with a table of unevenly spaced values: IQ4_NL and
//! IQ4_XS.

use super::legacy::nibble;
use super::scale;

/// The value of each 4-bit code.
pub(crate) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `f16 d, u8 q[16]`: `d · VALUES[q]`, nibbles as in Q4_0.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = scale(block, 0);
    for (i, v) in out.iter_mut().enumerate() {
        *v = d * f32::from(VALUES[usize::from(nibble(&block[2..], i))]);
    }
}

/// `f16 d, u16 scales_h, u8 scales_l[4], u8 q[128]`: `d · sc · VALUES[q]`, `sc` of 32 values each;
/// every 32 values lie in 16 bytes as in IQ4_NL.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = scale(block, 0);
    let scales = iq4_xs_scales(&block[2..8]);
    for (i, v) in out.iter_mut().enumerate() {
        let q = nibble(&block[8 + i / 32 * 16..], i % 32);
        *v = d * f32::from(scales[i / 32]) * f32::from(VALUES[usize::from(q)]);
    }
}

/// The eight scales of an IQ4_XS block, -32 to 31, from its 6 bytes: a little-endian word of upper
/// bit pairs, then the low nibbles, two in a byte.
pub(crate) fn iq4_xs_scales(bytes: &[u8]) -> [i8; 8] {
    std::array::from_fn(|i| {
        let low = (bytes[2 + i / 2] >> (4 * (i % 2))) & 15;
        let high = (bytes[i / 4] >> (2 * (i % 4))) & 3;
        (low | high << 4) as i8 - 32
    })
}
