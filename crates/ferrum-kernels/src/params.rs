//! Parameter structs of the operations in [`crate::Backend`].
//!
//! `T` is the number of tokens of a step, `S` of its sequences, `R` of the rows to sample.

use crate::draw::{DrawBatch, LogprobBatch};
use crate::{Backend, KvDType, StepBatch};

/// [`Backend::embed`]: token ids to vectors.
pub struct Embed<'a, B: Backend> {
    /// `[vocabulary, width]`
    pub table: &'a B::Weight,
    /// Token ids, `I32 [T]`.
    pub tokens: &'a B::Buffer,
    /// `T`
    pub rows: usize,
    /// Factor on every value (Gemma multiplies by the root of the width).
    pub scale: f32,
    /// Add to `dst` instead of overwriting it: embeddings of positions to those of words.
    pub accumulate: bool,
}

/// [`Backend::linear`]: one input, one or more outputs.
pub struct Linear<'a, 'o, B: Backend> {
    /// `F32 [T, cols]`
    pub input: &'a B::Buffer,
    /// `T`
    pub rows: usize,
    /// What to compute from the input.
    pub outputs: &'a mut [LinearOutput<'o, B>],
}

/// One product of a [`Linear`].
pub struct LinearOutput<'a, B: Backend> {
    /// `[n, cols]`
    pub weight: &'a B::Weight,
    /// `F32 [n]`, added to each row.
    pub bias: Option<&'a B::Buffer>,
    /// `F32 [T, n]`
    pub dst: &'a mut B::Buffer,
    /// Add to `dst` (the residual stream) instead of overwriting it.
    pub accumulate: bool,
}

/// [`Backend::gated_linear`]: the first half of a gated MLP (Shazeer 2020, arXiv:2002.05202).
pub struct GatedLinear<'a, B: Backend> {
    /// `F32 [T, cols]`
    pub input: &'a B::Buffer,
    /// `T`
    pub rows: usize,
    /// `[n, cols]`
    pub gate: &'a B::Weight,
    /// `[n, cols]`
    pub up: &'a B::Weight,
    /// Applied to the gate.
    pub activation: Activation,
}

/// [`Backend::route_topk`]: which experts of a mixture work on a token.
///
/// `ids[t, :]` are the `used` experts with the highest scores, the highest first and of equals the
/// lower number; `weights[t, j] = scale · exp(score[ids[t, j]]) / Σ exp(score)`, where the sum runs
/// over the chosen experts if `normalize`, else over all.
pub struct RouteTopk<'a, B: Backend> {
    /// Scores, `F32 [T, experts]`.
    pub scores: &'a B::Buffer,
    /// `T`
    pub rows: usize,
    /// Experts to choose from.
    pub experts: usize,
    /// Experts that work on a token, `k`: 1 to `experts`.
    pub used: usize,
    /// The weights of a token add up to `scale`.
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// `I32 [T, k]`
    pub ids: &'a mut B::Buffer,
    /// `F32 [T, k]`
    pub weights: &'a mut B::Buffer,
}

/// [`Backend::expert_gated_linear`]: [`GatedLinear`] with weights that are chosen for each token.
pub struct ExpertGatedLinear<'a, B: Backend> {
    /// `F32 [T, cols]`
    pub input: &'a B::Buffer,
    /// `T`
    pub rows: usize,
    /// Experts of each token, `I32 [T, k]`.
    pub ids: &'a B::Buffer,
    /// Experts that work on a token, `k`.
    pub used: usize,
    /// A stack of `[n, cols]`.
    pub gate: &'a B::Weight,
    /// A stack of `[n, cols]`, as high as `gate`'s.
    pub up: &'a B::Weight,
    /// Applied to the gate.
    pub activation: Activation,
}

/// [`Backend::expert_combine`]: a weighted sum of products with weights that are chosen for each
/// token.
pub struct ExpertCombine<'a, B: Backend> {
    /// `F32 [T, k, cols]`
    pub input: &'a B::Buffer,
    /// `T`
    pub rows: usize,
    /// Experts of each token, `I32 [T, k]`.
    pub ids: &'a B::Buffer,
    /// Factors of each token's products, `F32 [T, k]`.
    pub weights: &'a B::Buffer,
    /// Experts that work on a token, `k`.
    pub used: usize,
    /// A stack of `[n, cols]`.
    pub weight: &'a B::Weight,
    /// Add to `dst` (the residual stream) instead of overwriting it.
    pub accumulate: bool,
}

/// Non-linearity of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`
    Silu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`
    GeluTanh,
    /// `x/2 · (1 + erf(x/√2))` (Hendrycks & Gimpel 2016, arXiv:1606.08415)
    Gelu,
    /// `max(x, 0)`
    Relu,
}

impl Activation {
    /// Every activation, for tests and tables.
    pub const ALL: [Activation; 4] =
        [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];
}

/// [`Backend::activate`]: a non-linearity on its own, of an MLP without a gate. In place.
pub struct Activate {
    /// `T`
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
    /// Applied to each value.
    pub activation: Activation,
}

/// [`Backend::gate`]: the second half of a [`GatedLinear`] whose products are there already. In place.
pub struct Gate<'a, B: Backend> {
    /// `F32 [T, width]`
    pub up: &'a B::Buffer,
    /// `T`
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
    /// Applied to the gate.
    pub activation: Activation,
}

/// [`Backend::layer_norm`]: each group of `width` values `x` becomes
/// `(x - mean(x)) / sqrt(var(x) + eps) ⊙ weight + bias`, the variance that of all the values.
///
/// A residual is added before it by the linear that feeds it ([`LinearOutput::accumulate`]).
pub struct LayerNorm<'a, B: Backend> {
    /// `F32 [groups, width]`; `None` normalises `dst` in place.
    pub src: Option<&'a B::Buffer>,
    /// `F32 [width]`
    pub weight: &'a B::Buffer,
    /// `F32 [width]`
    pub bias: &'a B::Buffer,
    /// Groups of `width` values.
    pub groups: usize,
    /// Values normalised together.
    pub width: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// [`Backend::rms_norm`]: each group of `width` values `x` becomes
/// `x / sqrt(mean(x²) + eps) ⊙ weight`.
pub struct RmsNorm<'a, B: Backend> {
    /// `F32 [groups, width]`; `None` normalises `dst` in place.
    pub src: Option<&'a B::Buffer>,
    /// `F32 [width]`
    pub weight: &'a B::Buffer,
    /// Groups of `width` values: `T` for a hidden state, `T · heads` for a norm per head.
    pub groups: usize,
    /// Values normalised together.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Add the result to `dst` (the residual stream) instead of overwriting it. Needs `src`.
    pub accumulate: bool,
}

/// [`Backend::rope`]: rotates pairs of values by an angle that grows with the position.
pub struct Rope<'a, 'i, B: Backend> {
    /// Positions, `I32 [T]`.
    pub positions: &'a B::Buffer,
    /// Cosine and sine, `F32 [max_positions, rotary_dim / 2, 2]`, frequencies scaled by the model.
    pub table: &'a B::Buffer,
    /// `T`
    pub rows: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Values per head that are rotated, from the first; the rest stay.
    pub rotary_dim: usize,
    /// Which values form a pair.
    pub style: RopeStyle,
    /// Of norms: added to the mean square.
    pub eps: f32,
    /// What is rotated, queries and keys for example.
    pub inputs: &'a mut [RopeInput<'i, B>],
}

/// An input of [`Rope`].
pub struct RopeInput<'a, B: Backend> {
    /// `F32 [T, heads · head_dim]`
    pub x: &'a mut B::Buffer,
    /// Heads in a row.
    pub heads: usize,
    /// `F32 [head_dim]`: each head is normalised first, as by [`RmsNorm`] with this weight.
    pub norm: Option<&'a B::Buffer>,
}

/// Which values of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// `(x[i], x[i + rotary_dim/2])`: GPT-NeoX, Qwen, Gemma.
    Split,
    /// `(x[2i], x[2i + 1])`: the original; GGUF files of the llama architecture.
    Interleaved,
}

/// Shape of one layer's KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvSpec {
    /// Blocks of [`crate::KV_BLOCK_SIZE`] positions.
    pub blocks: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values per head of the keys, and of the values unless they are shorter.
    pub head_dim: usize,
    /// What the values are.
    pub values: KvValues,
    /// Element type.
    pub dtype: KvDType,
}

impl KvSpec {
    /// Values per head of what attention gives.
    pub fn value_dim(&self) -> usize {
        self.values.dim(self.head_dim)
    }
}

/// What the values of a KV cache are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvValues {
    /// Their own, as wide as the keys.
    Own,
    /// The first so many of each key, 1 to all of it: no values are kept. With one head, this is
    /// multi-head latent attention in its absorbed form (DeepSeek-V2, arXiv:2405.04434).
    PrefixOfKey(usize),
}

impl KvValues {
    /// Values per head, beside keys of `head_dim`.
    pub fn dim(self, head_dim: usize) -> usize {
        match self {
            KvValues::Own => head_dim,
            KvValues::PrefixOfKey(dim) => dim,
        }
    }

    /// What errors call a head.
    pub(crate) fn of(self, head_dim: usize) -> String {
        match self {
            KvValues::Own => format!("{head_dim} values per head"),
            KvValues::PrefixOfKey(dim) => {
                format!("{head_dim} values per key, the first {dim} of which are its value,")
            }
        }
    }
}

/// [`Backend::kv_write`]: stores keys and values at `batch.slots`.
pub struct KvWrite<'a, B: Backend> {
    /// `F32 [T, kv_heads · head_dim]`
    pub k: &'a B::Buffer,
    /// `F32 [T, kv_heads · head_dim]`; `None` where values are a part of the keys.
    pub v: Option<&'a B::Buffer>,
    /// The step.
    pub batch: &'a StepBatch<B::Buffer>,
}

/// [`Backend::attention`]: `softmax(softcap(scale · Q·Kᵀ), sink) · V`, causal, grouped-query, to
/// `F32 [T, heads · value_dim]`.
///
/// Token `t` of a sequence, at position `p`, sees positions `max(0, p + 1 - window) ..= p`. Query
/// head `h` uses key-value head `h / (heads / kv_heads)`. The keys and values of the step's own
/// tokens must have been written before.
pub struct Attention<'a, B: Backend> {
    /// `F32 [T, heads · head_dim]`
    pub q: &'a B::Buffer,
    /// The layer's cache.
    pub kv: &'a B::KvCache,
    /// The step.
    pub batch: &'a StepBatch<B::Buffer>,
    /// Query heads; a multiple of the cache's heads.
    pub heads: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Positions that a token sees, itself among them; `None` means all before it.
    pub window: Option<usize>,
    /// Scores become `c · tanh(score / c)` (Gemma 2).
    pub softcap: Option<f32>,
    /// A logit of each query head, `F32 [heads]`: it takes part in the softmax as it is, beside the
    /// scores, and has no value, so that the weights add up to less than one (the attention sinks of
    /// Xiao et al. 2023, arXiv:2309.17453, as gpt-oss learns them). Minus infinity has no effect.
    pub sinks: Option<&'a B::Buffer>,
}

/// [`Backend::packed_attention`]: `softmax(scale · Q·Kᵀ) · V` within each of `S` sequences that lie
/// one after the other, without a cache. Every token sees all tokens of its sequence, those after it
/// too. Query head `h` uses key-value head `h / (heads / kv_heads)`.
pub struct PackedAttention<'a, B: Backend> {
    /// `F32 [T, heads · head_dim]`
    pub q: &'a B::Buffer,
    /// `F32 [T, kv_heads · head_dim]`
    pub k: &'a B::Buffer,
    /// `F32 [T, kv_heads · head_dim]`
    pub v: &'a B::Buffer,
    /// First token of each sequence, and `T` at the end: `I32 [S + 1]`.
    pub query_starts: &'a B::Buffer,
    /// `T`
    pub tokens: usize,
    /// `S`
    pub seqs: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// [`Backend::gather_rows`]: picks rows, such as the last token of each sequence.
pub struct GatherRows<'a, B: Backend> {
    /// `F32 [T, width]`
    pub src: &'a B::Buffer,
    /// Row numbers, `I32 [R]`.
    pub rows: &'a B::Buffer,
    /// `R`
    pub count: usize,
    /// Values in a row.
    pub width: usize,
}

/// [`Backend::scatter_add`]: adds to some rows, such as those of one adapter.
pub struct ScatterAdd<'a, B: Backend> {
    /// `F32 [R, width]`
    pub src: &'a B::Buffer,
    /// Row numbers, `I32 [R]`, each larger than the one before.
    pub rows: &'a B::Buffer,
    /// `R`
    pub count: usize,
    /// Values in a row.
    pub width: usize,
}

/// [`Backend::sample`]: a token for each row of logits; where it is known, that one.
///
/// The logit of a token that its row's mask bars is minus infinity, or else `scale · x`, then
/// `softcap · tanh(· / softcap)`, of the value `x` in `logits`, then what the row's
/// [`crate::draw::Adjustment`] of the token makes of it. [`crate::draw`] says which token a draw means.
pub struct Sample<'a, B: Backend> {
    /// `F32 [R, vocab]`
    pub logits: &'a B::Buffer,
    /// How each row's token is drawn: at least `R` rows.
    pub draws: &'a DrawBatch<B::Buffer>,
    /// `R`
    pub rows: usize,
    /// Values in a row.
    pub vocab: usize,
    /// Factor on the values.
    pub scale: f32,
    /// Bound of what that gives.
    pub softcap: Option<f32>,
}

/// [`Backend::logprobs`]: log-probabilities of each row for which `draws` wants them.
///
/// They are `logit[t] - ln Σ exp(logit)` of the logits of [`Sample`], masks and adjustments left aside:
/// of the token that came and of the likeliest tokens, the likeliest first and of equals (as the two
/// zeroes are) the lower number. A token outside the vocabulary has minus infinity.
pub struct Logprobs<'a, B: Backend> {
    /// `F32 [R, vocab]`
    pub logits: &'a B::Buffer,
    /// The tokens that came, `I32 [R]`: what [`Backend::sample`] gave.
    pub came: &'a B::Buffer,
    /// How many are wanted of each row: at least `R` rows.
    pub draws: &'a DrawBatch<B::Buffer>,
    /// `R`
    pub rows: usize,
    /// Values in a row.
    pub vocab: usize,
    /// Factor on the values.
    pub scale: f32,
    /// Bound of what that gives.
    pub softcap: Option<f32>,
    /// Where they go: room for `R` rows.
    pub dst: &'a mut LogprobBatch<B::Buffer>,
}

/// [`Backend::all_gather`].
pub struct AllGather<'a, B: Backend> {
    /// `F32 [ranks, len]`
    pub dst: &'a mut B::Buffer,
    /// What this rank gives, `F32 [len]`.
    pub src: &'a B::Buffer,
    /// Values of a rank.
    pub len: usize,
}

/// [`Backend::broadcast`].
pub struct Broadcast<'a, B: Backend> {
    /// `F32 [len]`: read on rank `root`, written on the others.
    pub x: &'a mut B::Buffer,
    /// Values.
    pub len: usize,
    /// The rank that gives them.
    pub root: usize,
}
