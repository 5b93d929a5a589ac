//! Plain dequantisation of MXFP4: 4-bit floats (E2M1) that share a power of two per 32 values.
//!
//! The number formats are those of the OCP Microscaling Formats (MX) specification 1.0; the order
//! of the nibbles is that of Q4_0.

use super::legacy::nibble;

/// Twice the value of each E2M1 code; doubled, all are integers.
pub(crate) const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `u8 e, u8 q[16]`: `half_scale(e) · VALUES[q]`
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let d = half_scale(block[0]);
    for (i, v) in out.iter_mut().enumerate() {
        *v = d * f32::from(VALUES[usize::from(nibble(&block[1..], i))]);
    }
}

/// Half of the E8M0 scale `2^(e - 127)`, to make up for the doubled [`VALUES`]. The two smallest
/// are subnormal singles. `e = 255`, not a number in the specification, continues the series.
pub(crate) fn half_scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        _ => u32::from(e - 1) << 23,
    })
}
