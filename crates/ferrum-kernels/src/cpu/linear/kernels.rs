//! The kernels compiled for each instruction set, as tables of functions: a weight is given the
//! table of its format when it is packed.

use super::super::Isa;
use super::activations::{self, Block};
use super::dots::PortableDots;
#[cfg(target_arch = "x86_64")]
use super::dots::{AmxDots, Avx2Dots, AvxVnniDots, VnniDots};
#[cfg(target_arch = "aarch64")]
use super::dots::{DotDots, MatrixDots};
use super::float::{self, Element, FloatGemm};
use super::formats::{
    BlockFormat, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q4Z, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
    Quants,
};
use super::gemv::{self, Gemv};
use super::packing;
use super::panel::{self, Gemm, Panel};
use super::shorts::ShortKernels;
#[cfg(target_arch = "x86_64")]
use super::wide;
use crate::Format;

/// A kernel for 1, 2, 4, … tokens at once, as many as pay.
pub(super) type ByTokens<P> = &'static [unsafe fn(P)];

/// Kernels of a block format.
pub(super) struct BlockKernels {
    /// [`packing::group`]
    pub(super) pack: fn(&[&[u8]], &mut [u8]),
    /// [`gemv::gemv`]
    pub(super) gemv: ByTokens<Gemv>,
    /// [`panel::expand`]
    pub(super) expand: unsafe fn(*const u8, usize, usize, Panel),
    /// [`panel::gemm`]
    pub(super) gemm: ByTokens<Gemm>,
    /// Steps of 32 columns in a block.
    pub(super) steps: usize,
    /// What quants in an expanded panel mean.
    pub(super) meaning: Meaning,
}

/// [`Quants`] as values.
#[derive(Clone, Copy)]
pub(super) struct Meaning {
    pub(super) signed: bool,
    pub(super) zero: u8,
    pub(super) subs: usize,
    pub(super) mins: bool,
}

impl Meaning {
    const fn of<Q: Quants>() -> Self {
        Meaning { signed: Q::SIGNED, zero: Q::ZERO, subs: Q::SUBS, mins: Q::MINS }
    }
}

/// Kernels of a format.
#[derive(Clone, Copy)]
pub(super) enum Kernels {
    /// Columns in blocks, times quantised activations.
    Blocks(&'static BlockKernels),
    /// Single numbers, times `f32` activations.
    Floats(ByTokens<FloatGemm>),
    /// Single numbers that may be rounded, times rounded activations.
    Shorts(&'static ShortKernels),
}

/// Compiles the kernels for one implementation of [`Dots`], in functions with the attribute given:
/// each for some numbers of tokens, the panel kernel as an expression in `Q` and `T`.
macro_rules! compile {
    ($module:ident, $dots:ty, gemv [$($tokens:literal),*], float [$($float_tokens:literal),*],
     panel [$($gemm:tt)*] [$($gemm_tokens:literal),*] $(, $attribute:meta)?) => {
        pub(super) mod $module {
            use super::*;

            $(#[$attribute])?
            unsafe fn gemv<F: BlockFormat, const T: usize>(p: Gemv) {
                // SAFETY: the caller's promise.
                unsafe { gemv::gemv::<$dots, F, T>(p) }
            }

            $(#[$attribute])?
            unsafe fn expand<F: BlockFormat>(w: *const u8, blocks: usize, group: usize, p: Panel) {
                // SAFETY: the caller's promise.
                unsafe { panel::expand::<$dots, F>(w, blocks, group, p) }
            }

            $(#[$attribute])?
            unsafe fn gemm<Q: Quants, const T: usize>(p: Gemm) {
                // SAFETY: the caller's promise.
                unsafe { $($gemm)*(p) }
            }

            $(#[$attribute])?
            unsafe fn float_gemm<E: Element, const T: usize>(p: FloatGemm) {
                // SAFETY: the caller's promise.
                unsafe { float::gemm::<$dots, E, T>(p) }
            }

            $(#[$attribute])?
            unsafe fn quantize_with_features(x: &[f32], blocks: &mut [Block]) {
                activations::quantize(x, blocks);
            }

            /// [`activations::quantize`].
            ///
            /// # Safety
            /// The processor must have the instruction set.
            pub(in super::super) unsafe fn quantize(x: &[f32], blocks: &mut [Block]) {
                // SAFETY: the caller's promise.
                unsafe { quantize_with_features(x, blocks) }
            }

            pub(in super::super) fn blocks<F: BlockFormat>() -> Kernels {
                Kernels::Blocks(
                    &const {
                        BlockKernels {
                            pack: packing::group::<F>,
                            gemv: &[$(gemv::<F, $tokens>),*],
                            expand: expand::<F>,
                            gemm: &[$(gemm::<F::Quants, $gemm_tokens>),*],
                            steps: F::STEPS,
                            meaning: Meaning::of::<F::Quants>(),
                        }
                    },
                )
            }

            pub(in super::super) fn floats<E: Element>() -> Kernels {
                Kernels::Floats(const { &[$(float_gemm::<E, $float_tokens>),*] })
            }
        }
    };
}

// One token at a time: larger tiles only help where weights and sums stay in vector registers.
compile!(portable, PortableDots, gemv[1], float[1], panel[panel::gemm::<PortableDots, Q, T>][1]);

#[cfg(target_arch = "x86_64")]
compile!(
    avx2,
    Avx2Dots,
    gemv [1, 2, 4],
    float [1, 2, 4],
    panel [panel::gemm::<Avx2Dots, Q, T>] [1, 2, 4],
    target_feature(enable = "avx2,fma,f16c")
);
#[cfg(target_arch = "x86_64")]
compile!(
    avx_vnni,
    AvxVnniDots,
    gemv [1, 2, 4],
    float [1, 2, 4],
    panel [panel::gemm::<AvxVnniDots, Q, T>] [1, 2, 4],
    target_feature(enable = "avx2,fma,f16c,avxvnni")
);
// The same in the encoding of AVX-512, for tests on processors that have this one.
#[cfg(target_arch = "x86_64")]
compile!(
    avx_vnni_evex,
    VnniDots,
    gemv [1, 2, 4],
    float [1, 2, 4],
    panel [panel::gemm::<VnniDots, Q, T>] [1, 2, 4],
    target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")
);
// Twice the registers, so twice the tokens.
#[cfg(target_arch = "x86_64")]
compile!(
    vnni,
    VnniDots,
    gemv [1, 2, 4, 8],
    float [1, 2, 4, 8],
    panel [wide::gemm::<Q, T>] [1, 2, 4, 8],
    target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")
);
// What steps of few tokens do where the processor has AMX.
#[cfg(target_arch = "x86_64")]
compile!(
    amx,
    AmxDots,
    gemv [1, 2, 4, 8],
    float [1, 2, 4, 8],
    panel [wide::gemm::<Q, T>] [1, 2, 4, 8],
    target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")
);
#[cfg(not(target_arch = "x86_64"))]
use {
    portable as amx, portable as avx2, portable as avx_vnni, portable as avx_vnni_evex,
    portable as vnni,
};

#[cfg(target_arch = "aarch64")]
compile!(
    dotprod,
    DotDots,
    gemv [1, 2, 4],
    float [1, 2, 4],
    panel [panel::gemm::<DotDots, Q, T>] [1, 2, 4],
    target_feature(enable = "neon,dotprod")
);
#[cfg(target_arch = "aarch64")]
compile!(
    i8mm,
    MatrixDots,
    gemv [1, 2, 4],
    float [1, 2, 4],
    panel [panel::gemm::<MatrixDots, Q, T>] [1, 2, 4],
    target_feature(enable = "neon,dotprod,i8mm")
);
#[cfg(not(target_arch = "aarch64"))]
use {portable as dotprod, portable as i8mm};

/// The kernels of `format` for `isa`; `None` if there are none.
pub(super) fn kernels(isa: Isa, format: Format) -> Option<Kernels> {
    macro_rules! by_format {
        ($module:ident) => {
            match format {
                Format::F32 => $module::floats::<f32>(),
                Format::F16 => $module::floats::<half::f16>(),
                Format::BF16 => $module::floats::<half::bf16>(),
                Format::Q4_0 => $module::blocks::<Q4_0>(),
                Format::Q4_1 => $module::blocks::<Q4_1>(),
                Format::Q5_0 => $module::blocks::<Q5_0>(),
                Format::Q5_1 => $module::blocks::<Q5_1>(),
                Format::Q8_0 => $module::blocks::<Q8_0>(),
                Format::Q2_K => $module::blocks::<Q2K>(),
                Format::Q3_K => $module::blocks::<Q3K>(),
                Format::Q4_K => $module::blocks::<Q4K>(),
                Format::Q5_K => $module::blocks::<Q5K>(),
                Format::Q6_K => $module::blocks::<Q6K>(),
                Format::IQ4_NL => $module::blocks::<Iq4Nl>(),
                Format::IQ4_XS => $module::blocks::<Iq4Xs>(),
                Format::MXFP4 => $module::blocks::<Mxfp4>(),
                Format::Q4_Z => $module::blocks::<Q4Z>(),
                Format::F8_E4M3 => return None,
            }
        };
    }
    Some(match isa {
        Isa::Portable => by_format!(portable),
        Isa::Avx2 => by_format!(avx2),
        Isa::AvxVnni if Isa::vex_vnni() => by_format!(avx_vnni),
        Isa::AvxVnni => by_format!(avx_vnni_evex),
        Isa::Avx512Vnni => by_format!(vnni),
        Isa::Amx => by_format!(amx),
        Isa::NeonDot => by_format!(dotprod),
        Isa::NeonI8mm => by_format!(i8mm),
    })
}

/// Quantises activations: one [`Block`] for each 32 values.
pub(super) fn quantize(isa: Isa, x: &[f32], blocks: &mut [Block]) {
    // SAFETY: a stream holds only instruction sets that the processor has.
    unsafe {
        match isa {
            Isa::Portable => portable::quantize(x, blocks),
            Isa::Avx2 => avx2::quantize(x, blocks),
            Isa::AvxVnni if Isa::vex_vnni() => avx_vnni::quantize(x, blocks),
            Isa::AvxVnni => avx_vnni_evex::quantize(x, blocks),
            Isa::Avx512Vnni => vnni::quantize(x, blocks),
            Isa::Amx => amx::quantize(x, blocks),
            Isa::NeonDot => dotprod::quantize(x, blocks),
            Isa::NeonI8mm => i8mm::quantize(x, blocks),
        }
    }
}
