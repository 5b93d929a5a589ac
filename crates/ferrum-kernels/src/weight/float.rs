//! Plain dequantisation of formats of single numbers: F32, F16, BF16 (little-endian), E4M3.

use half::{bf16, f16};

use crate::E4m3;

/// IEEE single precision.
pub(super) fn f32(block: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = f32::from_le_bytes(*block);
}

/// IEEE half precision.
pub(super) fn f16(block: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = f16::from_le_bytes(*block).to_f32();
}

/// bfloat16: the upper half of a single.
pub(super) fn bf16(block: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = bf16::from_le_bytes(*block).to_f32();
}

/// A float of eight bits.
pub(super) fn e4m3(block: &[u8; 1], out: &mut [f32; 1]) {
    out[0] = E4m3::from_bits(block[0]).to_f32();
}
