//! The inner loops of attention over bytes with scales: those of [`super::kernels`], in groups of
//! [`KV_SCALE_GROUP`] values.

use super::kernels::{Scores, add_slab, multiply_add, prefetch};
use crate::cpu::kv_cache::{KvElement, Stored};
use crate::cpu::simd::{LANES, Simd};
use crate::{KV_BLOCK_SIZE, KV_SCALE_GROUP};
use half::f16;
use std::ops::Range;

/// Elements of a cache line of bytes.
const LINE: usize = 64;

/// `s[r][at + j] = Σ_g scale[g][j] · Σ_d q[r][d] · k[d][j]`, over the groups `g` and the values `d`
/// of each, both added in their order.
#[inline(always)]
pub(super) fn scores<S: Simd, E: KvElement, const R: usize, const P: usize>(
    q: &[f32],
    k: Stored<'_, E>,
    fetch: Stored<'_, E>,
    at: usize,
    s: &mut Scores<R>,
) {
    let dim = q.len() / R;
    let scales = k.scales.as_chunks::<KV_BLOCK_SIZE>().0;
    let keys = k.values.as_chunks::<KV_BLOCK_SIZE>().0.chunks_exact(KV_SCALE_GROUP);
    let mut lines = fetch.values.as_chunks::<LINE>().0.iter();
    prefetch_scales::<S>(fetch.scales);
    for (g, (k, scales)) in keys.zip(scales).enumerate() {
        let mut rows = [q; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &q[r * dim + g * KV_SCALE_GROUP..][..KV_SCALE_GROUP];
        }
        for pass in 0..KV_BLOCK_SIZE / (P * LANES) {
            let first = pass * P * LANES;
            let mut acc = [[S::splat(0.0); P]; R];
            for (d, k) in k.iter().enumerate() {
                if let Some(line) = lines.next() {
                    prefetch::<S, E>(&line[0], LINE);
                }
                multiply_add(&mut acc, |p| E::load(&k[first + p * LANES..]), |r| rows[r][d]);
            }
            for (acc, s) in acc.iter().zip(s.iter_mut()) {
                for (p, acc) in acc.iter().enumerate() {
                    let s = &mut s[at + first + p * LANES..][..LANES];
                    let scale = S::load_f16(&scales[first + p * LANES..]);
                    let before = if g == 0 { S::splat(0.0) } else { S::load(s) };
                    acc.mul_add(scale, before).store(s);
                }
            }
        }
    }
}

/// `acc[r][d] += Σ_j (s[r][at + j] · scale[g][j]) · v[j][d]`, added in the order of `j`, for the
/// values `d` of each group `g`.
#[inline(always)]
pub(super) fn add_values<S: Simd, E: KvElement, const R: usize, const P: usize>(
    s: &Scores<R>,
    at: usize,
    positions: Range<usize>,
    v: Stored<'_, E>,
    fetch: Stored<'_, E>,
    acc: &mut [f32],
) {
    prefetch_scales::<S>(fetch.scales);
    let mut lines = fetch.values.chunks(P * LANES * KV_BLOCK_SIZE);
    for (g, scales) in v.scales.as_chunks::<KV_BLOCK_SIZE>().0.iter().enumerate() {
        let mut weights = [[0.0; KV_BLOCK_SIZE]; R];
        for (weights, s) in weights.iter_mut().zip(s) {
            let s = s[at..].as_chunks::<LANES>().0;
            let parts = weights.as_chunks_mut::<LANES>().0.iter_mut().zip(s);
            for ((weights, s), scales) in parts.zip(scales.as_chunks::<LANES>().0) {
                S::load(s).mul(S::load_f16(scales)).store(weights);
            }
        }
        for slab in 0..KV_SCALE_GROUP / (P * LANES) {
            let d = g * KV_SCALE_GROUP + slab * P * LANES;
            let fetch = lines.next().unwrap_or_default();
            add_slab::<S, E, R, P, KV_BLOCK_SIZE>(
                &weights,
                0,
                positions.clone(),
                v.values,
                d,
                fetch,
                acc,
            );
        }
    }
}

/// Brings a block's scales close.
#[inline(always)]
fn prefetch_scales<S: Simd>(scales: &[f16]) {
    for scales in scales.as_chunks::<KV_BLOCK_SIZE>().0 {
        prefetch::<S, f16>(&scales[0], KV_BLOCK_SIZE);
    }
}
