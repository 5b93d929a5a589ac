//! How fast the dot products of an instruction set are where nothing else holds them up: the tile
//! of the GEMM over weights and activations that never leave the first-level cache.

use std::hint::black_box;

use super::super::Isa;
use super::dots::{Dots, PortableDots, VECTOR};
use super::planes::VECTORS;

/// Groups of eight rows, and tokens, of the tile: as in the largest kernels.
const GROUPS: usize = 2;
const TOKENS: usize = 4;

/// Operations of `rounds` rounds, a multiply-add counted as two.
pub(in super::super) fn dot_operations(rounds: usize) -> usize {
    2 * VECTOR * VECTORS * GROUPS * TOKENS * (rounds / VECTORS)
}

/// Multiplies for `rounds / 8` times 32 columns. `isa` must be available.
pub(in super::super) fn dot_products(isa: Isa, rounds: usize) {
    match isa {
        Isa::Portable => tile::<PortableDots>(rounds),
        // SAFETY: the instruction set is available.
        Isa::Avx2 => unsafe { x86::avx2(rounds) },
        // SAFETY: as above.
        Isa::Avx512Vnni => unsafe { x86::vnni(rounds) },
    }
}

#[inline(always)]
fn tile<D: Dots>(rounds: usize) {
    let weights = [1u8; VECTORS * GROUPS * VECTOR];
    let activations = [0x0101_0101i32; VECTORS * TOKENS];
    let mut ints = [[D::zero(); TOKENS]; GROUPS];
    for _ in 0..rounds / VECTORS {
        // Taken for new in each round, or the compiler would multiply once.
        let (weights, activations) = (black_box(&weights), black_box(&activations));
        let mut sums = [[D::start(0, &[]); TOKENS]; GROUPS];
        for v in 0..VECTORS {
            let vectors: [D::Bytes; GROUPS] = std::array::from_fn(|g| {
                // SAFETY: one of the vectors of the array.
                unsafe { D::load_bytes(weights[(v * GROUPS + g) * VECTOR..].as_ptr()) }
            });
            for t in 0..TOKENS {
                let a = activations[v * TOKENS + t];
                for (sums, w) in sums.iter_mut().zip(vectors) {
                    sums[t] = D::dot(sums[t], w, a);
                }
            }
        }
        for (ints, sums) in ints.iter_mut().zip(sums) {
            for (ints, sums) in ints.iter_mut().zip(sums) {
                *ints = D::finish(*ints, sums);
            }
        }
    }
    black_box(ints);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::dots::{Avx2Dots, VnniDots};
    use super::tile;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2(rounds: usize) {
        tile::<Avx2Dots>(rounds);
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
    pub(super) unsafe fn vnni(rounds: usize) {
        tile::<VnniDots>(rounds);
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    use super::{PortableDots, tile};

    pub(super) unsafe fn avx2(rounds: usize) {
        tile::<PortableDots>(rounds);
    }

    pub(super) unsafe fn vnni(rounds: usize) {
        tile::<PortableDots>(rounds);
    }
}
