//! Bytes and arithmetic of each operation: what any implementation has to move and compute at
//! least. A weight or a cached position counts once for a call, however often it is read.

use super::record::Cost;
use crate::draw::LOGPROB_ENTRIES;
use crate::params::{
    Activate, Attention, Embed, ExpertCombine, ExpertGatedLinear, Gate, GatedLinear, KvWrite,
    LayerNorm, Linear, Logprobs, PackedAttention, RmsNorm, Rope, Sample, ScatterAdd,
};
use crate::{Backend, KV_BLOCK_SIZE, KvStorage, PackedWeight, StepInput};

/// Bytes of `values` activations.
fn floats(values: usize) -> u64 {
    values.saturating_mul(size_of::<f32>()) as u64
}

/// A product of sizes that nobody has checked: an operation is counted before it refuses them.
fn times<const N: usize>(factors: [usize; N]) -> usize {
    factors.into_iter().fold(1, usize::saturating_mul)
}

fn cost(bytes: u64, ops: usize) -> Cost {
    Cost { bytes, ops: ops as u64 }
}

pub(super) fn embed<B: Backend>(p: &Embed<'_, B>) -> Cost {
    let (row, width) = (p.table.resident_bytes() / p.table.rows().max(1), p.table.cols());
    let passes = if p.accumulate { 2 } else { 1 };
    let bytes =
        (times([p.rows, row]) as u64).saturating_add(floats(times([passes, p.rows, width])));
    cost(bytes, times([p.rows, width]))
}

pub(super) fn linear<B: Backend>(p: &Linear<'_, '_, B>) -> Cost {
    let mut sum = Cost::default();
    for output in p.outputs.iter() {
        let (n, cols) = (output.weight.rows(), output.weight.cols());
        let written = if output.accumulate { 2 } else { 1 };
        let bytes = floats(times([p.rows, n, written]));
        let bytes = bytes.saturating_add(output.weight.resident_bytes() as u64);
        sum.bytes = sum.bytes.saturating_add(bytes);
        sum.ops = sum.ops.saturating_add(times([2, p.rows, n, cols]) as u64);
    }
    let input = p.outputs.first().map_or(0, |o| floats(times([p.rows, o.weight.cols()])));
    sum.bytes = sum.bytes.saturating_add(input);
    sum
}

pub(super) fn gated_linear<B: Backend>(p: &GatedLinear<'_, B>) -> Cost {
    let (n, cols) = (p.gate.rows(), p.gate.cols());
    let weights = p.gate.resident_bytes() + p.up.resident_bytes();
    let activations = floats(times([p.rows, n + cols]));
    cost(activations.saturating_add(weights as u64), times([4, p.rows, n, cols]))
}

pub(super) fn rms_norm<B: Backend>(p: &RmsNorm<'_, B>) -> Cost {
    let values = times([p.groups, p.width]);
    let passes = if p.accumulate { 3 } else { 2 };
    cost(floats(times([passes, values]).saturating_add(p.width)), times([4, values]))
}

/// A sum, the squares of what is left without the mean, and the product with the weight.
pub(super) fn layer_norm<B: Backend>(p: &LayerNorm<'_, B>) -> Cost {
    let values = times([p.groups, p.width]);
    cost(floats(times([2, values.saturating_add(p.width)])), times([6, values]))
}

/// An activation is a dozen operations or two, but for `relu`; counted as one value.
pub(super) fn activate(p: &Activate) -> Cost {
    let values = times([p.rows, p.width]);
    cost(floats(times([2, values])), values)
}

/// Norms of heads take next to nothing beside it.
pub(super) fn rope<B: Backend>(p: &Rope<'_, '_, B>) -> Cost {
    let heads = p.inputs.iter().map(|input| input.heads).fold(0, usize::saturating_add);
    let values = times([p.rows, heads, p.rotary_dim]);
    let angles = times([p.rows, p.rotary_dim]);
    cost(floats(times([2, values]).saturating_add(angles)), times([3, values]))
}

/// Bytes of one position of a cache, keys and values.
fn position_bytes(kv: &impl KvStorage) -> usize {
    kv.resident_bytes() / (kv.spec().blocks * KV_BLOCK_SIZE).max(1)
}

pub(super) fn kv_write<B: Backend>(kv: &B::KvCache, p: &KvWrite<'_, B>) -> Cost {
    let tokens = p.batch.shape.tokens;
    let given = if p.v.is_some() { 2 } else { 1 };
    let values = times([tokens, given, kv.spec().kv_heads, kv.spec().head_dim]);
    let written = times([tokens, position_bytes(kv)]) as u64;
    cost(floats(values).saturating_add(written), values)
}

/// Each sequence's visible positions are read once for all its tokens and heads. Two multiply-adds
/// a value of a head, for each position that a token sees.
pub(super) fn attention<B: Backend>(p: &Attention<'_, B>, step: &StepInput) -> Cost {
    let window = p.window.unwrap_or(usize::MAX);
    let (mut positions, mut pairs) = (0, 0);
    for (len, bounds) in step.kv_lens.iter().zip(step.query_starts.windows(2)) {
        let (len, queries) = (*len as usize, (bounds[1] - bounds[0]) as usize);
        positions += len.min(window.saturating_add(queries - 1));
        pairs += (len - queries..len).map(|at| (at + 1).min(window)).sum::<usize>();
    }
    // Of a query and of its result.
    let width = times([p.heads, p.kv.spec().head_dim.saturating_add(p.kv.spec().value_dim())]);
    let activations = floats(times([p.batch.shape.tokens, width]));
    let read = times([positions, position_bytes(p.kv)]) as u64;
    cost(activations.saturating_add(read), times([2, pairs, width]))
}

/// Two multiply-adds a value of a head, for each pair of tokens of a sequence.
pub(super) fn packed_attention<B: Backend>(p: &PackedAttention<'_, B>, step: &StepInput) -> Cost {
    let lens = step.query_starts.windows(2).map(|w| (w[1] - w[0]) as usize);
    let pairs: usize = lens.map(|len| len * len).sum();
    let heads = p.heads.saturating_add(p.kv_heads);
    let activations = floats(times([2, p.tokens, heads, p.head_dim]));
    cost(activations, times([4, pairs, p.heads, p.head_dim]))
}

/// Experts that `rows` tokens are expected to need between them, if each chose at random.
fn experts_touched(rows: usize, used: usize, experts: usize) -> f64 {
    let left = 1.0 - used as f64 / experts.max(1) as f64;
    experts as f64 * (1.0 - left.powi(i32::try_from(rows).unwrap_or(i32::MAX)))
}

/// The share of a stack's bytes that the expected experts have.
fn expert_bytes(weight: &impl PackedWeight, rows: usize, used: usize) -> u64 {
    let experts = weight.experts();
    let touched = experts_touched(rows, used, experts) / experts.max(1) as f64;
    (weight.resident_bytes() as f64 * touched) as u64
}

pub(super) fn expert_gated_linear<B: Backend>(p: &ExpertGatedLinear<'_, B>) -> Cost {
    let (n, cols) = (p.gate.rows(), p.gate.cols());
    let weights = [p.gate, p.up].map(|w| expert_bytes(w, p.rows, p.used));
    let activations = floats(times([p.rows, times([p.used, n]).saturating_add(cols)]));
    let bytes = activations.saturating_add(weights[0] + weights[1]);
    cost(bytes, times([4, p.rows, p.used, n, cols]))
}

pub(super) fn expert_combine<B: Backend>(p: &ExpertCombine<'_, B>) -> Cost {
    let (n, cols) = (p.weight.rows(), p.weight.cols());
    let activations = floats(times([p.rows, times([p.used, cols]).saturating_add(2 * n)]));
    let bytes = activations.saturating_add(expert_bytes(p.weight, p.rows, p.used));
    cost(bytes, times([2, p.rows, p.used, n, cols + 1]))
}

/// An activation, counted as one value, and a product.
pub(super) fn gate<B: Backend>(p: &Gate<'_, B>) -> Cost {
    let values = times([p.rows, p.width]);
    cost(floats(times([3, values])), times([2, values]))
}

pub(super) fn scatter_add<B: Backend>(p: &ScatterAdd<'_, B>) -> Cost {
    let values = times([p.count, p.width]);
    cost(floats(times([3, values])), values)
}

/// Each logit is looked at once at least; what a draw costs beyond that depends on the draw.
pub(super) fn sample<B: Backend>(p: &Sample<'_, B>) -> Cost {
    let values = times([p.rows, p.vocab]);
    cost(floats(values.saturating_add(p.rows)), values)
}

/// Each logit is looked at twice, as if all rows wanted it.
pub(super) fn logprobs<B: Backend>(p: &Logprobs<'_, B>) -> Cost {
    let values = times([p.rows, p.vocab]);
    let results = times([2, p.rows, LOGPROB_ENTRIES]);
    cost(floats(times([2, values]).saturating_add(results)), times([2, values]))
}

/// Copies: every value is read and written.
pub(super) fn copy(rows: usize, width: usize) -> Cost {
    cost(floats(times([2, rows, width])), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tokens_touch_few_experts() {
        assert_eq!(experts_touched(1, 8, 64).round(), 8.0);
        assert!((8.0..16.0).contains(&experts_touched(2, 8, 64)));
        assert!(experts_touched(512, 8, 64) > 63.9);
        assert_eq!(experts_touched(3, 4, 4), 4.0);
    }
}
