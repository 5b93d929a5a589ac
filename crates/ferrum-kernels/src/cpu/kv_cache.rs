//! The paged KV cache of one layer, laid out for attention.

use super::NAME;
use super::aligned::AlignedVec;
use super::simd::{LANES, Simd};
use crate::host::Plain;
use crate::params::KvSpec;
use crate::{KernelError, KvDType, KvStorage, Result, checks};
use half::f16;

/// Keys and values of one layer.
///
/// A block holds, for one KV head, `KV_BLOCK_SIZE` positions: keys transposed as
/// `[head_dim][KV_BLOCK_SIZE]`, so that the lanes of a register are positions and a score needs no
/// sum across lanes; values as `[KV_BLOCK_SIZE][head_dim]`. Blocks are `[blocks][kv_heads]`, keys
/// and values apart.
pub struct CpuKvCache {
    spec: KvSpec,
    pub(super) data: Data,
}

/// The two arrays `[blocks][kv_heads][KV_BLOCK_SIZE · head_dim]`, by element type.
pub(super) enum Data {
    F16 { k: AlignedVec<f16>, v: AlignedVec<f16> },
    F32 { k: AlignedVec<f32>, v: AlignedVec<f32> },
}

/// An element type of the cache.
pub(super) trait KvElement: Plain {
    /// Eight values, widened.
    fn load<S: Simd>(src: &[Self]) -> S;
    /// Stores eight values, rounded to nearest even.
    fn store<S: Simd>(x: S, dst: &mut [Self]);
}

impl KvElement for f16 {
    #[inline(always)]
    fn load<S: Simd>(src: &[Self]) -> S {
        S::load_f16(src)
    }

    #[inline(always)]
    fn store<S: Simd>(x: S, dst: &mut [Self]) {
        x.store_f16(dst);
    }
}

impl KvElement for f32 {
    #[inline(always)]
    fn load<S: Simd>(src: &[Self]) -> S {
        S::load(src)
    }

    #[inline(always)]
    fn store<S: Simd>(x: S, dst: &mut [Self]) {
        x.store(dst);
    }
}

/// The kernels work on whole registers of a head.
pub(super) fn check_head_dim(head_dim: usize) -> Result<()> {
    if head_dim == 0 || !head_dim.is_multiple_of(LANES) {
        let what = format!("attention with {head_dim} values per head (a multiple of {LANES})");
        return Err(KernelError::Unsupported { backend: NAME, what });
    }
    Ok(())
}

impl CpuKvCache {
    /// Allocates a zeroed cache.
    pub(super) fn new(spec: &KvSpec) -> Result<Self> {
        check_head_dim(spec.head_dim)?;
        let len = checks::kv_cache(spec)?;
        let what = "a KV cache";
        let data = match spec.dtype {
            KvDType::F16 => {
                Data::F16 { k: AlignedVec::zeroed(len, what)?, v: AlignedVec::zeroed(len, what)? }
            }
            KvDType::F32 => {
                Data::F32 { k: AlignedVec::zeroed(len, what)?, v: AlignedVec::zeroed(len, what)? }
            }
        };
        Ok(CpuKvCache { spec: *spec, data })
    }
}

impl KvStorage for CpuKvCache {
    fn spec(&self) -> &KvSpec {
        &self.spec
    }

    fn resident_bytes(&self) -> usize {
        match &self.data {
            Data::F16 { k, v } => size_of_val(&k[..]) + size_of_val(&v[..]),
            Data::F32 { k, v } => size_of_val(&k[..]) + size_of_val(&v[..]),
        }
    }
}
