//! How much memory a decoder keeps: one place for the sizes that loading and estimating share.

use ferrum_kernels::draw::{ADJUST_FLOATS, DRAW_FLOATS, DRAW_INTS, LOGPROB_ENTRIES};
use ferrum_kernels::{Backend, KV_BLOCK_SIZE};

use super::adapters::{AdapterSizes, weight_bytes};
use super::weights::{RoleKind, check_file, packed_tensor, tensor_roles};
use super::{DecoderOptions, DecoderSpec, LayerSpec, Share};
use crate::checkpoint::Checkpoint;
use crate::load::{MemoryEstimate, ModelError};
use crate::lora::Adapter;
use crate::runner::RunnerLimits;

/// Elements of each activation buffer, for the largest step (`T` tokens, `R` rows to sample).
pub(super) struct ActivationSizes {
    /// `[T, hidden]`
    pub hidden: usize,
    /// `[T, heads · head_dim]`
    pub q: usize,
    /// `[T, kv_heads · head_dim]`
    pub kv: usize,
    /// `[T, mlp width]`, of a mixture `[T, experts that work on a token, width]`
    pub mlp: usize,
    /// Scores of the experts `[T, experts]`
    pub scores: usize,
    /// `[T, experts that work on a token]`
    pub slots: usize,
    /// `[R, hidden]`
    pub sampled: usize,
    /// `[R, vocab]`
    pub logits: usize,
}

impl ActivationSizes {
    pub fn new(spec: &DecoderSpec, limits: &RunnerLimits) -> Self {
        let (t, r) = (limits.capacity.tokens, limits.capacity.samples);
        let widest = |f: fn(&LayerSpec) -> usize| spec.layers.iter().map(f).max().unwrap_or(0);
        ActivationSizes {
            hidden: t * spec.hidden,
            q: t * widest(|l| l.heads * l.head_dim),
            kv: t * widest(|l| l.kv_heads * l.head_dim),
            mlp: t * widest(|l| l.mlp.width * l.mlp.experts().map_or(1, |e| e.used)),
            scores: t * widest(|l| l.mlp.experts().map_or(0, |e| e.count)),
            slots: t * widest(|l| l.mlp.experts().map_or(0, |e| e.used)),
            sampled: r * spec.hidden,
            logits: r * spec.vocab,
        }
    }

    /// Bytes of all of [`super::forward::Activations`] and the logits on the host.
    fn bytes(&self) -> usize {
        let elements = 2 * self.hidden + 2 * self.q + 2 * self.kv + self.mlp + self.sampled;
        let routing = self.scores + 2 * self.slots;
        size_of::<f32>() * (elements + routing + 2 * self.logits)
    }
}

/// Sequences of a step that may have masks of their own: each has one row where there is a mask.
pub(super) fn masks(limits: &RunnerLimits) -> usize {
    limits.capacity.seqs.min(limits.capacity.samples)
}

/// Logits that each row of a step may adjust: as many as a request to the server may have biases, or a text
/// with penalties different tokens.
const ADJUSTED: usize = 1024;

/// Logits that the rows of a step may adjust together. One row may have all that a sequence can have
/// besides: what is more is sampled on the host.
pub(super) fn adjusted(limits: &RunnerLimits) -> usize {
    let (vocab, rows) = (limits.vocab, limits.capacity.samples);
    let longest = vocab.min(limits.context.saturating_add(ADJUSTED));
    if rows == 0 { 0 } else { longest.saturating_add(rows.saturating_mul(vocab.min(ADJUSTED))) }
}

/// Bytes of the draws of a step, on the device and on the host.
fn draw_bytes(limits: &RunnerLimits) -> usize {
    let numbers = limits.capacity.samples * (DRAW_INTS + DRAW_FLOATS + 1 + 2 * LOGPROB_ENTRIES);
    let words = masks(limits).saturating_mul(limits.vocab.div_ceil(32));
    let adjusted = adjusted(limits).saturating_mul(1 + ADJUST_FLOATS);
    2 * size_of::<f32>() * numbers.saturating_add(words).saturating_add(adjusted)
}

impl DecoderOptions {
    /// Memory that [`super::DecoderRunner::load`] keeps for a share of the model; what it refuses, this
    /// refuses. Sums of what no machine has end at the largest number.
    pub(crate) fn estimate<B: Backend>(
        &self,
        backend: &B,
        file: &dyn Checkpoint,
        (whole, share): (&DecoderSpec, Share),
        adapters: &[Adapter],
    ) -> Result<MemoryEstimate, ModelError> {
        check_file(backend, file, (whole, share), (self.kv_dtype, self.rounded))?;
        let spec = &share.of_spec(whole)?;
        let mut weights = weight_bytes(backend, adapters, spec);
        for role in tensor_roles(spec, file.find("output.weight").is_none()) {
            let bytes = match role.kind {
                RoleKind::Matrix { rows, cols } => {
                    let tensor = packed_tensor(backend, file, &role.name, self.rounded)?;
                    let columns = tensor.columns.map_or(0, size_of_val);
                    backend.packed_bytes(tensor.format, rows, cols).saturating_add(columns)
                }
                RoleKind::Stack { experts, rows, cols } => {
                    let format = packed_tensor(backend, file, &role.name, self.rounded)?.format;
                    backend.packed_bytes(format, rows, cols).saturating_mul(experts)
                }
                RoleKind::Vector(len) => size_of::<f32>().saturating_mul(len),
            };
            weights = weights.saturating_add(bytes);
        }
        let positions = self.limits.kv_blocks.saturating_mul(KV_BLOCK_SIZE);
        let per_position: usize = spec.layers.iter().map(|l| 2 * l.kv_heads * l.head_dim).sum();
        let rope_pairs: usize = spec.ropes.iter().map(|r| r.rotary_dim).sum();
        let table_width = size_of::<f32>().saturating_mul(rope_pairs);
        let sizes = AdapterSizes::new(adapters, spec, &self.limits);
        let scratch = sizes.map_or(0, |sizes| sizes.buffer_bytes());
        // Ranks have parts of the rows, and draw from none.
        let draws = if !share.is_part() { draw_bytes(&self.limits) } else { 0 };
        let scratch = scratch.saturating_add(draws);
        Ok(MemoryEstimate {
            weights,
            kv_cache: self.kv_dtype.bytes(positions.saturating_mul(per_position)),
            buffers: ActivationSizes::new(spec, &self.limits).bytes().saturating_add(scratch),
            tables: self.limits.context.saturating_mul(table_width),
            vocabulary: file.vocabulary_bytes(),
        })
    }
}
