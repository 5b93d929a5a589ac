//! What every host backend must hold true before it touches memory: lengths against shapes, and
//! every index (token, position, slot, block, row) against the array that it points into.
//!
//! Each function checks one operation and gives back its operands as slices of exactly the length
//! that the operation works on, so that a kernel can neither run over an end nor meet an index out
//! of range.

mod rows;

pub(crate) use rows::{gate, gather_rows, scatter_add};

use std::ops::Range;

use crate::host::HostBuffer;
use crate::params::{
    Activate, Attention, Embed, ExpertCombine, ExpertGatedLinear, GatedLinear, KvSpec, KvWrite,
    LayerNorm, Linear, PackedAttention, RmsNorm, Rope, RouteTopk,
};
use crate::weight::check_experts;
use crate::{
    Backend, Buffer, KV_BLOCK_SIZE, KV_SCALE_GROUP, KernelError, KvDType, KvStorage, PackedWeight,
    Result, WeightSource,
};

/// `a · b · …`, or an error where it overflows.
fn product(op: &'static str, factors: &[usize]) -> Result<usize> {
    factors
        .iter()
        .try_fold(1usize, |n, &f| n.checked_mul(f))
        .ok_or_else(|| KernelError::shape(op, format!("the size {factors:?} overflows")))
}

/// An error with `what` unless `ok`.
fn ensure(op: &'static str, ok: bool, what: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(KernelError::shape(op, what())) }
}

/// Every index lies in `0..end`.
fn indices(op: &'static str, name: &'static str, indices: &[i32], end: usize) -> Result<()> {
    match indices.iter().find(|&&i| i < 0 || i as usize >= end) {
        None => Ok(()),
        Some(i) => Err(KernelError::shape(op, format!("{name} {i} is outside 0..{end}"))),
    }
}

/// [`Backend::pack`]: the size of the bytes, once more, as the fields of a source are public; and
/// that there is something to pack.
pub(crate) fn pack(source: &WeightSource<'_>) -> Result<()> {
    let &WeightSource { format, rows, cols, experts, data, .. } = source;
    ensure("pack", rows > 0 && cols > 0, || format!("a weight of {rows} x {cols} is empty"))?;
    check_experts(rows, experts)?;
    WeightSource::new(format, rows, cols, data).map(|_| ())
}

/// [`Backend::kv_cache`]: values of the keys, and as many of the values.
pub(crate) fn kv_cache(spec: &KvSpec) -> Result<usize> {
    let len = product("kv_cache", &[spec.blocks, KV_BLOCK_SIZE, spec.kv_heads, spec.head_dim])?;
    ensure("kv_cache", len > 0, || format!("{spec:?} is empty"))?;
    let groups = spec.dtype != KvDType::Q8_0 || spec.head_dim.is_multiple_of(KV_SCALE_GROUP);
    ensure("kv_cache", groups, || format!("{spec:?}: heads of no multiple of {KV_SCALE_GROUP}"))?;
    // Slots are 32-bit.
    let slots = spec.blocks * KV_BLOCK_SIZE;
    ensure("kv_cache", i32::try_from(slots).is_ok(), || format!("{slots} slots are too many"))?;
    Ok(len)
}

/// The weight is one matrix, not a stack of them.
fn single(op: &'static str, weight: &impl PackedWeight) -> Result<()> {
    let experts = weight.experts();
    ensure(op, experts == 1, || format!("a stack of {experts} weights where one is meant"))
}

/// Operands of [`Backend::embed`].
pub(crate) struct EmbedView<'a> {
    /// `[T]`, each below the rows of the table.
    pub tokens: &'a [i32],
    /// `[T, width]`
    pub dst: &'a mut [f32],
}

/// [`Backend::embed`]
pub(crate) fn embed<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &Embed<'a, B>,
) -> Result<EmbedView<'a>> {
    single("embed", p.table)?;
    let tokens = p.tokens.i32("embed", p.rows)?;
    indices("embed", "token", tokens, p.table.rows())?;
    let dst = dst.f32_mut("embed", product("embed", &[p.rows, p.table.cols()])?)?;
    Ok(EmbedView { tokens, dst })
}

/// [`Backend::linear`]: all that is asked of its input and outputs. There is no view, so that
/// nothing is allocated; after this check the slices `input[..rows · cols]`,
/// `dst[..rows · weight.rows()]` and `bias[..weight.rows()]` can be had.
pub(crate) fn linear<B: Backend<Buffer = HostBuffer>>(p: &Linear<'_, '_, B>) -> Result<()> {
    for o in p.outputs.iter() {
        single("linear", o.weight)?;
        p.input.f32("linear", product("linear", &[p.rows, o.weight.cols()])?)?;
        o.dst.f32("linear", product("linear", &[p.rows, o.weight.rows()])?)?;
        if let Some(bias) = o.bias {
            bias.f32("linear", o.weight.rows())?;
        }
    }
    let cols = |o: &crate::params::LinearOutput<'_, B>| o.weight.cols();
    let same = p.outputs.windows(2).all(|w| cols(&w[0]) == cols(&w[1]));
    ensure("linear", same, || "weights of different widths share an input".into())
}

/// Operands of [`Backend::gated_linear`].
pub(crate) struct GatedLinearView<'a> {
    /// `[T, cols]`
    pub input: &'a [f32],
    /// `[T, n]`
    pub dst: &'a mut [f32],
}

/// [`Backend::gated_linear`]
pub(crate) fn gated_linear<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &GatedLinear<'a, B>,
) -> Result<GatedLinearView<'a>> {
    let op = "gated_linear";
    single(op, p.gate)?;
    single(op, p.up)?;
    let (gate, up) = ((p.gate.rows(), p.gate.cols()), (p.up.rows(), p.up.cols()));
    ensure(op, gate == up, || format!("a gate of {gate:?} and an up-projection of {up:?}"))?;
    Ok(GatedLinearView {
        input: p.input.f32(op, product(op, &[p.rows, gate.1])?)?,
        dst: dst.f32_mut(op, product(op, &[p.rows, gate.0])?)?,
    })
}

/// Operands of [`Backend::route_topk`].
pub(crate) struct RouteTopkView<'a> {
    /// `[T, experts]`
    pub scores: &'a [f32],
    /// `[T, used]`
    pub ids: &'a mut [i32],
    /// `[T, used]`
    pub weights: &'a mut [f32],
}

/// [`Backend::route_topk`]
pub(crate) fn route_topk<'a, B: Backend<Buffer = HostBuffer>>(
    p: RouteTopk<'a, B>,
) -> Result<RouteTopkView<'a>> {
    let op = "route_topk";
    let (experts, used) = (p.experts, p.used);
    let fits = used > 0 && used <= experts && i32::try_from(experts).is_ok();
    ensure(op, fits, || format!("{used} of {experts} experts"))?;
    ensure(op, p.scale.is_finite(), || format!("a factor of {}", p.scale))?;
    Ok(RouteTopkView {
        scores: p.scores.f32(op, product(op, &[p.rows, experts])?)?,
        ids: p.ids.i32_mut(op, product(op, &[p.rows, used])?)?,
        weights: p.weights.f32_mut(op, product(op, &[p.rows, used])?)?,
    })
}

/// Operands of [`Backend::expert_gated_linear`].
pub(crate) struct ExpertGatedLinearView<'a> {
    /// `[T, cols]`
    pub input: &'a [f32],
    /// `[T, used]`, each below the number of experts.
    pub ids: &'a [i32],
    /// `[T, used, n]`
    pub dst: &'a mut [f32],
}

/// [`Backend::expert_gated_linear`]
pub(crate) fn expert_gated_linear<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &ExpertGatedLinear<'a, B>,
) -> Result<ExpertGatedLinearView<'a>> {
    let op = "expert_gated_linear";
    let shape = |w: &B::Weight| (w.experts(), w.rows(), w.cols());
    let (gate, up) = (shape(p.gate), shape(p.up));
    ensure(op, gate == up, || format!("gates of {gate:?} and up-projections of {up:?}"))?;
    ensure(op, p.used > 0, || "no experts for a token".into())?;
    let ids = p.ids.i32(op, product(op, &[p.rows, p.used])?)?;
    indices(op, "expert", ids, gate.0)?;
    Ok(ExpertGatedLinearView {
        input: p.input.f32(op, product(op, &[p.rows, gate.2])?)?,
        ids,
        dst: dst.f32_mut(op, product(op, &[p.rows, p.used, gate.1])?)?,
    })
}

/// Operands of [`Backend::expert_combine`].
pub(crate) struct ExpertCombineView<'a> {
    /// `[T, used, cols]`
    pub input: &'a [f32],
    /// `[T, used]`, each below the number of experts.
    pub ids: &'a [i32],
    /// `[T, used]`
    pub weights: &'a [f32],
    /// `[T, n]`
    pub dst: &'a mut [f32],
}

/// [`Backend::expert_combine`]
pub(crate) fn expert_combine<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &ExpertCombine<'a, B>,
) -> Result<ExpertCombineView<'a>> {
    let op = "expert_combine";
    ensure(op, p.used > 0, || "no experts for a token".into())?;
    let slots = product(op, &[p.rows, p.used])?;
    let ids = p.ids.i32(op, slots)?;
    indices(op, "expert", ids, p.weight.experts())?;
    Ok(ExpertCombineView {
        input: p.input.f32(op, product(op, &[slots, p.weight.cols()])?)?,
        ids,
        weights: p.weights.f32(op, slots)?,
        dst: dst.f32_mut(op, product(op, &[p.rows, p.weight.rows()])?)?,
    })
}

/// Operands of [`Backend::rms_norm`].
pub(crate) struct RmsNormView<'a> {
    /// `[groups, width]`; `None`: `dst` is the source.
    pub src: Option<&'a [f32]>,
    /// `[width]`
    pub weight: &'a [f32],
    /// `[groups, width]`
    pub dst: &'a mut [f32],
}

/// [`Backend::rms_norm`]
pub(crate) fn rms_norm<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &RmsNorm<'a, B>,
) -> Result<RmsNormView<'a>> {
    let op = "rms_norm";
    ensure(op, p.width > 0, || "a width of zero".into())?;
    ensure(op, p.eps >= 0.0, || format!("eps is {}", p.eps))?;
    ensure(op, p.src.is_some() || !p.accumulate, || "accumulation in place".into())?;
    let len = product(op, &[p.groups, p.width])?;
    Ok(RmsNormView {
        src: p.src.map(|b| b.f32(op, len)).transpose()?,
        weight: p.weight.f32(op, p.width)?,
        dst: dst.f32_mut(op, len)?,
    })
}

/// Operands of [`Backend::layer_norm`].
pub(crate) struct LayerNormView<'a> {
    /// `[groups, width]`; `None`: `dst` is the source.
    pub src: Option<&'a [f32]>,
    /// `[width]`
    pub weight: &'a [f32],
    /// `[width]`
    pub bias: &'a [f32],
    /// `[groups, width]`
    pub dst: &'a mut [f32],
}

/// [`Backend::layer_norm`]
pub(crate) fn layer_norm<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &LayerNorm<'a, B>,
) -> Result<LayerNormView<'a>> {
    let op = "layer_norm";
    ensure(op, p.width > 0, || "a width of zero".into())?;
    ensure(op, p.eps >= 0.0, || format!("eps is {}", p.eps))?;
    let len = product(op, &[p.groups, p.width])?;
    Ok(LayerNormView {
        src: p.src.map(|b| b.f32(op, len)).transpose()?,
        weight: p.weight.f32(op, p.width)?,
        bias: p.bias.f32(op, p.width)?,
        dst: dst.f32_mut(op, len)?,
    })
}

/// [`Backend::activate`]: the values.
pub(crate) fn activate<'a>(x: &'a mut HostBuffer, p: &Activate) -> Result<&'a mut [f32]> {
    x.f32_mut("activate", product("activate", &[p.rows, p.width])?)
}

/// Operands of [`Backend::rope`].
pub(crate) struct RopeView<'a> {
    /// `[T]`, each with a row in the table.
    pub positions: &'a [i32],
    /// `[max_positions, rotary_dim / 2, 2]`
    pub table: &'a [f32],
    /// `[T, heads · head_dim]`
    pub x: &'a mut [f32],
}

/// [`Backend::rope`]
pub(crate) fn rope<'a, B: Backend<Buffer = HostBuffer>>(
    x: &'a mut HostBuffer,
    p: &Rope<'a, B>,
) -> Result<RopeView<'a>> {
    let op = "rope";
    let fits = p.rotary_dim > 0 && p.rotary_dim.is_multiple_of(2) && p.rotary_dim <= p.head_dim;
    ensure(op, fits, || {
        format!("{} of {} values per head cannot be rotated in pairs", p.rotary_dim, p.head_dim)
    })?;
    let positions = p.positions.i32(op, p.rows)?;
    let table = p.table.f32(op, p.table.len())?;
    indices(op, "position", positions, table.len() / p.rotary_dim)?;
    let x = x.f32_mut(op, product(op, &[p.rows, p.heads, p.head_dim])?)?;
    Ok(RopeView { positions, table, x })
}

/// Operands of [`Backend::kv_write`].
pub(crate) struct KvWriteView<'a> {
    /// `[T, kv_heads · head_dim]`
    pub k: &'a [f32],
    /// `[T, kv_heads · head_dim]`
    pub v: &'a [f32],
    /// `[T]`, each within the cache. They may repeat; then the last token's values stay.
    pub slots: &'a [i32],
}

/// [`Backend::kv_write`] into a cache of shape `spec`.
pub(crate) fn kv_write<'a, B: Backend<Buffer = HostBuffer>>(
    spec: &KvSpec,
    p: &KvWrite<'a, B>,
) -> Result<KvWriteView<'a>> {
    let op = "kv_write";
    let tokens = p.batch.shape.tokens;
    let len = product(op, &[tokens, spec.kv_heads, spec.head_dim])?;
    let slots = p.batch.slots.i32(op, tokens)?;
    indices(op, "slot", slots, spec.blocks * KV_BLOCK_SIZE)?;
    Ok(KvWriteView { k: p.k.f32(op, len)?, v: p.v.f32(op, len)?, slots })
}

/// Operands of [`Backend::attention`].
pub(crate) struct AttentionView<'a> {
    /// `[T, heads · head_dim]`
    pub q: &'a [f32],
    /// `[T, heads · head_dim]`
    pub dst: &'a mut [f32],
    /// Sequences `S`.
    pub seqs: usize,
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

impl<'a> AttentionView<'a> {
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
pub(crate) fn attention<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &Attention<'a, B>,
) -> Result<AttentionView<'a>> {
    let op = "attention";
    let spec = p.kv.spec();
    let grouped = p.heads > 0 && spec.kv_heads > 0 && p.heads.is_multiple_of(spec.kv_heads);
    ensure(op, grouped, || format!("{} heads over {} of the cache", p.heads, spec.kv_heads))?;
    ensure(op, p.window != Some(0), || "a window of no positions".into())?;
    ensure(op, p.softcap.is_none_or(|c| c > 0.0), || format!("softcap {:?}", p.softcap))?;
    let shape = p.batch.shape;
    let len = product(op, &[shape.tokens, p.heads, spec.head_dim])?;
    let tables = product(op, &[shape.seqs, shape.blocks_per_seq])?;
    let starts = shape.seqs.saturating_add(1);
    let view = AttentionView {
        q: p.q.f32(op, len)?,
        dst: dst.f32_mut(op, len)?,
        seqs: shape.seqs,
        group: p.heads / spec.kv_heads,
        query_starts: p.batch.query_starts.i32(op, starts)?,
        kv_lens: p.batch.kv_lens.i32(op, shape.seqs)?,
        block_tables: p.batch.block_tables.i32(op, tables)?,
        blocks_per_seq: shape.blocks_per_seq,
    };
    sequences(op, &view, shape.tokens)?;
    for i in 0..view.seqs {
        indices(op, "block", view.seq(i).blocks, spec.blocks)?;
    }
    Ok(view)
}

/// The sequences share out the tokens in order, and each has the positions and blocks it claims.
fn sequences(op: &'static str, view: &AttentionView<'_>, tokens: usize) -> Result<()> {
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
pub(crate) struct PackedAttentionView<'a> {
    /// `[T, heads · head_dim]`
    pub q: &'a [f32],
    /// `[T, kv_heads · head_dim]`
    pub k: &'a [f32],
    /// `[T, kv_heads · head_dim]`
    pub v: &'a [f32],
    /// `[T, heads · head_dim]`
    pub dst: &'a mut [f32],
    /// Query heads that share a head of keys and values.
    pub group: usize,
    query_starts: &'a [i32],
}

impl PackedAttentionView<'_> {
    /// The tokens of each sequence, none without any.
    pub fn sequences(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.query_starts.windows(2).map(|w| w[0] as usize..w[1] as usize)
    }
}

/// [`Backend::packed_attention`]
pub(crate) fn packed_attention<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &PackedAttention<'a, B>,
) -> Result<PackedAttentionView<'a>> {
    let op = "packed_attention";
    let &PackedAttention { tokens, seqs, heads, kv_heads, head_dim, .. } = p;
    let grouped = heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads);
    ensure(op, grouped, || format!("{heads} heads over {kv_heads} of keys and values"))?;
    ensure(op, head_dim > 0, || "heads of no values".into())?;
    ensure(op, p.scale.is_finite(), || format!("a factor of {}", p.scale))?;
    let (len, kv_len) =
        (product(op, &[tokens, heads, head_dim])?, product(op, &[tokens, kv_heads, head_dim])?);
    let starts = p.query_starts.i32(op, seqs.saturating_add(1))?;
    let covered = starts.first() == Some(&0)
        && starts.last().is_some_and(|&t| usize::try_from(t) == Ok(tokens))
        && starts.windows(2).all(|w| w[0] < w[1]);
    ensure(op, covered, || format!("the sequences do not share out {tokens} tokens"))?;
    Ok(PackedAttentionView {
        q: p.q.f32(op, len)?,
        k: p.k.f32(op, kv_len)?,
        v: p.v.f32(op, kv_len)?,
        dst: dst.f32_mut(op, len)?,
        group: heads / kv_heads,
        query_starts: starts,
    })
}
