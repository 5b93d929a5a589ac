//! Plain dequantisation of the K formats: blocks of 256 values, with sub-blocks of 16 or 32 values
//! whose scales (and minima) are themselves quantised.
//!
//! Two-bit and four-bit fields are spread in steps of 32 values: byte `j` of a group of 32 bytes
//! holds values `j`, `j + 32`, … of the group, from its low bits upwards.

use super::scale;

/// `u8 scales[16], u8 q[64], f16 d, f16 dmin`: `d · sc · q - dmin · m`, where each byte of
/// `scales` holds `sc` (low nibble) and `m` (high) of 16 values.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, q) = (&block[..16], &block[16..80]);
    let (d, dmin) = (scale(block, 80), scale(block, 82));
    for (i, v) in out.iter_mut().enumerate() {
        let sc = scales[i / 16];
        let (dl, ml) = (d * f32::from(sc & 15), dmin * f32::from(sc >> 4));
        *v = dl * f32::from(two_bits(q, i)) - ml;
    }
}

/// `u8 hmask[32], u8 q[64], u8 scales[12], f16 d`: `d · sc · (q - 4·!h)`, `sc` of 16 values
/// each.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (hmask, q) = (&block[..32], &block[32..96]);
    let d = scale(block, 108);
    let scales = q3_k_scales(&block[96..108]);
    for (i, v) in out.iter_mut().enumerate() {
        let high = (hmask[i % 32] >> (i / 32)) & 1;
        let value = two_bits(q, i) as i8 - if high == 0 { 4 } else { 0 };
        *v = d * f32::from(scales[i / 16]) * f32::from(value);
    }
}

/// `f16 d, f16 dmin, u8 scales[12], u8 q[128]`: `d · sc · q - dmin · m`, `sc` and `m` of 32 values
/// each.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let q = &block[16..];
    let (dl, ml) = k_scales(block);
    for (i, v) in out.iter_mut().enumerate() {
        *v = dl[i / 32] * f32::from(four_bits(q, i)) - ml[i / 32];
    }
}

/// `f16 d, f16 dmin, u8 scales[12], u8 h[32], u8 q[128]`: as Q4_K, with a fifth bit: bit `j` of
/// `h[i]` belongs to value `i` of the `j`-th 32.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (h, q) = (&block[16..48], &block[48..]);
    let (dl, ml) = k_scales(block);
    for (i, v) in out.iter_mut().enumerate() {
        let value = four_bits(q, i) | ((h[i % 32] >> (i / 32)) & 1) << 4;
        *v = dl[i / 32] * f32::from(value) - ml[i / 32];
    }
}

/// `u8 l[128], u8 h[64], i8 scales[16], f16 d`: `d · sc · (q - 32)`, where each half of 128 values
/// has its low nibbles in 64 bytes (in steps of 64 values) and its high bit pairs in 32 bytes.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = scale(block, 208);
    for (i, v) in out.iter_mut().enumerate() {
        let (half, j) = (i / 128, i % 128);
        let l = (low[half * 64 + j % 64] >> (4 * (j / 64))) & 15;
        let value = (l | two_bits(high, i) << 4) as i8 - 32;
        *v = d * f32::from(scales[i / 16] as i8) * f32::from(value);
    }
}

/// Two-bit value `i` of 256: 128 values in each 32 bytes.
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    (bytes[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4))) & 3
}

/// Four-bit value `i` of 256: 64 values in each 32 bytes.
fn four_bits(bytes: &[u8], i: usize) -> u8 {
    (bytes[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2))) & 15
}

/// Scale and minimum of each 32 values of a Q4_K or Q5_K block, which begin alike:
/// `f16 d, f16 dmin, u8 scales[12]`.
fn k_scales(block: &[u8]) -> ([f32; 8], [f32; 8]) {
    let (d, dmin) = (scale(block, 0), scale(block, 2));
    let (sc, m) = k_scale_mins(&block[4..16]);
    (sc.map(|v| d * f32::from(v)), m.map(|v| dmin * f32::from(v)))
}

/// The eight 6-bit scales and eight 6-bit minima of a Q4_K or Q5_K block, from its 12 bytes:
/// 0–3 hold scales 0–3, 4–7 minima 0–3, 8–11 the low nibbles of scales and minima 4–7, whose upper
/// two bits are those of bytes 0–7.
pub(crate) fn k_scale_mins(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (s, m, low) = (bytes[j], bytes[j + 4], bytes[j + 8]);
        scales[j] = s & 63;
        mins[j] = m & 63;
        scales[j + 4] = (low & 15) | (s >> 6) << 4;
        mins[j + 4] = (low >> 4) | (m >> 6) << 4;
    }
    (scales, mins)
}

/// The sixteen scales of a Q3_K block, -32 to 31, from its 12 bytes: 0–7 hold the low nibbles
/// (scales 0–7 low, 8–15 high), 8–11 the upper two bits of scales `j`, `j + 4`, `j + 8`, `j + 12`.
pub(crate) fn q3_k_scales(bytes: &[u8]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = (bytes[i % 8] >> (4 * (i / 8))) & 15;
        let high = (bytes[8 + i % 4] >> (2 * (i / 4))) & 3;
        (low | high << 4) as i8 - 32
    })
}
