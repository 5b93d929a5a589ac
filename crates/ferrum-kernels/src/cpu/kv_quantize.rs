//! Writing a step's keys and values into a cache of bytes with scales.

use super::kv_cache::Scaled;
use super::shared::SharedSlice;
use super::simd::{Kernel, Simd};
use super::{CpuStream, SERIAL_VALUES};
use crate::params::KvSpec;
use crate::{KV_BLOCK_SIZE, KV_SCALE_GROUP, checks};
use half::f16;

/// [`crate::Backend::kv_write`] for [`crate::KvDType::Q8_0`].
pub(super) fn write_quantized(
    s: &mut CpuStream,
    spec: &KvSpec,
    view: &checks::KvWriteView<'_>,
    k: &mut Scaled,
    v: &mut Scaled,
) {
    let (k, v) = (Target::new(k), Target::new(v));
    let (isa, groups) = (s.isa, spec.head_dim / KV_SCALE_GROUP);
    // A task writes one group of one head for every token, in order: no two tasks write the same
    // place, even where slots repeat.
    let task = |task: usize| {
        let (head, group) = (task / groups, task % groups);
        isa.dispatch(WriteGroup { spec, view, k: &k, v: &v, head, group });
    };
    let tasks = spec.kv_heads * groups;
    if view.k.len() < SERIAL_VALUES {
        (0..tasks).for_each(task);
    } else {
        s.team.chunks(tasks, &|_, i| task(i));
    }
}

/// A [`Scaled`] that tasks write parts of.
struct Target<'a> {
    q: SharedSlice<'a, i8>,
    scales: SharedSlice<'a, f16>,
}

impl<'a> Target<'a> {
    fn new(scaled: &'a mut Scaled) -> Self {
        let Scaled { q, scales } = scaled;
        Target { q: SharedSlice::new(q), scales: SharedSlice::new(scales) }
    }
}

/// One group of one head, for all tokens.
struct WriteGroup<'a, 'v> {
    spec: &'a KvSpec,
    view: &'a checks::KvWriteView<'v>,
    k: &'a Target<'a>,
    v: &'a Target<'a>,
    head: usize,
    group: usize,
}

impl Kernel for WriteGroup<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let WriteGroup { spec, view, k, v, head, group } = self;
        let &KvSpec { kv_heads, head_dim, .. } = spec;
        let first = group * KV_SCALE_GROUP;
        for (token, &slot) in view.slots.iter().enumerate() {
            let (block, position) = (slot as usize / KV_BLOCK_SIZE, slot as usize % KV_BLOCK_SIZE);
            let start = (block * kv_heads + head) * KV_BLOCK_SIZE * head_dim;
            let scale = start / KV_SCALE_GROUP + group * KV_BLOCK_SIZE + position;
            let keys = start + first * KV_BLOCK_SIZE;
            let keys = keys..keys + KV_SCALE_GROUP * KV_BLOCK_SIZE;
            let src = (token * kv_heads + head) * head_dim + first;
            // SAFETY: only this task touches this group of this head.
            let (keys, key_scale) =
                unsafe { (k.q.range_mut(keys), k.scales.range_mut(scale..scale + 1)) };
            let (q, d) = quantize(&view.k[src..][..KV_SCALE_GROUP]);
            key_scale[0] = d;
            for (q, column) in q.iter().zip(keys.chunks_exact_mut(KV_BLOCK_SIZE)) {
                column[position] = *q;
            }
            let Some(own) = view.v else { continue };
            let values = start + position * head_dim + first;
            let values = values..values + KV_SCALE_GROUP;
            // SAFETY: as above.
            let (values, value_scale) =
                unsafe { (v.q.range_mut(values), v.scales.range_mut(scale..scale + 1)) };
            let (q, d) = quantize(&own[src..][..KV_SCALE_GROUP]);
            value_scale[0] = d;
            values.copy_from_slice(&q);
        }
    }
}

/// A group as [`crate::KvDType::Q8_0`] has it. Where a value is not finite the scale is not either,
/// so that it is seen.
#[inline(always)]
fn quantize(x: &[f32]) -> ([i8; KV_SCALE_GROUP], f16) {
    // As integers, because there a NaN is the largest.
    let largest = x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
    let scale = f16::from_f32(f32::from_bits(largest) / 127.0);
    let unit = scale.to_f32();
    let inverse = if unit > 0.0 { 1.0 / unit } else { 0.0 };
    let mut q = [0; KV_SCALE_GROUP];
    for (q, v) in q.iter_mut().zip(x) {
        *q = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    (q, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group of these values, the rest zero.
    fn group(values: &[f32]) -> ([i8; KV_SCALE_GROUP], f32) {
        let mut x = [0.0; KV_SCALE_GROUP];
        x[..values.len()].copy_from_slice(values);
        let (q, scale) = quantize(&x);
        (q, scale.to_f32())
    }

    #[test]
    fn the_largest_is_127_and_ties_go_to_even() {
        let (q, scale) = group(&[127.0, -127.0, 0.5, 1.5, -2.5, 63.2]);
        assert_eq!((&q[..6], scale), (&[127, -127, 0, 2, -2, 63][..], 1.0));
    }

    #[test]
    fn a_scale_rounded_down_does_not_wrap() {
        for exponent in -14..15 {
            let largest = 127.0 * (1.0 + 1.0 / 2048.0) * 2.0_f32.powi(exponent);
            let (q, scale) = group(&[largest, -largest]);
            assert_eq!(q[..2], [127, -127]);
            assert!((largest - 127.0 * scale).abs() <= largest / 2048.0);
        }
    }

    #[test]
    fn zeroes_and_what_vanishes_beside_half_precision() {
        assert_eq!(group(&[]), ([0; KV_SCALE_GROUP], 0.0));
        assert_eq!(group(&[1e-7, -1e-38]), ([0; KV_SCALE_GROUP], 0.0));
    }

    #[test]
    fn what_is_not_finite_is_seen() {
        assert!(group(&[1.0, f32::NAN]).1.is_nan());
        // Bytes of zero times infinity are no numbers.
        for x in [f32::INFINITY, f32::NEG_INFINITY, 1e9] {
            assert_eq!(group(&[1.0, x]), ([0; KV_SCALE_GROUP], f32::INFINITY));
        }
    }
}
