//! [`crate::Backend::kv_write`]: `cache[slots[t], :] = round(src[t, :])`

use half::f16;

use super::{KvCache, Reference};
use crate::params::KvWrite;
use crate::{KvDType, Result, checks};

pub(super) fn kv_write(kv: &mut KvCache, p: &KvWrite<'_, Reference>) -> Result<()> {
    let view = checks::kv_write(&kv.spec, p)?;
    let width = kv.spec.kv_heads * kv.spec.head_dim;
    for (cache, src) in [(&mut kv.k, view.k), (&mut kv.v, view.v)] {
        for (src, &slot) in src.chunks_exact(width).zip(view.slots) {
            let dst = &mut cache[slot as usize * width..][..width];
            for (dst, &x) in dst.iter_mut().zip(src) {
                *dst = match kv.spec.dtype {
                    // To the nearest, ties to even.
                    KvDType::F16 => f16::from_f32(x).to_f32(),
                    KvDType::F32 => x,
                };
            }
        }
    }
    Ok(())
}
