//! The inner loops of attention. A key block is `[head_dim][KV_BLOCK_SIZE]`, a value block
//! `[KV_BLOCK_SIZE][head_dim]`.

use super::{STEP, scaled};
use crate::KV_BLOCK_SIZE;
use crate::cpu::kv_cache::{KvElement, Stored};
use crate::cpu::math;
use crate::cpu::simd::{Kernel, LANES, Simd};
use std::ops::Range;

/// Scores of `R` rows for the positions of a step.
pub(super) type Scores<const R: usize> = [[f32; STEP]; R];

/// `s[r][at + j] = Σ_d q[r][d] · k[d][j]`, added in the order of `d`, for the positions `j` of a
/// block; `P` registers of positions at a time. `fetch` is a block to bring close meanwhile.
#[inline(always)]
pub(super) fn scores<S: Simd, E: KvElement, const R: usize, const P: usize>(
    q: &[f32],
    k: Stored<'_, E>,
    fetch: Stored<'_, E>,
    at: usize,
    s: &mut Scores<R>,
) {
    if E::SCALED {
        return scaled::scores::<S, E, R, P>(q, k, fetch, at, s);
    }
    let (k, fetch) = (k.values, fetch.values);
    let dim = q.len() / R;
    let mut rows = [q; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &q[r * dim..][..dim];
    }
    let k = &k.as_chunks::<KV_BLOCK_SIZE>().0[..dim];
    let mut lines = fetch.as_chunks::<KV_BLOCK_SIZE>().0.iter();
    for pass in 0..KV_BLOCK_SIZE / (P * LANES) {
        let first = pass * P * LANES;
        let mut acc = [[S::splat(0.0); P]; R];
        for (d, k) in k.iter().enumerate() {
            if let Some(line) = lines.next() {
                prefetch::<S, E>(&line[0], KV_BLOCK_SIZE);
            }
            multiply_add(&mut acc, |p| E::load(&k[first + p * LANES..]), |r| rows[r][d]);
        }
        for (acc, s) in acc.iter().zip(s.iter_mut()) {
            for (p, acc) in acc.iter().enumerate() {
                acc.store(&mut s[at + first + p * LANES..]);
            }
        }
    }
}

/// `acc[r][p] += column(p) · row(r)`
///
/// What there is less of, rows or registers of a row, is held in registers while the other is gone
/// through one by one: so a product with twelve sums fits into sixteen registers.
#[inline(always)]
pub(super) fn multiply_add<S: Simd, const R: usize, const P: usize>(
    acc: &mut [[S; P]; R],
    column: impl Fn(usize) -> S,
    row: impl Fn(usize) -> f32,
) {
    if P <= R {
        let mut columns = [S::splat(0.0); P];
        for (p, c) in columns.iter_mut().enumerate() {
            *c = column(p);
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            let x = S::splat(row(r));
            for (acc, c) in acc.iter_mut().zip(columns) {
                *acc = acc.accumulate(c, x);
            }
        }
    } else {
        let mut rows = [S::splat(0.0); R];
        for (r, x) in rows.iter_mut().enumerate() {
            *x = S::splat(row(r));
        }
        for p in 0..P {
            let c = column(p);
            for (acc, x) in acc.iter_mut().zip(rows) {
                acc[p] = acc[p].accumulate(c, x);
            }
        }
    }
}

/// Brings the cache lines of `len` elements from `start` close.
#[inline(always)]
pub(super) fn prefetch<S: Simd, E>(start: &E, len: usize) {
    const LINE: usize = 64;
    for byte in (0..len * size_of::<E>()).step_by(LINE) {
        S::prefetch(std::ptr::from_ref(start).wrapping_byte_add(byte));
    }
}

/// Turns the scores of a row into weights exp(score - max), zero outside of `seen`, and takes them
/// into `max`, `total` and, where the maximum grows, the sums `acc`.
pub(super) struct Softmax<'a> {
    pub(super) scores: &'a mut [f32; STEP],
    /// Positions that the row sees of the step; not empty.
    pub(super) seen: Range<usize>,
    pub(super) softcap: Option<f32>,
    pub(super) max: &'a mut f32,
    pub(super) total: &'a mut f32,
    /// `[head_dim]`
    pub(super) acc: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Softmax { scores, seen, softcap, max, total, acc } = self;
        if let Some(cap) = softcap {
            let cap = S::splat(cap);
            for s in scores.as_chunks_mut::<LANES>().0 {
                cap.mul(math::tanh(S::load(s).div(cap))).store(s);
            }
        }
        fill_outside(scores, &seen, f32::NEG_INFINITY);
        let mut lanes = load(scores);
        let largest = tree(lanes, S::max).max_lane();
        if largest > *max {
            let [factor] = exp_of::<S, 1>([*max], largest);
            *total *= factor;
            *max = largest;
            let factor = S::splat(factor);
            for acc in acc.as_chunks_mut::<LANES>().0 {
                S::load(acc).mul(factor).store(acc);
            }
        }
        let largest = S::splat(*max);
        for (lanes, s) in lanes.iter_mut().zip(scores.as_chunks_mut::<LANES>().0) {
            *lanes = math::exp(lanes.sub(largest));
            lanes.store(s);
        }
        if seen.len() < STEP {
            fill_outside(scores, &seen, 0.0);
            lanes = load(scores);
        }
        *total += tree(lanes, S::add).sum();
    }
}

/// Registers of a step.
const REGISTERS: usize = STEP / LANES;

#[inline(always)]
fn load<S: Simd>(scores: &[f32; STEP]) -> [S; REGISTERS] {
    let mut lanes = [S::splat(0.0); REGISTERS];
    for (lanes, s) in lanes.iter_mut().zip(scores.as_chunks::<LANES>().0) {
        *lanes = S::load(s);
    }
    lanes
}

/// `f` over all, in a tree: no operation waits for more than three others.
#[inline(always)]
fn tree<S: Simd>(x: [S; REGISTERS], f: impl Fn(S, S) -> S) -> S {
    let [a, b, c, d, e, g, h, i] = x;
    f(f(f(a, b), f(c, d)), f(f(e, g), f(h, i)))
}

/// Overwrites what is not in `seen`.
#[inline(always)]
fn fill_outside(scores: &mut [f32; STEP], seen: &Range<usize>, x: f32) {
    scores[..seen.start].fill(x);
    scores[seen.end..].fill(x);
}

/// `acc[r][d] += Σ_j s[r][at + j] · v[j][d]`, added in the order of `j`, for `positions` of a
/// block; `P` registers of `d` at a time. `fetch` is a block to bring close meanwhile.
#[inline(always)]
pub(super) fn add_values<S: Simd, E: KvElement, const R: usize, const P: usize>(
    s: &Scores<R>,
    at: usize,
    positions: Range<usize>,
    v: Stored<'_, E>,
    fetch: Stored<'_, E>,
    acc: &mut [f32],
) {
    if positions.is_empty() {
        return;
    }
    if E::SCALED {
        return scaled::add_values::<S, E, R, P>(s, at, positions, v, fetch, acc);
    }
    let (v, fetch) = (v.values, fetch.values);
    let dim = acc.len() / R;
    // A slab of `d` fetches as much as it reads.
    let mut lines = fetch.chunks(P * LANES * KV_BLOCK_SIZE);
    let mut d = 0;
    while d + P * LANES <= dim {
        let fetch = lines.next().unwrap_or_default();
        add_slab::<S, E, R, P, STEP>(s, at, positions.clone(), v, d, fetch, acc);
        d += P * LANES;
    }
    while d < dim {
        add_slab::<S, E, R, 1, STEP>(s, at, positions.clone(), v, d, &[], acc);
        d += LANES;
    }
}

/// [`add_values`] for `P` registers of values from `d`; position `j` of the block has its weights at
/// `s[r][at + j]`.
#[inline(always)]
pub(super) fn add_slab<S: Simd, E: KvElement, const R: usize, const P: usize, const N: usize>(
    s: &[[f32; N]; R],
    at: usize,
    positions: Range<usize>,
    v: &[E],
    d: usize,
    fetch: &[E],
    acc: &mut [f32],
) {
    let dim = acc.len() / R;
    let mut sums = [[S::splat(0.0); P]; R];
    for (sums, acc) in sums.iter_mut().zip(acc.chunks_exact(dim)) {
        let acc = &acc[d..][..P * LANES];
        for (p, sum) in sums.iter_mut().enumerate() {
            *sum = S::load(&acc[p * LANES..]);
        }
    }
    let mut fetch = fetch.iter().step_by(P * LANES);
    let v = v[positions.start * dim..positions.end * dim].chunks_exact(dim);
    for (j, v) in (at + positions.start..N).zip(v) {
        if let Some(start) = fetch.next() {
            prefetch::<S, E>(start, P * LANES);
        }
        let v = &v[d..][..P * LANES];
        multiply_add(&mut sums, |p| E::load(&v[p * LANES..]), |r| s[r][j]);
    }
    for (sums, acc) in sums.iter().zip(acc.chunks_exact_mut(dim)) {
        let acc = &mut acc[d..][..P * LANES];
        for (p, sum) in sums.iter().enumerate() {
            sum.store(&mut acc[p * LANES..]);
        }
    }
}

/// [`add_values`] for one row.
pub(super) struct AddAlone<'a, E> {
    pub(super) scores: &'a [f32; STEP],
    pub(super) at: usize,
    pub(super) positions: Range<usize>,
    pub(super) v: Stored<'a, E>,
    /// `[head_dim]`
    pub(super) acc: &'a mut [f32],
}

impl<E: KvElement> Kernel for AddAlone<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let AddAlone { scores, at, positions, v, acc } = self;
        let scores = std::array::from_ref(scores);
        add_values::<S, E, 1, 4>(scores, at, positions, v, Stored::NONE, acc);
    }
}

/// exp(x - max) of a few numbers.
#[inline(always)]
pub(super) fn exp_of<S: Simd, const N: usize>(x: [f32; N], max: f32) -> [f32; N] {
    let mut lanes = [max; LANES];
    lanes[..N].copy_from_slice(&x);
    math::exp(S::load(&lanes).sub(S::splat(max))).store(&mut lanes);
    std::array::from_fn(|i| lanes[i])
}

/// `dst = sums / total`
#[inline(always)]
pub(super) fn divide<S: Simd>(sums: &[f32], total: f32, dst: &mut [f32]) {
    let total = S::splat(total);
    for (d, s) in dst.as_chunks_mut::<LANES>().0.iter_mut().zip(sums.as_chunks::<LANES>().0) {
        S::load(s).div(total).store(d);
    }
}

/// `sums = sums / total`
#[inline(always)]
pub(super) fn divide_in_place<S: Simd>(sums: &mut [f32], total: f32) {
    let total = S::splat(total);
    for s in sums.as_chunks_mut::<LANES>().0 {
        S::load(s).div(total).store(s);
    }
}
