//! `kv_write`: a block for the keys of a token, and one for its values if they are kept.

use super::launch::Grid;
use super::modules::Source;
use super::stream::CudaStream;
use super::{Cuda, CudaKvCache};
use crate::params::KvWrite;
use crate::{KvDType, KvStorage, Result, checks};

const THREADS: usize = 256;

pub(super) fn kv_write(
    s: &mut CudaStream,
    kv: &mut CudaKvCache,
    p: &KvWrite<'_, Cuda>,
) -> Result<()> {
    let view = checks::kv_write(kv.spec(), p)?;
    let spec = *kv.spec();
    let entry = match spec.dtype {
        KvDType::F16 => "kv_write_f16",
        KvDType::BF16 => "kv_write_bf16",
        KvDType::F32 => "kv_write_f32",
        KvDType::Fp8E4M3 => "kv_write_e4m3",
        KvDType::Q8_0 => "kv_write_q8_0",
    };
    let launch = s.launch("kv_write", Source::KvWrite, entry).memory(&kv.k, 0);
    let launch = launch.memory_if(kv.v.as_ref().map(|v| (v, 0)));
    let launch = match spec.dtype {
        KvDType::Q8_0 => {
            let scales = kv.v.as_ref().map(|v| (v, kv.scales));
            launch.memory(&kv.k, kv.scales).memory_if(scales)
        }
        KvDType::F16 | KvDType::BF16 | KvDType::F32 | KvDType::Fp8E4M3 => launch,
    };
    let v = view.v.as_ref().map(|v| (v.memory, 0));
    let launch = launch.read(&view.k).memory_if(v).read(&view.slots);
    let launch = launch.int(spec.kv_heads).int(spec.head_dim);
    let blocks = [p.batch.shape.tokens, if kv.v.is_some() { 2 } else { 1 }, 1];
    // SAFETY: `checks` has held the lengths, and the slots against the cache.
    unsafe { launch.run(Grid { blocks, threads: THREADS, shared: 0 }) }
}
