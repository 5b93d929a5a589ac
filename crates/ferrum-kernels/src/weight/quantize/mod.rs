//! From `f32` to the formats on disk: the inverse of the plain dequantisation beside it.
//!
//! The layouts are those of GGUF. How scales are chosen is not part of a format: here they minimise a
//! weighted squared error ([`search`]), first of each sub-block, then of the block with the scales
//! as they are stored ([`superblock`]).

mod k_quants;
mod legacy;
mod levels;
mod search;
mod superblock;

use half::{bf16, f16};

use super::{Format, check_size};
use crate::{KernelError, Result};

/// The largest magnitude that formats with scales in half precision are given.
pub const LARGEST: f32 = 65504.0;

/// Quantises one row: the inverse of [`super::dequantize_row`].
///
/// Fails where lengths do not fit, where a value is not finite or beyond [`LARGEST`] in a format
/// whose scales could not hold it, and for formats that cannot be written (MXFP4, Q4_Z, F8_E4M3).
pub fn quantize_row(format: Format, src: &[f32], dst: &mut [u8]) -> Result<()> {
    check_size(format, 1, src.len(), dst.len())?;
    let bound = match format {
        Format::F32 | Format::BF16 => f32::MAX,
        _ => LARGEST,
    };
    if let Some(value) = src.iter().find(|v| v.is_nan() || v.abs() > bound) {
        return Err(KernelError::shape(
            "quantize",
            format!("the value {value} is beyond {format}"),
        ));
    }
    match format {
        Format::F32 => blocks(src, dst, |[x]: &[f32; 1]| x.to_le_bytes()),
        Format::F16 => blocks(src, dst, |[x]: &[f32; 1]| f16::from_f32(*x).to_le_bytes()),
        Format::BF16 => blocks(src, dst, |[x]: &[f32; 1]| brain(*x).to_le_bytes()),
        Format::Q4_0 => blocks(src, dst, legacy::q4_0),
        Format::Q4_1 => blocks(src, dst, legacy::q4_1),
        Format::Q5_0 => blocks(src, dst, legacy::q5_0),
        Format::Q5_1 => blocks(src, dst, legacy::q5_1),
        Format::Q8_0 => blocks(src, dst, legacy::q8_0),
        Format::Q2_K => blocks(src, dst, k_quants::q2_k),
        Format::Q3_K => blocks(src, dst, k_quants::q3_k),
        Format::Q4_K => blocks(src, dst, k_quants::q4_k),
        Format::Q5_K => blocks(src, dst, k_quants::q5_k),
        Format::Q6_K => blocks(src, dst, k_quants::q6_k),
        Format::IQ4_NL => blocks(src, dst, legacy::iq4_nl),
        Format::IQ4_XS => blocks(src, dst, k_quants::iq4_xs),
        Format::MXFP4 | Format::Q4_Z | Format::F8_E4M3 => {
            let what = format!("{format} is not written");
            return Err(KernelError::shape("quantize", what));
        }
    }
    Ok(())
}

/// The nearest number of bfloat16, or the largest one where that would be infinite.
fn brain(x: f32) -> bf16 {
    let nearest = bf16::from_f32(x);
    if nearest.is_infinite() { bf16::MAX.copysign(nearest) } else { nearest }
}

/// Applies the quantisation of one block to all.
fn blocks<const BYTES: usize, const LEN: usize>(
    src: &[f32],
    dst: &mut [u8],
    quantize: impl Fn(&[f32; LEN]) -> [u8; BYTES],
) {
    for (block, out) in src.as_chunks().0.iter().zip(dst.as_chunks_mut().0) {
        *out = quantize(block);
    }
}
