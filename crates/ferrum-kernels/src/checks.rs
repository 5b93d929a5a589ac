//! What every backend must hold true before it touches memory: lengths against shapes, and every
//! index (token, position, slot, block, row) against the array that it points into.
//!
//! Each function checks one operation and gives back its operands, on the host as slices of exactly the length
//! that the operation works on, so that a kernel can neither run over an end nor meet an index out
//! of range.

mod attention;
mod rows;

pub(crate) use attention::{
    AttentionSeq, AttentionView, KvWriteView, PackedAttentionView, attention, kv_write,
    packed_attention,
};
pub(crate) use rows::{GateView, gate, gather_rows, logprobs, sample, scatter_add};

use crate::host::HostBuffer;
use crate::params::{
    Activate, Embed, ExpertCombine, ExpertGatedLinear, GatedLinear, KvSpec, KvValues, LayerNorm,
    Linear, RmsNorm, Rope, RopeInput, RouteTopk,
};
use crate::weight::{check_columns, check_experts, check_scales};
use crate::{
    Backend, Buffer, E4m3, Format, KV_BLOCK_SIZE, KV_SCALE_GROUP, KernelError, KvDType,
    PackedWeight, Result, WeightSource,
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

/// A buffer whose operands can be checked: their lengths, and the integers among them.
pub(crate) trait Operand: Buffer + Sized {
    /// Values to read, as the backend's kernels take them: a slice on the host.
    type Floats<'a>
    where
        Self: 'a;
    /// Values to write.
    type FloatsMut<'a>
    where
        Self: 'a;
    /// Indices to read.
    type Ints<'a>
    where
        Self: 'a;
    /// Indices to write.
    type IntsMut<'a>
    where
        Self: 'a;

    /// The first `len` values of an `F32` buffer.
    fn floats(&self, op: &'static str, len: usize) -> Result<Self::Floats<'_>>;

    /// The first `len` values of an `F32` buffer, to write.
    fn floats_mut(&mut self, op: &'static str, len: usize) -> Result<Self::FloatsMut<'_>>;

    /// The first `len` values of an `I32` buffer.
    fn ints(&self, op: &'static str, len: usize) -> Result<Self::Ints<'_>>;

    /// The first `len` values of an `I32` buffer, to write.
    fn ints_mut(&mut self, op: &'static str, len: usize) -> Result<Self::IntsMut<'_>>;

    /// The first `len` values of an `I32` buffer as far as the host knows them: `None` where an
    /// operation has made them on the device.
    fn known(&self, op: &'static str, len: usize) -> Result<Option<&[i32]>>;
}

impl Operand for HostBuffer {
    type Floats<'a> = &'a [f32];
    type FloatsMut<'a> = &'a mut [f32];
    type Ints<'a> = &'a [i32];
    type IntsMut<'a> = &'a mut [i32];

    fn floats(&self, op: &'static str, len: usize) -> Result<&[f32]> {
        self.f32(op, len)
    }

    fn floats_mut(&mut self, op: &'static str, len: usize) -> Result<&mut [f32]> {
        self.f32_mut(op, len)
    }

    fn ints(&self, op: &'static str, len: usize) -> Result<&[i32]> {
        self.i32(op, len)
    }

    fn ints_mut(&mut self, op: &'static str, len: usize) -> Result<&mut [i32]> {
        self.i32_mut(op, len)
    }

    fn known(&self, op: &'static str, len: usize) -> Result<Option<&[i32]>> {
        self.i32(op, len).map(Some)
    }
}

/// The first `len` indices of a buffer, of which those that the host knows lie in `0..end`. What it
/// does not know was made by [`Backend::route_topk`], and a kernel that reads it leaves out what is
/// out of range.
fn indices<'a, M: Operand>(
    op: &'static str,
    name: &'static str,
    buffer: &'a M,
    len: usize,
    end: usize,
) -> Result<M::Ints<'a>> {
    if let Some(known) = buffer.known(op, len)? {
        in_range(op, name, known, end)?;
    }
    buffer.ints(op, len)
}

/// The first `len` values of a buffer that the host must know: those that shape a step.
fn uploaded<'a, M: Operand>(op: &'static str, buffer: &'a M, len: usize) -> Result<&'a [i32]> {
    let made = || KernelError::shape(op, "sizes of a step that were not uploaded");
    buffer.known(op, len)?.ok_or_else(made)
}

/// Every index lies in `0..end`.
fn in_range(op: &'static str, name: &'static str, indices: &[i32], end: usize) -> Result<()> {
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
    check_columns(source.columns, cols, experts)?;
    check_scales(format, source.scales, rows)?;
    ensure("pack", format != Format::F8_E4M3 || are_numbers(data), || {
        "a weight that is no number".into()
    })?;
    WeightSource::new(format, rows, cols, data).map(|_| ())
}

/// Whether all of these E4M3 codes are numbers: some thousand at once, which is done by vectors.
fn are_numbers(codes: &[u8]) -> bool {
    let any_is_none =
        |codes: &[u8]| codes.iter().fold(false, |any, code| any | E4m3::from_bits(*code).is_nan());
    !codes.chunks(4096).any(any_is_none)
}

/// Whether there is a cache with heads of this shape: of whole groups that share a scale.
pub(crate) fn is_head(head_dim: usize, values: KvValues, dtype: KvDType) -> bool {
    let unit = if dtype == KvDType::Q8_0 { KV_SCALE_GROUP } else { 1 };
    let value_dim = values.dim(head_dim);
    let whole = |dim: usize| dim.is_multiple_of(unit);
    (1..=head_dim).contains(&value_dim) && whole(head_dim) && whole(value_dim)
}

/// [`Backend::kv_cache`]: numbers of the keys, and of the values.
pub(crate) fn kv_cache(spec: &KvSpec) -> Result<[usize; 2]> {
    let len = product("kv_cache", &[spec.blocks, KV_BLOCK_SIZE, spec.kv_heads, spec.head_dim])?;
    ensure("kv_cache", len > 0, || format!("{spec:?} is empty"))?;
    let &KvSpec { head_dim, values, dtype, .. } = spec;
    ensure("kv_cache", is_head(head_dim, values, dtype), || {
        format!("a cache in {dtype:?} with {}", values.of(head_dim))
    })?;
    // Slots are 32-bit.
    let slots = spec.blocks * KV_BLOCK_SIZE;
    ensure("kv_cache", i32::try_from(slots).is_ok(), || format!("{slots} slots are too many"))?;
    Ok([len, if values == KvValues::Own { len } else { 0 }])
}

/// The weight is one matrix, not a stack of them.
fn single(op: &'static str, weight: &impl PackedWeight) -> Result<()> {
    let experts = weight.experts();
    ensure(op, experts == 1, || format!("a stack of {experts} weights where one is meant"))
}

/// Operands of [`Backend::embed`].
pub(crate) struct EmbedView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T]`, each below the rows of the table.
    pub tokens: M::Ints<'a>,
    /// `[T, width]`
    pub dst: M::FloatsMut<'a>,
}

/// [`Backend::embed`]
pub(crate) fn embed<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &Embed<'a, B>,
) -> Result<EmbedView<'a, B::Buffer>> {
    single("embed", p.table)?;
    let ordered = p.table.columns().is_none();
    ensure("embed", ordered, || "a table whose columns are in another order".into())?;
    let tokens = indices("embed", "token", p.tokens, p.rows, p.table.rows())?;
    let dst = dst.floats_mut("embed", product("embed", &[p.rows, p.table.cols()])?)?;
    Ok(EmbedView { tokens, dst })
}

/// [`Backend::linear`]: all that is asked of its input and outputs. There is no view, so that
/// nothing is allocated; after this check the slices `input[..rows · cols]`,
/// `dst[..rows · weight.rows()]` and `bias[..weight.rows()]` can be had.
pub(crate) fn linear<B: Backend<Buffer: Operand>>(p: &Linear<'_, '_, B>) -> Result<()> {
    for o in p.outputs.iter() {
        single("linear", o.weight)?;
        p.input.floats("linear", product("linear", &[p.rows, o.weight.cols()])?)?;
        o.dst.floats("linear", product("linear", &[p.rows, o.weight.rows()])?)?;
        if let Some(bias) = o.bias {
            bias.floats("linear", o.weight.rows())?;
        }
    }
    let cols = |o: &crate::params::LinearOutput<'_, B>| o.weight.cols();
    let same = p.outputs.windows(2).all(|w| cols(&w[0]) == cols(&w[1]));
    ensure("linear", same, || "weights of different widths share an input".into())
}

/// Operands of [`Backend::gated_linear`].
pub(crate) struct GatedLinearView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T, cols]`
    pub input: M::Floats<'a>,
    /// `[T, n]`
    pub dst: M::FloatsMut<'a>,
}

/// [`Backend::gated_linear`]
pub(crate) fn gated_linear<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &GatedLinear<'a, B>,
) -> Result<GatedLinearView<'a, B::Buffer>> {
    let op = "gated_linear";
    single(op, p.gate)?;
    single(op, p.up)?;
    let (gate, up) = ((p.gate.rows(), p.gate.cols()), (p.up.rows(), p.up.cols()));
    ensure(op, gate == up, || format!("a gate of {gate:?} and an up-projection of {up:?}"))?;
    Ok(GatedLinearView {
        input: p.input.floats(op, product(op, &[p.rows, gate.1])?)?,
        dst: dst.floats_mut(op, product(op, &[p.rows, gate.0])?)?,
    })
}

/// Operands of [`Backend::route_topk`].
pub(crate) struct RouteTopkView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T, experts]`
    pub scores: M::Floats<'a>,
    /// `[T, used]`
    pub ids: M::IntsMut<'a>,
    /// `[T, used]`
    pub weights: M::FloatsMut<'a>,
}

/// [`Backend::route_topk`]
pub(crate) fn route_topk<'a, B: Backend<Buffer: Operand>>(
    p: RouteTopk<'a, B>,
) -> Result<RouteTopkView<'a, B::Buffer>> {
    let op = "route_topk";
    let (experts, used) = (p.experts, p.used);
    let fits = used > 0 && used <= experts && i32::try_from(experts).is_ok();
    ensure(op, fits, || format!("{used} of {experts} experts"))?;
    ensure(op, p.scale.is_finite(), || format!("a factor of {}", p.scale))?;
    Ok(RouteTopkView {
        scores: p.scores.floats(op, product(op, &[p.rows, experts])?)?,
        ids: p.ids.ints_mut(op, product(op, &[p.rows, used])?)?,
        weights: p.weights.floats_mut(op, product(op, &[p.rows, used])?)?,
    })
}

/// Operands of [`Backend::expert_gated_linear`].
pub(crate) struct ExpertGatedLinearView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T, cols]`
    pub input: M::Floats<'a>,
    /// `[T, used]`, each below the number of experts.
    pub ids: M::Ints<'a>,
    /// `[T, used, n]`
    pub dst: M::FloatsMut<'a>,
}

/// [`Backend::expert_gated_linear`]
pub(crate) fn expert_gated_linear<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &ExpertGatedLinear<'a, B>,
) -> Result<ExpertGatedLinearView<'a, B::Buffer>> {
    let op = "expert_gated_linear";
    let shape = |w: &B::Weight| (w.experts(), w.rows(), w.cols());
    let (gate, up) = (shape(p.gate), shape(p.up));
    ensure(op, gate == up, || format!("gates of {gate:?} and up-projections of {up:?}"))?;
    ensure(op, p.used > 0, || "no experts for a token".into())?;
    let ids = indices(op, "expert", p.ids, product(op, &[p.rows, p.used])?, gate.0)?;
    Ok(ExpertGatedLinearView {
        input: p.input.floats(op, product(op, &[p.rows, gate.2])?)?,
        ids,
        dst: dst.floats_mut(op, product(op, &[p.rows, p.used, gate.1])?)?,
    })
}

/// Operands of [`Backend::expert_combine`].
pub(crate) struct ExpertCombineView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T, used, cols]`
    pub input: M::Floats<'a>,
    /// `[T, used]`, each below the number of experts.
    pub ids: M::Ints<'a>,
    /// `[T, used]`
    pub weights: M::Floats<'a>,
    /// `[T, n]`
    pub dst: M::FloatsMut<'a>,
}

/// [`Backend::expert_combine`]
pub(crate) fn expert_combine<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &ExpertCombine<'a, B>,
) -> Result<ExpertCombineView<'a, B::Buffer>> {
    let op = "expert_combine";
    ensure(op, p.used > 0, || "no experts for a token".into())?;
    let slots = product(op, &[p.rows, p.used])?;
    let ids = indices(op, "expert", p.ids, slots, p.weight.experts())?;
    Ok(ExpertCombineView {
        input: p.input.floats(op, product(op, &[slots, p.weight.cols()])?)?,
        ids,
        weights: p.weights.floats(op, slots)?,
        dst: dst.floats_mut(op, product(op, &[p.rows, p.weight.rows()])?)?,
    })
}

/// Operands of [`Backend::rms_norm`].
pub(crate) struct RmsNormView<'a, M: Operand + 'a = HostBuffer> {
    /// `[groups, width]`; `None`: `dst` is the source.
    pub src: Option<M::Floats<'a>>,
    /// `[width]`
    pub weight: M::Floats<'a>,
    /// `[groups, width]`
    pub dst: M::FloatsMut<'a>,
}

/// [`Backend::rms_norm`]
pub(crate) fn rms_norm<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &RmsNorm<'a, B>,
) -> Result<RmsNormView<'a, B::Buffer>> {
    let op = "rms_norm";
    ensure(op, p.width > 0, || "a width of zero".into())?;
    ensure(op, p.eps >= 0.0, || format!("eps is {}", p.eps))?;
    ensure(op, p.src.is_some() || !p.accumulate, || "accumulation in place".into())?;
    let len = product(op, &[p.groups, p.width])?;
    Ok(RmsNormView {
        src: p.src.map(|b| b.floats(op, len)).transpose()?,
        weight: p.weight.floats(op, p.width)?,
        dst: dst.floats_mut(op, len)?,
    })
}

/// Operands of [`Backend::layer_norm`].
pub(crate) struct LayerNormView<'a, M: Operand + 'a = HostBuffer> {
    /// `[groups, width]`; `None`: `dst` is the source.
    pub src: Option<M::Floats<'a>>,
    /// `[width]`
    pub weight: M::Floats<'a>,
    /// `[width]`
    pub bias: M::Floats<'a>,
    /// `[groups, width]`
    pub dst: M::FloatsMut<'a>,
}

/// [`Backend::layer_norm`]
pub(crate) fn layer_norm<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &LayerNorm<'a, B>,
) -> Result<LayerNormView<'a, B::Buffer>> {
    let op = "layer_norm";
    ensure(op, p.width > 0, || "a width of zero".into())?;
    ensure(op, p.eps >= 0.0, || format!("eps is {}", p.eps))?;
    let len = product(op, &[p.groups, p.width])?;
    Ok(LayerNormView {
        src: p.src.map(|b| b.floats(op, len)).transpose()?,
        weight: p.weight.floats(op, p.width)?,
        bias: p.bias.floats(op, p.width)?,
        dst: dst.floats_mut(op, len)?,
    })
}

/// [`Backend::activate`]: the values.
pub(crate) fn activate<'a, M: Operand>(x: &'a mut M, p: &Activate) -> Result<M::FloatsMut<'a>> {
    x.floats_mut("activate", product("activate", &[p.rows, p.width])?)
}

/// Operands of [`Backend::rope`].
pub(crate) struct RopeView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T]`, each with a row in the table.
    pub positions: M::Ints<'a>,
    /// `[max_positions, rotary_dim / 2, 2]`
    pub table: M::Floats<'a>,
    pub inputs: Vec<RopeInputView<'a, M>>,
}

/// Operands of one input of [`Backend::rope`].
pub(crate) struct RopeInputView<'a, M: Operand + 'a = HostBuffer> {
    /// `[T, heads · head_dim]`
    pub x: M::FloatsMut<'a>,
    pub heads: usize,
    /// `[head_dim]`
    pub norm: Option<M::Floats<'a>>,
}

/// [`Backend::rope`]
pub(crate) fn rope<'a, B: Backend<Buffer: Operand>>(
    p: Rope<'a, '_, B>,
) -> Result<RopeView<'a, B::Buffer>> {
    let op = "rope";
    let fits = p.rotary_dim > 0 && p.rotary_dim.is_multiple_of(2) && p.rotary_dim <= p.head_dim;
    ensure(op, fits, || {
        format!("{} of {} values per head cannot be rotated in pairs", p.rotary_dim, p.head_dim)
    })?;
    ensure(op, p.eps >= 0.0, || format!("eps is {}", p.eps))?;
    let table = p.table.floats(op, p.table.len())?;
    let end = p.table.len() / p.rotary_dim;
    let positions = indices(op, "position", p.positions, p.rows, end)?;
    let view = |input: &'a mut RopeInput<'_, B>| {
        let (heads, norm) = (input.heads, input.norm);
        product(op, &[heads, p.head_dim])?;
        let x = input.x.floats_mut(op, product(op, &[p.rows, heads, p.head_dim])?)?;
        let norm = norm.map(|norm| norm.floats(op, p.head_dim)).transpose()?;
        Ok(RopeInputView { x, heads, norm })
    };
    let inputs = p.inputs.iter_mut().map(view).collect::<Result<_>>()?;
    Ok(RopeView { positions, table, inputs })
}
