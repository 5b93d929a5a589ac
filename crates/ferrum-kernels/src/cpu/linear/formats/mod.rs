//! The block formats: how each is packed, and what its packed blocks hold.
//!
//! A packed block is that of eight rows in one: a header with the scales of all (eight numbers of
//! a kind side by side), then the quants of each 32 columns as [`super::planes`]. It takes exactly
//! the bytes of eight blocks of the file. A new format is one more implementation of
//! [`BlockFormat`], and a line in [`super::kernels`].

mod iq4;
mod k_quants;
mod legacy;
mod zero_point;

pub(super) use iq4::{Iq4Nl, Iq4Xs, Mxfp4};
pub(super) use k_quants::{Q2K, Q3K, Q4K, Q5K, Q6K};
pub(super) use legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(super) use zero_point::Q4Z;

use super::dots::{Dots, ROWS};
use super::planes::{self, STEP, VECTORS};
use crate::Format;

/// What quants mean, as constants that the kernels are generic over: a weight is
/// `scale · (q - ZERO) + min`.
pub(super) trait Quants: 'static {
    /// Whether quants are `i8`, rather than `u8` in `0..=MAX`.
    const SIGNED: bool;
    /// Subtracted from unsigned quants; a power of two, or 0.
    const ZERO: u8;
    /// Largest unsigned quant.
    const MAX: u8;
    /// Scales (and minima) per 32 columns: 1 or 2.
    const SUBS: usize;
    /// Whether there are minima.
    const MINS: bool;
}

/// [`Quants`] without a sign.
pub(super) struct Unsigned<const ZERO: u8, const MAX: u8, const SUBS: usize, const MINS: bool>;

impl<const ZERO: u8, const MAX: u8, const SUBS: usize, const MINS: bool> Quants
    for Unsigned<ZERO, MAX, SUBS, MINS>
{
    const SIGNED: bool = false;
    const ZERO: u8 = {
        assert!(ZERO == 0 || ZERO.is_power_of_two());
        ZERO
    };
    const MAX: u8 = MAX;
    const SUBS: usize = SUBS;
    const MINS: bool = MINS;
}

/// [`Quants`] with a sign, and one scale per 32 columns.
pub(super) struct Signed;

impl Quants for Signed {
    const SIGNED: bool = true;
    const ZERO: u8 = 0;
    const MAX: u8 = 127;
    const SUBS: usize = 1;
    const MINS: bool = false;
}

/// Scales and minima of 32 columns of eight rows; of each, the first [`Quants::SUBS`] count.
pub(super) struct Scales<D: Dots> {
    pub(super) scale: [D::Floats; 2],
    pub(super) min: [D::Floats; 2],
}

impl<D: Dots> Scales<D> {
    /// One scale for the 32 columns.
    #[inline(always)]
    fn one(scale: D::Floats) -> Self {
        Scales { scale: [scale; 2], min: [scale; 2] }
    }
}

/// One row's block of the file, for packing.
pub(super) type Rows<'a> = [&'a [u8]; ROWS];

/// A format whose values come in blocks.
pub(super) trait BlockFormat: 'static {
    /// Its name.
    const FORMAT: Format;
    /// What its quants mean.
    type Quants: Quants;
    /// Bits of a stored quant.
    const BITS: usize;
    /// What a packed block's header is read into; it may refer to the packed block.
    type Header<D: Dots>;

    /// Steps of 32 columns in a block.
    const STEPS: usize = Self::FORMAT.block_len() / STEP;
    /// Bytes of a packed block.
    const BYTES: usize = Self::FORMAT.block_bytes() * ROWS;
    /// Bytes of a packed block's header.
    const HEADER_BYTES: usize = Self::BYTES - Self::STEPS * Self::BITS * STEP;

    /// Packs the headers of eight rows into `HEADER_BYTES` bytes.
    fn pack_header(rows: &Rows<'_>, out: &mut [u8]);

    /// Packs the quants of a step of eight rows into `BITS · 32` bytes: [`planes::interleave`] where the
    /// file has them in the order of the planes, else [`pack_each`].
    fn pack_quants(rows: &Rows<'_>, step: usize, out: &mut [u8]);

    /// Reads a packed block's header.
    ///
    /// # Safety
    /// `HEADER_BYTES` bytes must be readable.
    unsafe fn header<D: Dots>(p: *const u8) -> Self::Header<D>;

    /// Scales and minima of a step.
    ///
    /// # Safety
    /// There must be such a step, and the packed block be as it was when the header was read.
    unsafe fn scales<D: Dots>(header: &Self::Header<D>, step: usize) -> Scales<D>;

    /// The quants of a step, whose packed bytes begin at `p`.
    ///
    /// # Safety
    /// `BITS · 32` bytes must be readable.
    unsafe fn quants<D: Dots>(p: *const u8) -> [D::Bytes; VECTORS];
}

/// The quants of a step as kernels take them.
///
/// # Safety
/// `BITS · 32` bytes must be readable.
#[inline(always)]
pub(super) unsafe fn vectors<D: Dots, F: BlockFormat>(p: *const u8) -> [D::Bytes; VECTORS] {
    // SAFETY: the caller's promise.
    let mut quants = unsafe { F::quants::<D>(p) };
    if F::Quants::SIGNED {
        for v in &mut quants {
            *v = D::prepare_signed(*v);
        }
    }
    quants
}

/// Writes eight numbers of `N` bytes, one of each row at `offset` of its block, side by side.
fn interleave<const N: usize>(rows: &Rows<'_>, offset: usize, out: &mut [u8]) {
    for (row, out) in rows.iter().zip(out.chunks_exact_mut(N)) {
        out.copy_from_slice(&row[offset..offset + N]);
    }
}

/// Packs quants of `bits` bits, of which `stored` gives those of a row's block.
fn pack_each(
    bits: usize,
    rows: &Rows<'_>,
    packed: &mut [u8],
    stored: impl Fn(&[u8], &mut [u8; STEP]),
) {
    let mut quants = [[0; STEP]; ROWS];
    for (quants, block) in quants.iter_mut().zip(rows) {
        stored(block, quants);
    }
    planes::pack(bits, &quants, packed);
}

/// 32 nibbles in 16 bytes, the first half in the low ones.
fn nibbles(bytes: &[u8], out: &mut [u8; STEP]) {
    let (low, high) = out.split_at_mut(STEP / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&bytes[..STEP / 2]) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}
