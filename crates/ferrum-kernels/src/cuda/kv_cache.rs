//! The paged KV cache of one layer on a card.

use std::sync::Arc;

use super::NAME;
use super::attention::rows_shared_bytes;
use super::device::Device;
use super::memory::Memory;
use crate::params::{KvSpec, KvValues};
use crate::{KV_SCALE_GROUP, KernelError, KvDType, KvStorage, Result, checks};

/// Keys and values of one layer, each in one memory: `[blocks, kv_heads, KV_BLOCK_SIZE, head_dim]`,
/// so that what a block holds of a head lies together. There are no values where they are a part of
/// the keys. In [`KvDType::Q8_0`] the scales lie behind the bytes, as `[blocks, kv_heads, KV_BLOCK_SIZE, head_dim / KV_SCALE_GROUP]`.
pub struct CudaKvCache {
    spec: KvSpec,
    pub(super) k: Arc<Memory>,
    pub(super) v: Option<Arc<Memory>>,
    /// Where the scales begin in each, in bytes; at the end where there are none.
    pub(super) scales: usize,
}

/// Values per head of an output at most (`ROWS_ITEMS` in `attention_rows.cuh`).
const WIDEST_HEAD: usize = 512;

/// The kernels work on eights of a head, and on whole groups that share a scale, copy 16 bytes at once,
/// and hold a block of keys and values in shared memory.
pub(super) fn check_head_dim(
    device: &Device,
    head_dim: usize,
    values: KvValues,
    kv: KvDType,
) -> Result<()> {
    let unit = match kv {
        KvDType::F16 | KvDType::BF16 | KvDType::F32 => 8,
        KvDType::Fp8E4M3 => 16,
        KvDType::Q8_0 => KV_SCALE_GROUP,
    };
    let value_dim = values.dim(head_dim);
    let fits = checks::is_head(head_dim, values, kv)
        // As a number takes at least a byte of it.
        && head_dim <= device.properties.shared_memory
        && head_dim.is_multiple_of(unit)
        && value_dim.is_multiple_of(unit)
        && value_dim <= WIDEST_HEAD
        && rows_shared_bytes(head_dim, values, kv) <= device.properties.shared_memory;
    if !fits {
        let what = format!("attention with {} and keys in {kv:?}", values.of(head_dim));
        return Err(KernelError::Unsupported { backend: NAME, what });
    }
    Ok(())
}

impl CudaKvCache {
    /// Allocates a zeroed cache.
    pub(super) fn new(device: &Arc<Device>, spec: &KvSpec) -> Result<CudaKvCache> {
        check_head_dim(device, spec.head_dim, spec.values, spec.dtype)?;
        let [keys, values] = checks::kv_cache(spec)?;
        if i32::try_from(spec.kv_heads.saturating_mul(spec.head_dim)).is_err() {
            let what = format!("{} heads are more than a kernel can count", spec.kv_heads);
            return Err(KernelError::shape("kv_cache", what));
        }
        let bytes = spec.dtype.bytes(keys);
        let memory = || -> Result<Arc<Memory>> {
            let memory = Memory::new(device, bytes, "a KV cache")?;
            memory.clear()?;
            Ok(Arc::new(memory))
        };
        // A cache has whole blocks, so the scales begin at a multiple of 1024 bytes.
        let scales = if spec.dtype == KvDType::Q8_0 { keys } else { bytes };
        let v = (values > 0).then(memory).transpose()?;
        Ok(CudaKvCache { spec: *spec, k: memory()?, v, scales })
    }
}

impl KvStorage for CudaKvCache {
    fn spec(&self) -> &KvSpec {
        &self.spec
    }

    fn resident_bytes(&self) -> usize {
        self.k.bytes() + self.v.as_ref().map_or(0, |v| v.bytes())
    }
}
