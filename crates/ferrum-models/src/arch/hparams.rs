//! Hyperparameters: the metadata keys that architectures share, read and checked in one place.
//!
//! Key names: the GGUF specification, "Standardized key-value pairs",
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. A few more have no place in GGUF:
//! [`crate::hf`] writes them, and says what they mean.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::rope;
use crate::checkpoint::{Checkpoint, Layout};
use crate::decoder::{
    Activation, DecoderSpec, ExpertsSpec, LayerSpec, LogitsSpec, MlpKind, MlpSpec, Norms, QkNorm,
    RopeStyle,
};
use crate::gguf::{Array, Value};
use crate::load::ModelError;

/// Bounds that no real model reaches; they keep sizes computed from a file far from overflow.
pub const MAX_LAYERS: usize = 4096;
pub const MAX_WIDTH: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 30;
const MAX_EXPERTS: usize = 1 << 16;

/// [`ExpertsSpec`]'s weights are a softmax: `expert_gating_func` in llama.cpp's numbering, where 0
/// stands for what the architecture is known to have.
const GATING_SOFTMAX: f64 = 1.0;

/// Keys that change the result, with the value at which they change nothing. Some architectures
/// honour some of them; where one is not even read, it is refused.
const UNSUPPORTED: &[(&str, f64)] = &[
    ("attention.alibi_bias_max", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.logit_softcapping", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.scale", 0.0),
    ("attention.temperature_scale", 0.0),
    ("embedding_scale", 1.0),
    ("expert_group_count", 0.0),
    ("expert_group_scale", 0.0),
    ("expert_group_used_count", 0.0),
    ("expert_shared_count", 0.0),
    ("expert_shared_feed_forward_length", 0.0),
    ("experts_per_group", 0.0),
    ("final_logit_softcapping", 0.0),
    ("interleave_moe_layer_step", 1.0),
    ("leading_dense_block_count", 0.0),
    ("logit_scale", 1.0),
    ("moe_every_n_layers", 0.0),
    ("residual_scale", 1.0),
    ("rope.scaling.attn_factor", 1.0),
    ("rope.scaling.yarn_attn_factor", 1.0),
    ("rope.scaling.yarn_log_multiplier", 0.1),
];

/// The metadata of a model under its architecture's prefix.
pub(super) struct Hparams<'a> {
    file: &'a dyn Checkpoint,
    arch: &'a str,
    /// Keys that were asked for, so that those of [`UNSUPPORTED`] that were not can be refused.
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Hparams<'a> {
    pub fn new(file: &'a dyn Checkpoint, arch: &'a str) -> Self {
        Hparams { file, arch, read: RefCell::default() }
    }

    /// The full name of a key, which counts as read.
    fn key(&self, key: &str) -> String {
        self.read.borrow_mut().insert(key.to_string());
        self.name(key)
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// An error that names a key of this architecture and its value.
    pub fn unsupported(&self, key: &str, value: String) -> ModelError {
        ModelError::Setting { key: self.name(key), value }
    }

    /// A required count: at least 1, at most `max`.
    fn count(&self, key: &str, max: usize) -> Result<usize, ModelError> {
        let value = self.file.metadata().need_u32(&self.key(key))? as usize;
        if value == 0 || value > max {
            return Err(self.unsupported(key, value.to_string()));
        }
        Ok(value)
    }

    /// An optional count; 0 stands for absent.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let value = self.file.metadata().u32(&self.key(key))?;
        Ok(value.map(|v| v as usize).filter(|&v| v != 0))
    }

    /// An optional finite number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        match self.file.metadata().f32(&self.key(key))? {
            Some(v) if !v.is_finite() => Err(self.unsupported(key, v.to_string())),
            other => Ok(other),
        }
    }

    /// An optional number above zero; 0 stands for absent.
    pub fn positive(&self, key: &str) -> Result<Option<f32>, ModelError> {
        match self.f32(key)?.filter(|v| *v != 0.0) {
            Some(v) if v < 0.0 => Err(self.unsupported(key, v.to_string())),
            other => Ok(other),
        }
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        Ok(self.file.metadata().str(&self.key(key))?)
    }

    /// A truth value for each layer; `None` where the value is absent or none of that kind.
    pub fn per_layer(&self, key: &str, layers: usize) -> Result<Option<&[bool]>, ModelError> {
        match self.file.metadata().get(&self.key(key)) {
            Some(Value::Array(Array::Bool(all))) if all.len() == layers => Ok(Some(all)),
            Some(Value::Array(other)) => {
                let value = format!("({} values for {layers} layers)", other.len());
                Err(self.unsupported(key, value))
            }
            _ => Ok(None),
        }
    }

    /// Whether the rows of q and k are those of transformers, where the converter to GGUF reorders
    /// them so that rotated pairs lie side by side.
    pub fn reordered_rope(&self) -> RopeStyle {
        match self.file.layout() {
            Layout::Gguf if super::reorders_rows(self.arch) => RopeStyle::Interleaved,
            Layout::Gguf | Layout::HuggingFace => RopeStyle::Split,
        }
    }

    /// An optional truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        Ok(self.file.metadata().bool(&self.key(key))?)
    }

    /// Whether the file has a tensor, for the options that only tensors tell of.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.file.find(name).is_some()
    }

    /// A decoder of equal layers with SiLU, no biases, and norms before the sublayers, which is what
    /// architectures differ from. What any of them may have, such as windows and bounds of logits, is
    /// read here.
    pub fn base(&self, style: RopeStyle) -> Result<DecoderSpec, ModelError> {
        let hidden = self.count("embedding_length", MAX_WIDTH)?;
        let heads = self.count("attention.head_count", MAX_WIDTH)?;
        let kv_heads = self.optional_count("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = self.optional_count("attention.key_length")?.unwrap_or(hidden / heads);
        if let Some(v) = self.optional_count("attention.value_length")?
            && v != head_dim
        {
            return Err(self.unsupported("attention.value_length", v.to_string()));
        }
        let width = self.count("feed_forward_length", MAX_WIDTH)?;
        let scale = self.positive("attention.scale")?;
        let layer = LayerSpec {
            heads,
            kv_heads,
            head_dim,
            attn_scale: scale.unwrap_or(1.0 / (head_dim as f32).sqrt()),
            softcap: None,
            window: self.optional_count("attention.sliding_window")?,
            rope: Some(0),
            qkv_bias: false,
            fused_qkv: false,
            qk_norm: QkNorm::None,
            norms: Norms::Before,
            mlp: MlpSpec {
                width,
                activation: Activation::Silu,
                fused: false,
                kind: MlpKind::Dense,
            },
        };
        let mut layers = vec![layer; self.count("block_count", MAX_LAYERS)?];
        if let Some(local) = self.per_layer("attention.sliding_window_pattern", layers.len())? {
            for (layer, _) in layers.iter_mut().zip(local).filter(|(_, local)| !**local) {
                layer.window = None;
            }
        }
        Ok(DecoderSpec {
            vocab: self.vocab()?,
            hidden,
            context: self.count("context_length", MAX_CONTEXT)?,
            embed_scale: 1.0,
            norm_eps: self.norm_eps()?,
            ropes: vec![rope::spec(self, head_dim, style)?],
            layers,
            logits: LogitsSpec { scale: 1.0, softcap: None },
        })
    }

    /// Takes the window off every `period`-th layer, unless the file lists the layers itself or
    /// states another period.
    pub fn alternate(&self, spec: &mut DecoderSpec, period: usize) -> Result<(), ModelError> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        if spec.layers[0].window.is_none() && !self.has(PATTERN) {
            return Err(self.unsupported("attention.sliding_window", "(absent)".into()));
        }
        if self.per_layer(PATTERN, spec.layers.len())?.is_some() {
            return Ok(());
        }
        let period = self.optional_count(PATTERN)?.unwrap_or(period);
        spec.layers.iter_mut().skip(period - 1).step_by(period).for_each(|l| l.window = None);
        Ok(())
    }

    /// Whether there is such a key.
    fn has(&self, key: &str) -> bool {
        self.file.metadata().get(&self.key(key)).is_some()
    }

    /// Makes the MLP of every layer a mixture of experts, whose weights are a softmax and, unless the
    /// file says that they are not, add up to one. `width` is that of an expert where the file does not
    /// state it, given that of the model and the number of experts that work on a token.
    pub fn experts(
        &self,
        spec: &mut DecoderSpec,
        width: fn(usize, usize) -> usize,
    ) -> Result<(), ModelError> {
        let count = self.count("expert_count", MAX_EXPERTS)?;
        let used = self.count("expert_used_count", count)?;
        if let Some(value) = self.file.metadata().get(&self.key("expert_gating_func"))
            && !matches!(as_f64(value), Some(0.0 | GATING_SOFTMAX))
        {
            return Err(self.unsupported("expert_gating_func", describe(value)));
        }
        // Writers put 0 for a factor that there is not.
        let scale = self.f32("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
        let normalize = self.bool("expert_weights_norm")?.unwrap_or(true);
        let dense = spec.layers[0].mlp.width;
        let stated = self.optional_count("expert_feed_forward_length")?;
        let width = stated.unwrap_or_else(|| width(dense, used));
        if width == 0 || width > MAX_WIDTH / used {
            return Err(self.unsupported("expert_feed_forward_length", width.to_string()));
        }
        for layer in &mut spec.layers {
            let kind = MlpKind::Experts(ExpertsSpec { count, used, normalize, scale });
            layer.mlp = MlpSpec { width, kind, ..layer.mlp };
        }
        Ok(())
    }

    /// Tokens in the vocabulary: the rows of the embedding, which the tokenizer must match.
    fn vocab(&self) -> Result<usize, ModelError> {
        Ok(self.file.require("token_embd.weight")?.rows())
    }

    fn norm_eps(&self) -> Result<f32, ModelError> {
        let key = "attention.layer_norm_rms_epsilon";
        match self.f32(key)? {
            Some(eps) if eps >= 0.0 => Ok(eps),
            Some(eps) => Err(self.unsupported(key, eps.to_string())),
            None => Err(ModelError::Setting { key: self.key(key), value: "(absent)".into() }),
        }
    }

    /// Refuses settings that would change the result and that the architecture has not asked for.
    fn refuse_unread(&self) -> Result<(), ModelError> {
        for (key, neutral) in UNSUPPORTED {
            if let Some(value) = self.file.metadata().get(&self.name(key))
                && !self.read.borrow().contains(*key)
                && as_f64(value) != Some(*neutral)
            {
                return Err(self.unsupported(key, describe(value)));
            }
        }
        if self.bool("attention.causal")? == Some(false) {
            return Err(self.unsupported("attention.causal", "false".into()));
        }
        if self.bool("use_parallel_residual")? == Some(true) {
            return Err(self.unsupported("use_parallel_residual", "true".into()));
        }
        Ok(())
    }

    /// Consistency that every decoder needs, whatever its architecture.
    pub fn check(&self, spec: &DecoderSpec) -> Result<(), ModelError> {
        for layer in &spec.layers {
            if !layer.heads.is_multiple_of(layer.kv_heads) {
                let value = format!("{} (of {} heads)", layer.kv_heads, layer.heads);
                return Err(self.unsupported("attention.head_count_kv", value));
            }
            if layer.head_dim == 0 || layer.head_dim > MAX_WIDTH / layer.heads {
                return Err(self.unsupported("attention.key_length", layer.head_dim.to_string()));
            }
            for rope in &spec.ropes {
                let rotary = rope.rotary_dim;
                if rotary == 0 || !rotary.is_multiple_of(2) || rotary > layer.head_dim {
                    return Err(self.unsupported("rope.dimension_count", rotary.to_string()));
                }
            }
            if let Some(name) = self.text("hidden_activation")?
                && name != activation_name(layer.mlp.activation)
            {
                return Err(self.unsupported("hidden_activation", name.into()));
            }
        }
        self.refuse_unread()?;
        if spec.layers.iter().all(|layer| layer.mlp.experts().is_none()) {
            for key in ["expert_count", "expert_used_count"] {
                if let Some(count) = self.optional_count(key)? {
                    return Err(self.unsupported(key, count.to_string()));
                }
            }
        }
        let key = self.name("vocab_size");
        match self.file.metadata().u32(&key)? {
            Some(v) if v as usize != spec.vocab => Err(ModelError::Setting {
                key,
                value: format!("{v}, but the embedding has {} rows", spec.vocab),
            }),
            _ => Ok(()),
        }
    }
}

/// What transformers calls an activation.
fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
    }
}

fn as_f64(value: &Value) -> Option<f64> {
    Some(match *value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::U64(v) => v as f64,
        Value::I64(v) => v as f64,
        Value::F32(v) => v.into(),
        Value::F64(v) => v,
        Value::Bool(_) | Value::String(_) | Value::Array(_) => return None,
    })
}

fn describe(value: &Value) -> String {
    match (as_f64(value), value) {
        (Some(number), _) => number.to_string(),
        (None, Value::Bool(v)) => v.to_string(),
        (None, Value::String(v)) => v.clone(),
        (None, _) => "(an array)".into(),
    }
}
