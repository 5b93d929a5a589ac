//! Checks of the operations on keys and values.

use std::ops::Range;

use super::{Operand, ensure, in_range, indices, product, uploaded};
use crate::host::HostBuffer;
use crate::params::{Attention, KvSpec, KvValues, KvWrite, PackedAttention};
use crate::{Backend, KV_BLOCK_SIZE, KvStorage, Result};

/// Operands of [`Backend::kv_write`].
pub(crate) struct KvWriteView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T, kv_heads · head_dim]`
    pub k: M::Floats<'a>,
    /// `[T, kv_heads · head_dim]`; `None` where the cache keeps no values.
    pub v: Option<M::Floats<'a>>,
    /// `[T]`, each within the cache. They may repeat; then the last token's values stay.
    pub slots: M::Ints<'a>,
}

/// [`Backend::kv_write`] into a cache of shape `spec`.
pub(crate) fn kv_write<'a, B: Backend<Buffer: Operand>>(
    spec: &KvSpec,
    p: &KvWrite<'a, B>,
) -> Result<KvWriteView<'a, B::Buffer>> {
    let op = "kv_write";
    let tokens = p.batch.shape.tokens;
    let len = product(op, &[tokens, spec.kv_heads, spec.head_dim])?;
    let slots = indices(op, "slot", &p.batch.slots, tokens, spec.blocks * KV_BLOCK_SIZE)?;
    let own = spec.values == KvValues::Own;
    ensure(op, p.v.is_some() == own, || {
        let given = if own { "no values" } else { "values" };
        format!("{given} for a cache of {}", spec.values.of(spec.head_dim))
    })?;
    let v = p.v.map(|v| v.floats(op, len)).transpose()?;
    Ok(KvWriteView { k: p.k.floats(op, len)?, v, slots })
}

/// Operands of [`Backend::attention`].
pub(crate) struct AttentionView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T, heads · head_dim]`
    pub q: M::Floats<'a>,
    /// `[T, heads · value_dim]`
    pub dst: M::FloatsMut<'a>,
    /// Sequences `S`.
    pub seqs: usize,
    /// `[heads]`, where there are any.
    pub sinks: Option<M::Floats<'a>>,
    /// Query heads that share a head of keys and values.
    pub group: usize,
    query_starts: &'a [i32],
    kv_lens: &'a [i32],
    block_tables: &'a [i32],
    blocks_per_seq: usize,
}

/// One sequence of an [`AttentionView`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttentionSeq<'a> {
    /// Its tokens in the step.
    pub tokens: Range<usize>,
    /// Position of its first token; the others follow.
    pub first_position: usize,
    /// The blocks of its positions, each within the cache; no more than they need.
    pub blocks: &'a [i32],
}

impl<'a, M: Operand> AttentionView<'a, M> {
    /// Sequence `i` below [`AttentionView::seqs`].
    pub fn seq(&self, i: usize) -> AttentionSeq<'a> {
        let tokens = self.query_starts[i] as usize..self.query_starts[i + 1] as usize;
        let kv_len = self.kv_lens[i] as usize;
        let blocks = &self.block_tables[i * self.blocks_per_seq..];
        AttentionSeq {
            first_position: kv_len - tokens.len(),
            tokens,
            blocks: &blocks[..kv_len.div_ceil(KV_BLOCK_SIZE)],
        }
    }
}

/// [`Backend::attention`]
pub(crate) fn attention<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &Attention<'a, B>,
) -> Result<AttentionView<'a, B::Buffer>> {
    let op = "attention";
    let spec = p.kv.spec();
    let grouped = p.heads > 0 && spec.kv_heads > 0 && p.heads.is_multiple_of(spec.kv_heads);
    ensure(op, grouped, || format!("{} heads over {} of the cache", p.heads, spec.kv_heads))?;
    ensure(op, p.window != Some(0), || "a window of no positions".into())?;
    ensure(op, p.softcap.is_none_or(|c| c > 0.0), || format!("softcap {:?}", p.softcap))?;
    let shape = p.batch.shape;
    let len = product(op, &[shape.tokens, p.heads, spec.head_dim])?;
    let out = product(op, &[shape.tokens, p.heads, spec.value_dim()])?;
    let tables = product(op, &[shape.seqs, shape.blocks_per_seq])?;
    let starts = shape.seqs.saturating_add(1);
    let view = AttentionView {
        q: p.q.floats(op, len)?,
        dst: dst.floats_mut(op, out)?,
        seqs: shape.seqs,
        sinks: p.sinks.map(|sinks| sinks.floats(op, p.heads)).transpose()?,
        group: p.heads / spec.kv_heads,
        query_starts: uploaded(op, &p.batch.query_starts, starts)?,
        kv_lens: uploaded(op, &p.batch.kv_lens, shape.seqs)?,
        block_tables: uploaded(op, &p.batch.block_tables, tables)?,
        blocks_per_seq: shape.blocks_per_seq,
    };
    sequences(op, &view, shape.tokens)?;
    for i in 0..view.seqs {
        in_range(op, "block", view.seq(i).blocks, spec.blocks)?;
    }
    Ok(view)
}

/// The sequences share out the tokens in order, and each has the positions and blocks it claims.
fn sequences<M: Operand>(
    op: &'static str,
    view: &AttentionView<'_, M>,
    tokens: usize,
) -> Result<()> {
    let starts = view.query_starts;
    let covered = starts.first() == Some(&0)
        && starts.last().is_some_and(|&t| usize::try_from(t) == Ok(tokens));
    ensure(op, covered, || format!("the sequences do not cover {tokens} tokens"))?;
    for (i, (&kv_len, start)) in view.kv_lens.iter().zip(starts.windows(2)).enumerate() {
        // Increasing from zero, so none is negative and no difference overflows.
        let fits = start[0] < start[1]
            && kv_len >= start[1] - start[0]
            && (kv_len as usize).div_ceil(KV_BLOCK_SIZE) <= view.blocks_per_seq;
        ensure(op, fits, || {
            format!("sequence {i}: tokens {start:?}, {kv_len} positions, blocks too few or many")
        })?;
    }
    Ok(())
}

/// Operands of [`Backend::packed_attention`].
pub(crate) struct PackedAttentionView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T, heads · head_dim]`
    pub q: M::Floats<'a>,
    /// `[T, kv_heads · head_dim]`
    pub k: M::Floats<'a>,
    /// `[T, kv_heads · head_dim]`
    pub v: M::Floats<'a>,
    /// `[T, heads · head_dim]`
    pub dst: M::FloatsMut<'a>,
    /// Query heads that share a head of keys and values.
    pub group: usize,
    query_starts: &'a [i32],
}

impl<M: Operand> PackedAttentionView<'_, M> {
    /// The tokens of each sequence, none without any.
    pub fn sequences(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.query_starts.windows(2).map(|w| w[0] as usize..w[1] as usize)
    }
}

/// [`Backend::packed_attention`]
pub(crate) fn packed_attention<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &PackedAttention<'a, B>,
) -> Result<PackedAttentionView<'a, B::Buffer>> {
    let op = "packed_attention";
    let &PackedAttention { tokens, seqs, heads, kv_heads, head_dim, .. } = p;
    let grouped = heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads);
    ensure(op, grouped, || format!("{heads} heads over {kv_heads} of keys and values"))?;
    ensure(op, head_dim > 0, || "heads of no values".into())?;
    ensure(op, p.scale.is_finite(), || format!("a factor of {}", p.scale))?;
    let (len, kv_len) =
        (product(op, &[tokens, heads, head_dim])?, product(op, &[tokens, kv_heads, head_dim])?);
    let starts = uploaded(op, p.query_starts, seqs.saturating_add(1))?;
    let covered = starts.first() == Some(&0)
        && starts.last().is_some_and(|&t| usize::try_from(t) == Ok(tokens))
        && starts.windows(2).all(|w| w[0] < w[1]);
    ensure(op, covered, || format!("the sequences do not share out {tokens} tokens"))?;
    Ok(PackedAttentionView {
        q: p.q.floats(op, len)?,
        k: p.k.floats(op, kv_len)?,
        v: p.v.floats(op, kv_len)?,
        dst: dst.floats_mut(op, len)?,
        group: heads / kv_heads,
        query_starts: starts,
    })
}
