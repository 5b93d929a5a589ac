//! Ferrum's compute kernels: numbers in, numbers out.
//!
//! [`Backend`] is the contract that every device implements; [`params`] holds the parameter
//! structs of its operations. [`reference::Reference`] is the oracle: plain `f32` Rust, slow and
//! obviously right. [`cpu::Cpu`] is the fast implementation for processors, [`cuda::Cuda`] that for
//! NVIDIA cards. A model above this
//! crate is generic over [`Backend`] and knows nothing of devices or weight formats.

pub mod backend;
mod checks;
pub mod cpu;
pub mod cuda;
pub mod draw;
mod e4m3;
pub mod error;
pub mod host;
pub mod params;
pub mod profiled;
pub mod reference;
pub mod step;
pub mod weight;

pub use backend::{Backend, Buffer, Communicator, KvStorage, Need, PackedWeight};
pub use e4m3::E4m3;
pub use error::{KernelError, Result};
pub use step::{StepBatch, StepCapacity, StepInput, StepShape};
pub use weight::{Format, WeightSource};

/// Token positions in one block of the paged KV cache, on every backend.
pub const KV_BLOCK_SIZE: usize = 32;

/// Element type of a [`Buffer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: activations and the residual stream on the CPU.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 32-bit signed integer: token ids, positions, block tables.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

/// How keys and values are stored in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvDType {
    /// Half precision: the default.
    #[default]
    F16,
    /// bfloat16, rounded to nearest even: the memory of half precision and the range of single, with
    /// three bits of precision less.
    BF16,
    /// Single precision: twice the memory, no rounding.
    F32,
    /// [`E4m3`], half the memory: four bits of precision, and no scale. Keys and values beyond ±448
    /// are kept as ±448; what is not finite is kept as no number, so that it is seen.
    Fp8E4M3,
    /// Bytes with a scale, about half the memory: of each position and head, every
    /// [`KV_SCALE_GROUP`] values `x` are kept as whole numbers `q` from -127 to 127 and a scale `d`
    /// in half precision, `d = max |x| / 127` and `x ≈ d · q`.
    ///
    /// A scale covers values of one position only, so that what is kept of a position depends on
    /// nothing that comes before, after or beside it; and only 32 of them, because some channels
    /// of keys are many times larger than the rest, and the others of their group lose precision.
    Q8_0,
}

/// Values of a head that share a scale in [`KvDType::Q8_0`].
pub const KV_SCALE_GROUP: usize = 32;

impl KvDType {
    /// All of them.
    pub const ALL: [KvDType; 5] =
        [KvDType::F16, KvDType::BF16, KvDType::F32, KvDType::Fp8E4M3, KvDType::Q8_0];

    /// Bytes of `values` values: whole heads, in [`KvDType::Q8_0`] of whole groups.
    pub fn bytes(self, values: usize) -> usize {
        match self {
            KvDType::F16 | KvDType::BF16 => values.saturating_mul(2),
            KvDType::F32 => values.saturating_mul(4),
            KvDType::Fp8E4M3 => values,
            KvDType::Q8_0 => {
                values.saturating_add(values / KV_SCALE_GROUP * size_of::<half::f16>())
            }
        }
    }
}
