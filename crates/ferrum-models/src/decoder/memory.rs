//! How much memory a decoder keeps: one place for the sizes that loading and estimating share.

use ferrum_kernels::{Backend, KV_BLOCK_SIZE};

use super::weights::{RoleKind, check_file, tensor_roles};
use super::{DecoderOptions, DecoderSpec, LayerSpec};
use crate::gguf::{Array, Gguf, Metadata, Value};
use crate::load::{MemoryEstimate, ModelError};
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

impl DecoderOptions {
    /// Memory that [`super::DecoderRunner::load`] keeps; what it refuses, this refuses. Sums of what
    /// no machine has end at the largest number.
    pub(crate) fn estimate<B: Backend>(
        &self,
        backend: &B,
        file: &Gguf,
        spec: &DecoderSpec,
    ) -> Result<MemoryEstimate, ModelError> {
        check_file(backend, file, spec, self.kv_dtype)?;
        let mut weights = 0usize;
        for role in tensor_roles(spec, file.tensor("output.weight").is_none()) {
            let bytes = match role.kind {
                RoleKind::Matrix { rows, cols } => {
                    backend.packed_bytes(file.require(&role.name)?.format, rows, cols)
                }
                RoleKind::Stack { experts, rows, cols } => {
                    let format = file.require(&role.name)?.format;
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
        Ok(MemoryEstimate {
            weights,
            kv_cache: self.kv_dtype.bytes(positions.saturating_mul(per_position)),
            buffers: ActivationSizes::new(spec, &self.limits).bytes(),
            tables: self.limits.context.saturating_mul(table_width),
            vocabulary: vocabulary_bytes(file.metadata()),
        })
    }
}

/// Memory of the metadata, of which the vocabulary is nearly all, and of a tokenizer: the bytes of
/// the tokens once more with their index, and the table of BPE merges.
fn vocabulary_bytes(metadata: &Metadata) -> usize {
    /// What a tokenizer keeps beside the bytes of a token: its place, its score, its index.
    const TOKEN: usize = 24;
    /// A pair of ids, a rank and an id, 17 bytes in a hash table that is seldom more than 7/10 full.
    const MERGE: usize = 24;
    let tokens = metadata.str_array("tokenizer.ggml.tokens").ok().flatten();
    let index: usize = tokens.map_or(0, |all| all.iter().map(|text| text.len() + TOKEN).sum());
    let merges = metadata.str_array("tokenizer.ggml.merges").ok().flatten();
    let merges = merges.map_or(0, |all| all.len() * MERGE);
    metadata.iter().map(|(_, value)| value_bytes(value)).sum::<usize>() + index + merges
}

/// Memory of a value on the heap.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len(),
        Value::Array(Array::String(all)) => all.heap_bytes(),
        Value::Array(Array::U8(all)) => size_of_val(&all[..]),
        Value::Array(Array::I8(all)) => size_of_val(&all[..]),
        Value::Array(Array::U16(all)) => size_of_val(&all[..]),
        Value::Array(Array::I16(all)) => size_of_val(&all[..]),
        Value::Array(Array::U32(all)) => size_of_val(&all[..]),
        Value::Array(Array::I32(all)) => size_of_val(&all[..]),
        Value::Array(Array::U64(all)) => size_of_val(&all[..]),
        Value::Array(Array::I64(all)) => size_of_val(&all[..]),
        Value::Array(Array::F32(all)) => size_of_val(&all[..]),
        Value::Array(Array::F64(all)) => size_of_val(&all[..]),
        Value::Array(Array::Bool(all)) => size_of_val(&all[..]),
        _ => 0,
    }
}
