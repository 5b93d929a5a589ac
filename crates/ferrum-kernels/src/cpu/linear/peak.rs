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
    // SAFETY: the instruction set is available.
    unsafe {
        match isa {
            Isa::Portable => tile::<PortableDots>(rounds),
            Isa::Avx2 => kinds::avx2(rounds),
            Isa::AvxVnni if Isa::vex_vnni() => kinds::avx_vnni(rounds),
            Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => kinds::vnni(rounds),
            Isa::NeonDot => kinds::dotprod(rounds),
            Isa::NeonI8mm => kinds::i8mm(rounds),
        }
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

/// [`tile`] for each kind of dot products, with the attribute given; those that other processors
/// have are plain Rust, and never called.
macro_rules! kinds {
    ($($name:ident: $dots:ty $(, $attribute:meta)?;)*) => {
        mod kinds {
            use super::*;

            $($(#[$attribute])?
            pub(super) unsafe fn $name(rounds: usize) {
                tile::<$dots>(rounds);
            })*
        }
    };
}

#[cfg(target_arch = "x86_64")]
use super::dots::{Avx2Dots, AvxVnniDots, VnniDots};
#[cfg(target_arch = "x86_64")]
kinds! {
    avx2: Avx2Dots, target_feature(enable = "avx2,fma,f16c");
    avx_vnni: AvxVnniDots, target_feature(enable = "avx2,fma,f16c,avxvnni");
    vnni: VnniDots, target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni");
    dotprod: PortableDots;
    i8mm: PortableDots;
}

#[cfg(target_arch = "aarch64")]
use super::dots::{DotDots, MatrixDots};
#[cfg(target_arch = "aarch64")]
kinds! {
    avx2: PortableDots;
    avx_vnni: PortableDots;
    vnni: PortableDots;
    dotprod: DotDots, target_feature(enable = "neon,dotprod");
    i8mm: MatrixDots, target_feature(enable = "neon,dotprod,i8mm");
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
kinds! {
    avx2: PortableDots;
    avx_vnni: PortableDots;
    vnni: PortableDots;
    dotprod: PortableDots;
    i8mm: PortableDots;
}
