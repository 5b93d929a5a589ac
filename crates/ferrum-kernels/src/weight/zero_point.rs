//! Plain dequantisation of Q4_Z: 4 bits, of which 32 share a scale and a zero point.

use super::legacy::nibble;
use super::scale;

/// `f16 d, u8 z, u8 q[16]`: `d · (q - z)`
///
/// Values are those of GPTQ (Frantar et al. 2022, arXiv:2210.17323) and AWQ (Lin et al. 2023,
/// arXiv:2306.00978), whose groups of columns have one scale and zero point each. Nibbles are in
/// the order of Q4_0.
pub(super) fn q4_z(block: &[u8; 19], out: &mut [f32; 32]) {
    let (d, z) = (scale(block, 0), i16::from(block[2]));
    for (i, v) in out.iter_mut().enumerate() {
        *v = d * f32::from(i16::from(nibble(&block[3..], i)) - z);
    }
}
