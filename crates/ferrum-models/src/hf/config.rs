//! `config.json`: what it says, under the keys of GGUF.

use super::error::HfError;
use super::json::Object;
use super::rope;
use crate::arch::{self, Architecture};
use crate::gguf::{Metadata, Value};

/// Whole numbers: transformers' key and GGUF's.
const COUNTS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("intermediate_size", "feed_forward_length"),
    ("vocab_size", "vocab_size"),
    ("num_experts", "expert_count"),
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
];

/// Numbers.
const NUMBERS: &[(&str, &str)] = &[
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("embedding_multiplier", "embedding_scale"),
    ("residual_multiplier", "residual_scale"),
    ("attention_multiplier", "attention.scale"),
    ("logits_scaling", "logit_scale"),
];

/// Truth values.
const BOOLS: &[(&str, &str)] = &[("norm_topk_prob", "expert_weights_norm")];

/// Settings that change the result and that no model here has, with the value at which they change
/// nothing. Other settings than these and those that are read say nothing about the result, or of
/// what the tensors say too.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("alibi", "false"),
    ("attention_chunk_size", "0"),
    ("attn_output_gate", "false"),
    ("clip_qkv", "0"),
    ("decoder_sparse_step", "1"),
    ("first_k_dense_replace", "0"),
    ("interleave_moe_layer_step", "1"),
    ("is_causal", "true"),
    ("mlp_only_layers", "[]"),
    ("n_group", "1"),
    ("n_shared_experts", "0"),
    ("num_kv_shared_layers", "0"),
    ("num_nextn_predict_layers", "0"),
    ("parallel_attn", "false"),
    ("position_embedding_type", "\"rope\""),
    ("routed_scaling_factor", "1.0"),
    ("scoring_func", "\"softmax\""),
    ("shared_expert_intermediate_size", "0"),
    ("use_bidirectional_attention", "false"),
    ("use_parallel_residual", "false"),
];

/// Settings whose default in transformers is not what is taken for them here: they must be stated.
const REQUIRED: &[(&[&str], &str)] = &[
    (&["granite"], "attention_multiplier"),
    (&["gemma2", "gemma3", "gemma3_text"], "query_pre_attn_scalar"),
];

/// Metadata in the making, under an architecture's prefix.
pub(super) struct Settings {
    arch: &'static str,
    metadata: Metadata,
}

impl Settings {
    fn set(&mut self, key: &str, value: Value) -> Result<(), HfError> {
        let twice = |key: String| HfError::Setting { key, value: "(stated twice)".into() };
        self.metadata.insert(format!("{}.{key}", self.arch), value).map_err(twice)
    }

    pub fn count(&mut self, key: &str, value: u32) -> Result<(), HfError> {
        self.set(key, value.into())
    }

    pub fn number(&mut self, key: &str, value: f64) -> Result<(), HfError> {
        self.set(key, (value as f32).into())
    }

    pub fn bool(&mut self, key: &str, value: bool) -> Result<(), HfError> {
        self.set(key, value.into())
    }

    pub fn text(&mut self, key: &str, value: &str) -> Result<(), HfError> {
        self.set(key, value.into())
    }
}

/// What `config.json` says.
pub(super) struct Config {
    pub architecture: &'static Architecture,
    /// Under GGUF's keys.
    pub metadata: Metadata,
    /// Tensors of RoPE's divisors, which GGUF keeps and transformers computes.
    pub divisors: Vec<(&'static str, Vec<f32>)>,
    /// The output head is the embedding, whatever else there is; or it is not. Where nothing is said,
    /// the tensors tell.
    pub tied: Option<bool>,
}

/// Translates a `config.json`.
pub(super) fn translate(json: Object<'_>) -> Result<Config, HfError> {
    let model_type =
        json.text("model_type")?.ok_or_else(|| HfError::Missing { key: "model_type".into() })?;
    let architecture = arch::of_model_type(model_type).ok_or_else(|| HfError::ModelType {
        name: model_type.into(),
        known: arch::model_types().collect::<Vec<_>>().join(", "),
    })?;
    // Models of text and images keep the text model's settings apart.
    let config = json.object("text_config")?.unwrap_or(json);
    config.refuse_unless(UNSUPPORTED)?;
    let mut out = Settings { arch: architecture.name, metadata: Metadata::default() };
    let name = Value::from(architecture.name);
    let first = out.metadata.insert("general.architecture".into(), name);
    debug_assert!(first.is_ok());
    for (theirs, ours) in COUNTS {
        if let Some(value) = config.count(theirs)? {
            out.count(ours, value)?;
        }
    }
    for (theirs, ours) in NUMBERS {
        // Null is said of a bound that there is not, where there is one by default.
        let none = config.0.get(*theirs).filter(|_| theirs.ends_with("softcapping")).map(|_| 0.0);
        if let Some(value) = config.number(theirs)?.or(none) {
            out.number(ours, value)?;
        }
    }
    for (theirs, ours) in BOOLS {
        if let Some(value) = config.bool(theirs)? {
            out.bool(ours, value)?;
        }
    }
    // Two names of one setting, of which the older is written on.
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(name) = config.text(key)?
            && config.get("hidden_activation").is_none_or(|_| key == "hidden_activation")
        {
            out.text("hidden_activation", name)?;
        }
    }
    // Where transformers has a default that is not GGUF's.
    if model_type == "qwen3_moe" && config.get("norm_topk_prob").is_none() {
        out.bool("expert_weights_norm", false)?;
    }
    for (kinds, key) in REQUIRED {
        let nested = config.object("rope_parameters")?.is_some_and(|rope| rope.get(key).is_some());
        if kinds.contains(&model_type) && config.get(key).is_none() && !nested {
            return Err(HfError::Missing { key: (*key).into() });
        }
    }
    head(config, &mut out)?;
    layers(config, &mut out)?;
    let rope = rope::write(config, &mut out)?;
    let positions = config
        .count("max_position_embeddings")?
        .ok_or_else(|| HfError::Missing { key: "max_position_embeddings".into() })?;
    out.count("context_length", positions.max(rope.context.unwrap_or(0)))?;
    let tied = config.bool("tie_word_embeddings")?.or(json.bool("tie_word_embeddings")?);
    Ok(Config { architecture, metadata: out.metadata, divisors: rope.divisors, tied })
}

/// Values per head.
pub(super) fn head_dim(config: Object<'_>) -> Result<u32, HfError> {
    let need = |key: &str| match config.count(key)? {
        Some(0) => Err(config.refuse(key)),
        Some(n) => Ok(n),
        None => Err(HfError::Missing { key: key.into() }),
    };
    match config.count("head_dim")? {
        Some(dim) if dim as usize > arch::MAX_WIDTH => Err(config.refuse("head_dim")),
        Some(dim) => Ok(dim),
        None => Ok(need("hidden_size")? / need("num_attention_heads")?),
    }
}

fn head(config: Object<'_>, out: &mut Settings) -> Result<(), HfError> {
    let dim = head_dim(config)?;
    out.count("attention.key_length", dim)?;
    out.count("attention.value_length", dim)?;
    match config.number("query_pre_attn_scalar")? {
        Some(scalar) if scalar > 0.0 => out.number("attention.scale", scalar.powf(-0.5)),
        Some(_) => Err(config.refuse("query_pre_attn_scalar")),
        None => Ok(()),
    }
}

/// Models whose window counts only with `use_sliding_window` (transformers' configurations).
const WINDOW_ON_DEMAND: &[&str] = &["qwen2", "qwen3", "qwen3_moe", "smollm3"];

/// What differs from layer to layer: windows, and RoPE.
fn layers(config: Object<'_>, out: &mut Settings) -> Result<(), HfError> {
    let layers = config.count("num_hidden_layers")?.unwrap_or(0);
    if layers as usize > arch::MAX_LAYERS {
        return Err(config.refuse("num_hidden_layers"));
    }
    // Some state a window that is not used.
    let model_type = config.text("model_type")?.unwrap_or_default();
    let used =
        config.bool("use_sliding_window")?.unwrap_or(!WINDOW_ON_DEMAND.contains(&model_type));
    let window = config.count("sliding_window")?.filter(|_| used);
    if let Some(window) = window {
        out.count("attention.sliding_window", window)?;
        if let Some(local) = local_layers(config, layers)? {
            out.set("attention.sliding_window_pattern", local.into())?;
        } else if let Some(period) = config.count("sliding_window_pattern")? {
            out.count("attention.sliding_window_pattern", period)?;
        }
    } else if used
        && config.get("layer_types").is_some()
        && local_layers(config, layers)?.is_some_and(|local| local.contains(&true))
    {
        return Err(config.refuse("sliding_window"));
    }
    if let Some(rotated) = config.list("no_rope_layers")? {
        let rotated: Option<Vec<bool>> =
            rotated.iter().map(|v| v.as_u64().map(|n| n != 0)).collect();
        let rotated = rotated.ok_or_else(|| config.refuse("no_rope_layers"))?;
        out.set("rope.layers", rotated.into())?;
    } else if let Some(n) = config.count("no_rope_layer_interval")? {
        let rotated: Vec<bool> = (1..=layers).map(|i| n == 0 || i % n != 0).collect();
        out.set("rope.layers", rotated.into())?;
    }
    let experts = config.count("num_local_experts")?;
    if experts.is_some() && config.get("moe_intermediate_size").is_none() {
        let width = config.count("intermediate_size")?.unwrap_or(0);
        out.count("expert_feed_forward_length", width)?;
    }
    Ok(())
}

/// Which layers have the window; `None` where it is not said.
fn local_layers(config: Object<'_>, layers: u32) -> Result<Option<Vec<bool>>, HfError> {
    if let Some(types) = config.list("layer_types")? {
        let local: Option<Vec<bool>> = types
            .iter()
            .map(|kind| match kind.as_str()? {
                "sliding_attention" => Some(true),
                "full_attention" => Some(false),
                _ => None,
            })
            .collect();
        return local.map(Some).ok_or_else(|| config.refuse("layer_types"));
    }
    let first = config.count("max_window_layers")?;
    Ok(first.map(|first| (0..layers).map(|i| i >= first).collect()))
}
