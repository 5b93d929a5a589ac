//! The inner loops of attention. A key block is `[head_dim][KV_BLOCK_SIZE]`, a value block
//! `[KV_BLOCK_SIZE][head_dim]`.

use super::STEP;
use crate::KV_BLOCK_SIZE;
use crate::cpu::kv_cache::KvElement;
use crate::cpu::math;
use crate::cpu::simd::{LANES, Simd};
use std::ops::Range;

/// Scores of `R` rows for the positions of a step.
pub(super) type Scores<const R: usize> = [[f32; STEP]; R];

/// `s[r][at + j] = Σ_d q[d][r] · k[d][j]`, added in the order of `d`, for the positions `j` of a
/// block; `P` registers of positions at a time. `fetch` is a block to bring close meanwhile.
#[inline(always)]
pub(super) fn scores<S: Simd, E: KvElement, const R: usize, const P: usize>(
    q: &[f32],
    k: &[E],
    fetch: Option<&[E]>,
    at: usize,
    s: &mut Scores<R>,
) {
    let q = q.as_chunks::<R>().0;
    let k = k.as_chunks::<KV_BLOCK_SIZE>().0;
    if let Some(fetch) = fetch {
        for line in fetch.as_chunks::<KV_BLOCK_SIZE>().0 {
            prefetch::<S, E>(line);
        }
    }
    for pass in 0..KV_BLOCK_SIZE / (P * LANES) {
        let first = pass * P * LANES;
        let mut acc = [[S::splat(0.0); P]; R];
        for (q, k) in q.iter().zip(k) {
            for p in 0..P {
                let key: S = E::load(&k[first + p * LANES..]);
                for r in 0..R {
                    acc[r][p] = key.mul_add(S::splat(q[r]), acc[r][p]).pin();
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                acc[r][p].store(&mut s[r][at + first + p * LANES..]);
            }
        }
    }
}

/// Brings the cache lines of `KV_BLOCK_SIZE` elements close.
#[inline(always)]
fn prefetch<S: Simd, E>(elements: &[E; KV_BLOCK_SIZE]) {
    const LINE: usize = 64;
    for byte in (0..size_of_val(elements)).step_by(LINE) {
        S::prefetch(elements.as_ptr().wrapping_byte_add(byte));
    }
}

/// Turns the scores of a row into weights exp(score - max), zero outside of `seen`, and takes them
/// into `max`, `total` and, where the maximum grows, the sums `acc`.
#[inline(always)]
pub(super) fn softmax<S: Simd>(
    s: &mut [f32; STEP],
    seen: Range<usize>,
    softcap: Option<f32>,
    max: &mut f32,
    total: &mut f32,
    acc: &mut [f32],
) {
    if let Some(cap) = softcap {
        let c = S::splat(cap);
        for s in s.as_chunks_mut::<LANES>().0 {
            c.mul(math::tanh(S::load(s).div(c))).store(s);
        }
    }
    s[..seen.start].fill(f32::NEG_INFINITY);
    s[seen.end..].fill(f32::NEG_INFINITY);
    let mut largest = S::splat(f32::NEG_INFINITY);
    for s in s.as_chunks::<LANES>().0 {
        largest = largest.max(S::load(s));
    }
    let largest = largest.max_lane();
    if largest > *max {
        let factor = exp_of::<S>(*max - largest);
        *max = largest;
        *total *= factor;
        let factor = S::splat(factor);
        for acc in acc.as_chunks_mut::<LANES>().0 {
            S::load(acc).mul(factor).store(acc);
        }
    }
    let largest = S::splat(*max);
    for s in s.as_chunks_mut::<LANES>().0 {
        math::exp(S::load(s).sub(largest)).store(s);
    }
    s[..seen.start].fill(0.0);
    s[seen.end..].fill(0.0);
    let mut sum = S::splat(0.0);
    for s in s.as_chunks::<LANES>().0 {
        sum = sum.add(S::load(s));
    }
    *total += sum.sum();
}

/// `acc[r][d] += Σ_j s[r][at + j] · v[j][d]`, added in the order of `j`, for `positions` of a
/// block; `P` registers of `d` at a time. `fetch` is a block to bring close meanwhile.
#[inline(always)]
pub(super) fn add_values<S: Simd, E: KvElement, const R: usize, const P: usize>(
    s: &Scores<R>,
    at: usize,
    positions: Range<usize>,
    v: &[E],
    fetch: Option<&[E]>,
    acc: &mut [f32],
) {
    if positions.is_empty() {
        return;
    }
    let dim = acc.len() / R;
    if let Some(fetch) = fetch {
        for line in fetch.as_chunks::<KV_BLOCK_SIZE>().0 {
            prefetch::<S, E>(line);
        }
    }
    let mut d = 0;
    while d + P * LANES <= dim {
        add_slab::<S, E, R, P>(s, at, positions.clone(), v, d, acc);
        d += P * LANES;
    }
    while d < dim {
        add_slab::<S, E, R, 1>(s, at, positions.clone(), v, d, acc);
        d += LANES;
    }
}

/// [`add_values`] for `P` registers of values from `d`.
#[inline(always)]
fn add_slab<S: Simd, E: KvElement, const R: usize, const P: usize>(
    s: &Scores<R>,
    at: usize,
    positions: Range<usize>,
    v: &[E],
    d: usize,
    acc: &mut [f32],
) {
    let dim = acc.len() / R;
    let mut sums = [[S::splat(0.0); P]; R];
    for r in 0..R {
        for p in 0..P {
            sums[r][p] = S::load(&acc[r * dim + d + p * LANES..]);
        }
    }
    let v = v[positions.start * dim..positions.end * dim].chunks_exact(dim);
    for (j, v) in (at + positions.start..STEP).zip(v) {
        let v = &v[d..][..P * LANES];
        for p in 0..P {
            let value: S = E::load(&v[p * LANES..]);
            for r in 0..R {
                sums[r][p] = value.mul_add(S::splat(s[r][j]), sums[r][p]).pin();
            }
        }
    }
    for r in 0..R {
        for p in 0..P {
            sums[r][p].store(&mut acc[r * dim + d + p * LANES..]);
        }
    }
}

/// eˣ of one number.
#[inline(always)]
pub(super) fn exp_of<S: Simd>(x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    math::exp(S::splat(x)).store(&mut lanes);
    lanes[0]
}

/// `dst = sums / total`
#[inline(always)]
pub(super) fn divide<S: Simd>(sums: &[f32], total: f32, dst: &mut [f32]) {
    let total = S::splat(total);
    for (d, s) in dst.as_chunks_mut::<LANES>().0.iter_mut().zip(sums.as_chunks::<LANES>().0) {
        S::load(s).div(total).store(d);
    }
}
