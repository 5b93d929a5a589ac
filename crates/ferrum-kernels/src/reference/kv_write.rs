//! [`crate::Backend::kv_write`]: `cache[slots[t], :] = round(src[t, :])`

use half::{bf16, f16};

use super::{KvCache, Reference};
use crate::params::KvWrite;
use crate::{E4m3, KV_SCALE_GROUP, KvDType, Result, checks};

pub(super) fn kv_write(kv: &mut KvCache, p: &KvWrite<'_, Reference>) -> Result<()> {
    let view = checks::kv_write(&kv.spec, p)?;
    let width = kv.spec.kv_heads * kv.spec.head_dim;
    for (cache, src) in [(&mut kv.k, view.k), (&mut kv.v, view.v.unwrap_or_default())] {
        for (src, &slot) in src.chunks_exact(width).zip(view.slots) {
            let dst = &mut cache[slot as usize * width..][..width];
            match kv.spec.dtype {
                KvDType::F32 => dst.copy_from_slice(src),
                KvDType::F16 => round(dst, src, half),
                KvDType::BF16 => round(dst, src, |x| bf16::from_f32(x).to_f32()),
                KvDType::Fp8E4M3 => round(dst, src, |x| E4m3::from_f32(x).to_f32()),
                KvDType::Q8_0 => {
                    let groups = src.chunks_exact(KV_SCALE_GROUP);
                    dst.chunks_exact_mut(KV_SCALE_GROUP).zip(groups).for_each(quantize);
                }
            }
        }
    }
    Ok(())
}

/// `dst = to(src)`
fn round(dst: &mut [f32], src: &[f32], to: impl Fn(f32) -> f32) {
    dst.iter_mut().zip(src).for_each(|(dst, &x)| *dst = to(x));
}

/// To the nearest, ties to even.
fn half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// What is left of the values of a group. One that is not finite makes all of them no numbers.
fn quantize((dst, src): (&mut [f32], &[f32])) {
    let largest = match src.iter().find(|x| x.is_nan()) {
        Some(nan) => *nan,
        None => src.iter().fold(0.0, |m, x| x.abs().max(m)),
    };
    let scale = half(largest / 127.0);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (dst, x) in dst.iter_mut().zip(src) {
        let q = (x * inverse).round_ties_even().clamp(-127.0, 127.0);
        *dst = scale * q;
    }
}
