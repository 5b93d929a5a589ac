//! Plain dequantisation of the formats with one scale per 32 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! In the 4-bit and 5-bit formats byte `i` holds value `i` in its low nibble and value `i + 16` in
//! its high one; the fifth bits of all values lie in one little-endian 32-bit word.

use super::scale;

/// `f16 d, u8 q[16]`: `d · (q - 8)`
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = scale(block, 0);
    for (i, v) in out.iter_mut().enumerate() {
        *v = d * f32::from(nibble(&block[2..], i) as i8 - 8);
    }
}

/// `f16 d, f16 m, u8 q[16]`: `d · q + m`
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    for (i, v) in out.iter_mut().enumerate() {
        *v = d * f32::from(nibble(&block[4..], i)) + m;
    }
}

/// `f16 d, u32 h, u8 q[16]`: `d · (q - 16)`
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = scale(block, 0);
    for (i, v) in out.iter_mut().enumerate() {
        let q = nibble(&block[6..], i) | fifth_bit(&block[2..6], i);
        *v = d * f32::from(q as i8 - 16);
    }
}

/// `f16 d, f16 m, u32 h, u8 q[16]`: `d · q + m`
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    for (i, v) in out.iter_mut().enumerate() {
        let q = nibble(&block[8..], i) | fifth_bit(&block[4..8], i);
        *v = d * f32::from(q) + m;
    }
}

/// `f16 d, i8 q[32]`: `d · q`
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = scale(block, 0);
    for (v, &q) in out.iter_mut().zip(&block[2..]) {
        *v = f32::from(q as i8) * d;
    }
}

/// Value `i` of 32 nibbles in 16 bytes.
pub(super) fn nibble(bytes: &[u8], i: usize) -> u8 {
    (bytes[i % 16] >> (4 * (i / 16))) & 15
}

/// Bit `i` of 4 bytes, as bit 4 of a value.
fn fifth_bit(bytes: &[u8], i: usize) -> u8 {
    ((bytes[i / 8] >> (i % 8)) & 1) << 4
}
