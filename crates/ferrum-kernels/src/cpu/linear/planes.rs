//! The packed form of quants: 32 columns of eight rows as planes of 4, 2 and 1 bits (or bytes).
//!
//! A vector is 32 bytes: four neighbouring columns of row 0, then of row 1, … of row 7; the 32
//! columns of a step are eight such vectors. A plane of `b` bits puts the `b`-bit fields of `8/b`
//! vectors into the bytes of one, so a step of `bits`-bit quants takes `bits` times 32 bytes,
//! exactly the bytes of the file. Planes are stored from the low bits up: 3 bits are a plane of 2
//! and one of 1, 5 bits are 4 and 1, 6 bits are 4 and 2.

use super::dots::{Dots, ROWS, VECTOR};

/// Columns of a step.
pub(super) const STEP: usize = 32;

/// Vectors of a step.
pub(super) const VECTORS: usize = STEP / 4;

/// A plane: (bits per field, position of the field in the value).
type Plane = (usize, usize);

/// The planes that make up quants of `bits` bits.
const fn planes(bits: usize) -> &'static [Plane] {
    match bits {
        2 => &[(2, 0)],
        3 => &[(2, 0), (1, 2)],
        4 => &[(4, 0)],
        5 => &[(4, 0), (1, 4)],
        6 => &[(4, 0), (2, 4)],
        8 => &[(8, 0)],
        _ => panic!("no planes for this number of bits"),
    }
}

/// Packs the quants of a step, `rows[r][column]`, into `bits · 32` bytes.
pub(super) fn pack(bits: usize, rows: &[[u8; STEP]; ROWS], out: &mut [u8]) {
    out.fill(0);
    let mut out = out;
    for &(width, position) in planes(bits) {
        let (plane, rest) = out.split_at_mut(width * VECTOR);
        let mask = (0xff >> (8 - width)) as u8;
        for v in 0..VECTORS {
            let (vector, shift) = (v % width, v / width * width);
            let bytes = &mut plane[vector * VECTOR..][..VECTOR];
            for (four, row) in bytes.chunks_exact_mut(4).zip(rows) {
                for (byte, q) in four.iter_mut().zip(&row[4 * v..4 * v + 4]) {
                    *byte |= ((q >> position) & mask) << shift;
                }
            }
        }
        out = rest;
    }
}

/// Packs quants whose bytes are those of the planes already, `bits · 4` of each row from `offset` on.
pub(super) fn interleave(bits: usize, rows: &[&[u8]; ROWS], offset: usize, out: &mut [u8]) {
    let rows = rows.map(|row| row[offset..][..4 * bits].as_chunks::<4>().0);
    for (v, vector) in out.as_chunks_mut::<VECTOR>().0.iter_mut().take(bits).enumerate() {
        for (four, row) in vector.as_chunks_mut().0.iter_mut().zip(rows) {
            *four = row[v];
        }
    }
}

/// The eight vectors of a step.
///
/// # Safety
/// `BITS · 32` bytes must be readable at `p`.
#[inline(always)]
pub(super) unsafe fn unpack<D: Dots, const BITS: usize>(p: *const u8) -> [D::Bytes; VECTORS] {
    const { assert!(matches!(BITS, 2..=6 | 8), "no planes for this number of bits") };
    // SAFETY: every offset is below the sum of the planes' bytes, BITS · 32.
    unsafe {
        let mut out = [D::load_bytes(p); VECTORS];
        match BITS {
            8 => plane::<D, 8>(p, 0, &mut out),
            4 => plane::<D, 4>(p, 0, &mut out),
            2 => plane::<D, 2>(p, 0, &mut out),
            3 => {
                plane::<D, 2>(p, 0, &mut out);
                plane::<D, 1>(p.add(2 * VECTOR), 2, &mut out);
            }
            5 => {
                plane::<D, 4>(p, 0, &mut out);
                plane::<D, 1>(p.add(4 * VECTOR), 4, &mut out);
            }
            _ => {
                plane::<D, 4>(p, 0, &mut out);
                plane::<D, 2>(p.add(4 * VECTOR), 4, &mut out);
            }
        }
        out
    }
}

/// Puts the fields of a plane at their position in the values: the lowest plane first.
///
/// # Safety
/// `WIDTH · 32` bytes must be readable at `p`.
#[inline(always)]
unsafe fn plane<D: Dots, const WIDTH: usize>(
    p: *const u8,
    position: i32,
    out: &mut [D::Bytes; VECTORS],
) {
    let mask = (0xff_u8 >> (8 - WIDTH)) << position;
    for (v, out) in out.iter_mut().enumerate() {
        // SAFETY: v % WIDTH < WIDTH.
        let bytes = unsafe { D::load_bytes(p.add(v % WIDTH * VECTOR)) };
        let shift = (v / WIDTH * WIDTH) as i32;
        let field = D::field(bytes, shift - position, mask);
        *out = if position == 0 { field } else { D::or(*out, field) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::dots::PortableDots;
    use super::*;

    fn round_trip<const BITS: usize>() {
        let mask = (0xff_u32 >> (8 - BITS)) as u8;
        let rows: [[u8; STEP]; ROWS] = std::array::from_fn(|r| {
            std::array::from_fn(|c| ((r * 37 + c * 101 + 11 * r * c) as u8) & mask)
        });
        let mut packed = [0xaa_u8; 8 * VECTOR];
        let packed = &mut packed[..BITS * VECTOR];
        pack(BITS, &rows, packed);
        // SAFETY: BITS · 32 bytes were just written.
        let vectors = unsafe { unpack::<PortableDots, BITS>(packed.as_ptr()) };
        for (r, row) in rows.iter().enumerate() {
            for (c, q) in row.iter().enumerate() {
                assert_eq!(vectors[c / 4][4 * r + c % 4], *q, "{BITS} bits, row {r}, column {c}");
            }
        }
    }

    #[test]
    fn every_width_round_trips() {
        round_trip::<2>();
        round_trip::<3>();
        round_trip::<4>();
        round_trip::<5>();
        round_trip::<6>();
        round_trip::<8>();
    }
}
