//! Writing a step's keys and values into the cache.

use super::kv_cache::{Data, KvFloat};
use super::kv_quantize::write_quantized;
use super::shared::SharedSlice;
use super::simd::{Kernel, LANES, Simd};
use super::{Cpu, CpuKvCache, CpuStream, SERIAL_VALUES};
use crate::params::{KvSpec, KvWrite};
use crate::{KV_BLOCK_SIZE, Result, checks};
use std::ops::Range;

/// Values of a head that one task writes, for all tokens.
const SLAB: usize = 4 * LANES;

/// [`crate::Backend::kv_write`].
pub(super) fn kv_write(s: &mut CpuStream, kv: &mut CpuKvCache, p: &KvWrite<'_, Cpu>) -> Result<()> {
    let spec = *crate::KvStorage::spec(kv);
    let view = checks::kv_write(&spec, p)?;
    match &mut kv.data {
        Data::F16 { k, v } => write(s, &spec, &view, k, v),
        Data::BF16 { k, v } => write(s, &spec, &view, k, v),
        Data::E4m3 { k, v } => write(s, &spec, &view, k, v),
        Data::F32 { k, v } => write(s, &spec, &view, k, v),
        Data::Q8 { k, v } => write_quantized(s, &spec, &view, k, v),
    }
    Ok(())
}

fn write<E: KvFloat>(
    s: &mut CpuStream,
    spec: &KvSpec,
    view: &checks::KvWriteView<'_>,
    k: &mut [E],
    v: &mut [E],
) {
    let (k, v) = (SharedSlice::new(k), SharedSlice::new(v));
    let (isa, dim) = (s.isa, spec.head_dim);
    // A task writes some values of one head for every token, in order: no two tasks write the same
    // place, even where slots repeat.
    let slabs = dim.div_ceil(SLAB);
    let task = |task: usize| {
        let (head, first) = (task / slabs, task % slabs * SLAB);
        let values = first..dim.min(first + SLAB);
        isa.dispatch(Slab { spec, view, k: &k, v: &v, head, values });
    };
    let tasks = spec.kv_heads * slabs;
    if view.k.len() < SERIAL_VALUES {
        (0..tasks).for_each(task);
    } else {
        s.team.chunks(tasks, &|_, i| task(i));
    }
}

/// Some values of one head, for all tokens.
struct Slab<'a, 'v, E> {
    spec: &'a KvSpec,
    view: &'a checks::KvWriteView<'v>,
    k: &'a SharedSlice<'a, E>,
    v: &'a SharedSlice<'a, E>,
    head: usize,
    /// Within the head; a multiple of eight.
    values: Range<usize>,
}

impl<E: KvFloat> Kernel for Slab<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let KvSpec { kv_heads, head_dim, .. } = *self.spec;
        let (first, len) = (self.values.start, self.values.len());
        for (token, &slot) in self.view.slots.iter().enumerate() {
            let (block, position) = (slot as usize / KV_BLOCK_SIZE, slot as usize % KV_BLOCK_SIZE);
            let start = (block * kv_heads + self.head) * KV_BLOCK_SIZE * head_dim;
            let src = (token * kv_heads + self.head) * head_dim + first;
            let keys = start + first * KV_BLOCK_SIZE;
            // SAFETY: only this task touches these values of this head.
            let keys = unsafe { self.k.range_mut(keys..keys + len * KV_BLOCK_SIZE) };
            transpose::<S, E>(&self.view.k[src..][..len], position, keys);
            let Some(v) = self.view.v else { continue };
            let values = start + position * head_dim + first;
            // SAFETY: as above.
            let values = unsafe { self.v.range_mut(values..values + len) };
            let src = v[src..][..len].as_chunks::<LANES>().0;
            for (dst, src) in values.as_chunks_mut::<LANES>().0.iter_mut().zip(src) {
                E::store(S::load(src), dst);
            }
        }
    }
}

/// Column `position` of `dst`, `[src.len()][KV_BLOCK_SIZE]`.
#[inline(always)]
fn transpose<S: Simd, E: KvFloat>(src: &[f32], position: usize, dst: &mut [E]) {
    let dst = dst.as_chunks_mut::<{ LANES * KV_BLOCK_SIZE }>().0;
    for (src, dst) in src.as_chunks::<LANES>().0.iter().zip(dst) {
        let mut converted = [dst[position]; LANES];
        E::store(S::load(src), &mut converted);
        for (i, x) in converted.into_iter().enumerate() {
            dst[i * KV_BLOCK_SIZE + position] = x;
        }
    }
}
