//! Hyperparameters: the metadata keys that architectures share, read and checked in one place.
//!
//! Key names: the GGUF specification, "Standardized key-value pairs",
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use crate::decoder::{
    Activation, DecoderSpec, ExpertsSpec, LayerSpec, MlpKind, MlpSpec, RopeSpec, RopeStyle,
};
use crate::gguf::{Gguf, Value};
use crate::load::ModelError;

/// Bounds that no real model reaches; they keep sizes computed from a file far from overflow.
const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 30;
const MAX_EXPERTS: usize = 1 << 16;

/// [`ExpertsSpec`]'s weights are a softmax: `expert_gating_func` in llama.cpp's numbering, where 0
/// stands for what the architecture is known to have.
const GATING_SOFTMAX: f64 = 1.0;

/// Keys that change the result and that no architecture here honours, with the value at which
/// they change nothing.
const UNSUPPORTED: &[(&str, f64)] = &[
    ("attention.alibi_bias_max", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.logit_softcapping", 0.0),
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
];

/// The metadata of a model under its architecture's prefix.
pub(super) struct Hparams<'a> {
    file: &'a Gguf,
    arch: &'a str,
}

impl<'a> Hparams<'a> {
    /// Refuses settings that no architecture here honours.
    pub fn new(file: &'a Gguf, arch: &'a str) -> Result<Self, ModelError> {
        let h = Hparams { file, arch };
        for (key, neutral) in UNSUPPORTED {
            if let Some(value) = h.file.metadata().get(&h.key(key))
                && as_f64(value) != Some(*neutral)
            {
                return Err(h.unsupported(key, describe(value)));
            }
        }
        if h.bool("attention.causal")? == Some(false) {
            return Err(h.unsupported("attention.causal", "false".into()));
        }
        if h.bool("use_parallel_residual")? == Some(true) {
            return Err(h.unsupported("use_parallel_residual", "true".into()));
        }
        Ok(h)
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// An error that names a key of this architecture and its value.
    pub fn unsupported(&self, key: &str, value: String) -> ModelError {
        ModelError::Setting { key: self.key(key), value }
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

    fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        Ok(self.file.metadata().bool(&self.key(key))?)
    }

    /// Whether the file has a tensor, for the options that only tensors tell of.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// A decoder of equal layers with full attention, SiLU, no biases and no extra norms, which is
    /// what architectures differ from.
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
        let layer = LayerSpec {
            heads,
            kv_heads,
            head_dim,
            attn_scale: 1.0 / (head_dim as f32).sqrt(),
            window: self.optional_count("attention.sliding_window")?,
            rope: 0,
            qkv_bias: false,
            qk_norm: false,
            post_norms: false,
            mlp: MlpSpec { width, activation: Activation::Silu, kind: MlpKind::Dense },
        };
        Ok(DecoderSpec {
            vocab: self.vocab()?,
            hidden,
            context: self.count("context_length", MAX_CONTEXT)?,
            embed_scale: 1.0,
            norm_eps: self.norm_eps()?,
            ropes: vec![self.rope(head_dim, style)?],
            layers: vec![layer; self.count("block_count", MAX_LAYERS)?],
        })
    }

    /// Makes the MLP of every layer a mixture of experts, whose weights are a softmax and, unless the
    /// file says that they are not, add up to one.
    pub fn experts(&self, spec: &mut DecoderSpec) -> Result<(), ModelError> {
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
        let width = self.optional_count("expert_feed_forward_length")?.unwrap_or(dense / used);
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

    /// The main RoPE with its scaling. Llama 3.1's per-frequency factors come as a tensor.
    fn rope(&self, head_dim: usize, style: RopeStyle) -> Result<RopeSpec, ModelError> {
        let theta = self.f32("rope.freq_base")?.unwrap_or(10_000.0);
        if theta <= 0.0 {
            return Err(self.unsupported("rope.freq_base", theta.to_string()));
        }
        let factors = "rope_freqs.weight";
        Ok(RopeSpec {
            theta,
            rotary_dim: self.optional_count("rope.dimension_count")?.unwrap_or(head_dim),
            scale: self.rope_scale()?,
            factors: self.has_tensor(factors).then(|| factors.to_string()),
            style,
        })
    }

    fn rope_scale(&self) -> Result<f32, ModelError> {
        let kind = self.file.metadata().str(&self.key("rope.scaling.type"))?;
        // Files from before `rope.scaling.*` have `rope.scale_linear`.
        let factor = self.f32("rope.scaling.factor")?.or(self.f32("rope.scale_linear")?);
        match (kind, factor) {
            (Some("none"), _) => Ok(1.0),
            (None | Some("linear"), Some(factor)) if factor > 0.0 => Ok(1.0 / factor),
            (None, None) => Ok(1.0),
            (Some("linear"), None) => {
                Err(self.unsupported("rope.scaling.type", "linear without a factor".into()))
            }
            (None | Some("linear"), Some(factor)) => {
                Err(self.unsupported("rope.scaling.factor", factor.to_string()))
            }
            (Some(other), _) => Err(self.unsupported("rope.scaling.type", other.into())),
        }
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
            let rotary = spec.ropes[layer.rope].rotary_dim;
            if !rotary.is_multiple_of(2) || rotary > layer.head_dim {
                return Err(self.unsupported("rope.dimension_count", rotary.to_string()));
            }
        }
        if spec.layers.iter().all(|layer| layer.mlp.experts().is_none()) {
            for key in ["expert_count", "expert_used_count"] {
                if let Some(count) = self.optional_count(key)? {
                    return Err(self.unsupported(key, count.to_string()));
                }
            }
        }
        let key = self.key("vocab_size");
        match self.file.metadata().u32(&key)? {
            Some(v) if v as usize != spec.vocab => Err(ModelError::Setting {
                key,
                value: format!("{v}, but the embedding has {} rows", spec.vocab),
            }),
            _ => Ok(()),
        }
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
