//! Bringing a weight from the order of the file into that of the kernels: eight rows in one.

use super::dots::ROWS;
use super::formats::BlockFormat;
use super::planes::STEP;

/// Packs the rows of a group, at most eight; those missing are zero. `out` takes the bytes of eight
/// rows.
pub(super) fn group<F: BlockFormat>(rows: &[&[u8]], out: &mut [u8]) {
    let block_bytes = F::FORMAT.block_bytes();
    // Long enough for the largest block, 210 bytes.
    let zeroes = [0; 256];
    for (b, packed) in out.chunks_exact_mut(F::BYTES).enumerate() {
        let blocks = std::array::from_fn(|r| match rows.get(r) {
            Some(row) => &row[b * block_bytes..][..block_bytes],
            None => &zeroes[..block_bytes],
        });
        let (header, steps) = packed.split_at_mut(F::HEADER_BYTES);
        F::pack_header(&blocks, header);
        for (step, out) in steps.chunks_exact_mut(F::BITS * STEP).enumerate() {
            F::pack_quants(&blocks, step, out);
        }
    }
}

/// Packs the rows of a group of single numbers of `bytes` bytes each.
pub(super) fn float_group(bytes: usize, rows: &[&[u8]], out: &mut [u8]) {
    match bytes {
        2 => interleave::<2>(rows, out),
        _ => interleave::<4>(rows, out),
    }
}

/// Writes number after number those of all rows.
fn interleave<const N: usize>(rows: &[&[u8]], out: &mut [u8]) {
    let out = out.as_chunks_mut::<N>().0.as_chunks_mut::<ROWS>().0;
    let numbers = |r: usize| rows.get(r).map_or(&[][..], |row| row.as_chunks::<N>().0);
    let rows: [&[[u8; N]]; ROWS] = std::array::from_fn(numbers);
    if rows.iter().all(|row| row.len() == out.len()) {
        for (k, out) in out.iter_mut().enumerate() {
            *out = rows.map(|row| row[k]);
        }
        return;
    }
    for (k, out) in out.iter_mut().enumerate() {
        *out = rows.map(|row| row.get(k).copied().unwrap_or([0; N]));
    }
}
