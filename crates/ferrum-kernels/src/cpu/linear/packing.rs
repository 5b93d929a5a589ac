//! Bringing a weight from the order of the file into that of the kernels: eight rows in one.

use super::dots::ROWS;
use super::formats::BlockFormat;
use super::planes::{self, STEP};

/// Packs the rows of a group, at most eight; those missing are zero. `out` takes the bytes of eight
/// rows.
pub(super) fn group<F: BlockFormat>(rows: &[&[u8]], out: &mut [u8]) {
    let block_bytes = F::FORMAT.block_bytes();
    // Long enough for the largest block, 210 bytes.
    let zeroes = [0; 256];
    let mut quants = [[0; STEP]; ROWS];
    for (b, packed) in out.chunks_exact_mut(F::BYTES).enumerate() {
        let blocks = std::array::from_fn(|r| match rows.get(r) {
            Some(row) => &row[b * block_bytes..][..block_bytes],
            None => &zeroes[..block_bytes],
        });
        let (header, steps) = packed.split_at_mut(F::HEADER_BYTES);
        F::pack_header(&blocks, header);
        for (step, out) in steps.chunks_exact_mut(F::BITS * STEP).enumerate() {
            for (quants, block) in quants.iter_mut().zip(&blocks) {
                F::stored_quants(block, step, quants);
            }
            planes::pack(F::BITS, &quants, out);
        }
    }
}

/// Packs the rows of a group of single numbers of `bytes` bytes each.
pub(super) fn float_group(bytes: usize, rows: &[&[u8]], out: &mut [u8]) {
    for (k, out) in out.chunks_exact_mut(ROWS * bytes).enumerate() {
        for (r, out) in out.chunks_exact_mut(bytes).enumerate() {
            match rows.get(r) {
                Some(row) => out.copy_from_slice(&row[k * bytes..][..bytes]),
                None => out.fill(0),
            }
        }
    }
}
