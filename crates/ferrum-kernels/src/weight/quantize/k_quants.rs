//! The formats of blocks of 256 values: Q2_K to Q6_K, and IQ4_XS.

use super::legacy::put_nibbles;
use super::levels::{Uneven, Whole};
use super::superblock::{Affine, AffineShape, Signed, SignedShape};

const Q2: AffineShape = AffineShape { highest: 3.0, sub: 16, most: 15.0 };
const Q4: AffineShape = AffineShape { highest: 15.0, sub: 32, most: 63.0 };
const Q5: AffineShape = AffineShape { highest: 31.0, ..Q4 };

const Q3: SignedShape<Whole> = SignedShape { levels: Whole(-4.0, 3.0), sub: 16, lowest: -32.0 };
const Q6: SignedShape<Whole> = SignedShape { levels: Whole(-32.0, 31.0), lowest: -128.0, ..Q3 };
const XS: SignedShape<Uneven> = SignedShape { levels: Uneven, sub: 32, lowest: -32.0 };

pub(super) fn q2_k(x: &[f32; 256]) -> [u8; 84] {
    let Affine { d, dmin, scales, mins, codes } = Q2.quantize(x);
    let mut out = [0; 84];
    for (out, (scale, min)) in out.iter_mut().zip(scales.iter().zip(mins)) {
        *out = scale | min << 4;
    }
    put_two_bits(&mut out[16..80], &codes);
    out[80..82].copy_from_slice(&d.to_le_bytes());
    out[82..].copy_from_slice(&dmin.to_le_bytes());
    out
}

pub(super) fn q3_k(x: &[f32; 256]) -> [u8; 110] {
    let Signed { d, scales, levels } = Q3.quantize(x);
    let codes = levels.map(|level| (level + 4.0) as u8);
    let mut out = [0; 110];
    put_high_bits(&mut out[..32], &codes.map(|code| code >> 2));
    put_two_bits(&mut out[32..96], &codes.map(|code| code & 3));
    for (i, scale) in scales.iter().enumerate() {
        let code = (scale + 32) as u8;
        out[96 + i % 8] |= (code & 15) << (4 * (i / 8));
        out[104 + i % 4] |= (code >> 4) << (2 * (i / 4));
    }
    out[108..].copy_from_slice(&d.to_le_bytes());
    out
}

pub(super) fn q4_k(x: &[f32; 256]) -> [u8; 144] {
    let block = Q4.quantize(x);
    let mut out = [0; 144];
    out[..16].copy_from_slice(&head(&block));
    put_four_bits(&mut out[16..], &block.codes);
    out
}

pub(super) fn q5_k(x: &[f32; 256]) -> [u8; 176] {
    let block = Q5.quantize(x);
    let mut out = [0; 176];
    out[..16].copy_from_slice(&head(&block));
    put_high_bits(&mut out[16..48], &block.codes.map(|code| code >> 4));
    put_four_bits(&mut out[48..], &block.codes.map(|code| code & 15));
    out
}

pub(super) fn q6_k(x: &[f32; 256]) -> [u8; 210] {
    let Signed { d, scales, levels } = Q6.quantize(x);
    let codes = levels.map(|level| (level + 32.0) as u8);
    let mut out = [0; 210];
    for (i, code) in codes.iter().enumerate() {
        let (half, j) = (i / 128, i % 128);
        out[half * 64 + j % 64] |= (code & 15) << (4 * (j / 64));
    }
    put_two_bits(&mut out[128..192], &codes.map(|code| code >> 4));
    for (out, scale) in out[192..208].iter_mut().zip(scales) {
        *out = scale as u8;
    }
    out[208..].copy_from_slice(&d.to_le_bytes());
    out
}

pub(super) fn iq4_xs(x: &[f32; 256]) -> [u8; 136] {
    let Signed { d, scales, levels } = XS.quantize(x);
    let mut out = [0; 136];
    out[..2].copy_from_slice(&d.to_le_bytes());
    for (i, scale) in scales.iter().take(8).enumerate() {
        let code = (scale + 32) as u8;
        out[2 + i / 4] |= (code >> 4) << (2 * (i % 4));
        out[4 + i / 2] |= (code & 15) << (4 * (i % 2));
    }
    for (levels, out) in levels.as_chunks::<32>().0.iter().zip(out[8..].chunks_exact_mut(16)) {
        put_nibbles(out, &levels.map(Uneven::code));
    }
    out
}

/// What Q4_K and Q5_K begin with: `f16 d, f16 dmin, u8 scales[12]`.
fn head(block: &Affine) -> [u8; 16] {
    let mut out = [0; 16];
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    out[2..4].copy_from_slice(&block.dmin.to_le_bytes());
    for j in 0..4 {
        let (low, high) = (block.scales[j], block.scales[j + 4]);
        out[4 + j] = low | (high >> 4) << 6;
        let (low, high_min) = (block.mins[j], block.mins[j + 4]);
        out[8 + j] = low | (high_min >> 4) << 6;
        out[12 + j] = (high & 15) | high_min << 4;
    }
    out
}

/// Two-bit values, 128 in each 32 bytes.
fn put_two_bits(out: &mut [u8], codes: &[u8; 256]) {
    for (i, code) in codes.iter().enumerate() {
        out[i / 128 * 32 + i % 32] |= code << (2 * (i / 32 % 4));
    }
}

/// Four-bit values, 64 in each 32 bytes.
fn put_four_bits(out: &mut [u8], codes: &[u8; 256]) {
    for (i, code) in codes.iter().enumerate() {
        out[i / 64 * 32 + i % 32] |= code << (4 * (i / 32 % 2));
    }
}

/// One bit of each value: bit `j` of byte `i` belongs to value `i` of the `j`-th 32.
fn put_high_bits(out: &mut [u8], bits: &[u8; 256]) {
    for (i, bit) in bits.iter().enumerate() {
        out[i % 32] |= bit << (i / 32);
    }
}
