//! [`crate::Backend::attention`]: `softmax(softcap(scale · q·kᵀ), sink) · v` over the visible positions.

use super::{KvCache, Reference, dot};
use crate::checks::{self, AttentionSeq};
use crate::host::HostBuffer;
use crate::params::{Attention, KvValues};
use crate::{KV_BLOCK_SIZE, Result};

pub(super) fn attention(dst: &mut HostBuffer, p: &Attention<'_, Reference>) -> Result<()> {
    let view = checks::attention(dst, p)?;
    let (dim, value_dim) = (p.kv.spec.head_dim, p.kv.spec.value_dim());
    for i in 0..view.seqs {
        let seq = view.seq(i);
        for token in seq.tokens.clone() {
            let position = seq.first_position + token - seq.tokens.start;
            for head in 0..p.heads {
                let at = token * p.heads + head;
                let q = &view.q[at * dim..][..dim];
                let row = Row { position, kv_head: head / view.group, q };
                let sink = view.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);
                let out = &mut view.dst[at * value_dim..][..value_dim];
                attend(p, &seq, &row, f64::from(sink), out);
            }
        }
    }
    Ok(())
}

/// One query head of one token.
struct Row<'a> {
    position: usize,
    kv_head: usize,
    q: &'a [f32],
}

fn attend(
    p: &Attention<'_, Reference>,
    seq: &AttentionSeq<'_>,
    &Row { position, kv_head, q }: &Row<'_>,
    sink: f64,
    out: &mut [f32],
) {
    let first = p.window.map_or(0, |w| (position + 1).saturating_sub(w));
    let visible = first..position + 1;
    let scores: Vec<f64> = visible
        .clone()
        .map(|j| {
            let score = f64::from(p.scale) * dot(q, head(p.kv, &p.kv.k, seq, j, kv_head));
            match p.softcap.map(f64::from) {
                Some(c) => c * (score / c).tanh(),
                None => score,
            }
        })
        .collect();
    let max = scores.iter().copied().fold(sink, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total = weights.iter().sum::<f64>() + (sink - max).exp();
    let values = match p.kv.spec.values {
        KvValues::Own => &p.kv.v,
        KvValues::PrefixOfKey(_) => &p.kv.k,
    };
    let mut sums = vec![0.0; out.len()];
    for (j, weight) in visible.zip(&weights) {
        for (sum, &v) in sums.iter_mut().zip(head(p.kv, values, seq, j, kv_head)) {
            *sum += weight * f64::from(v);
        }
    }
    for (out, sum) in out.iter_mut().zip(&sums) {
        *out = (sum / total) as f32;
    }
}

/// One head of the keys or values at a position of a sequence, `[head_dim]`.
fn head<'a>(
    kv: &KvCache,
    cache: &'a [f32],
    seq: &AttentionSeq<'_>,
    position: usize,
    kv_head: usize,
) -> &'a [f32] {
    let block = seq.blocks[position / KV_BLOCK_SIZE] as usize;
    let slot = block * KV_BLOCK_SIZE + position % KV_BLOCK_SIZE;
    &cache[(slot * kv.spec.kv_heads + kv_head) * kv.spec.head_dim..][..kv.spec.head_dim]
}
