//! `config.json`: what it says, under the keys of GGUF.

use super::defaults;
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
    let stated = json.object("text_config")?.unwrap_or(json);
    let completed = defaults::completed(model_type, stated.0);
    let config = Object(&completed);
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
    head(config, &mut out)?;
    layers(config, model_type, &mut out)?;
    let rope = rope::write(config, &mut out)?;
    let positions = config
        .count("max_position_embeddings")?
        .ok_or_else(|| HfError::Missing { key: "max_position_embeddings".into() })?;
    out.count("context_length", positions.max(rope.context.unwrap_or(0)))?;
    let tied = |config: Object<'_>| config.bool("tie_word_embeddings");
    let tied = tied(stated)?.or(tied(json)?).or(tied(config)?);
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

/// Which layers of a model have the window, as transformers' model does it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Windows {
    /// None, whatever the file states.
    None,
    All,
    /// From `max_window_layers` on, unless they are listed.
    From,
    /// Those without RoPE, unless they are listed.
    Unrotated,
    /// By a period, unless they are listed.
    Alternating,
}

/// The rule of a model type, and whether it holds only with `use_sliding_window`.
fn windows(model_type: &str) -> (Windows, bool) {
    match model_type {
        "mistral" | "mixtral" | "phi3" => (Windows::All, false),
        "qwen2" | "qwen3" => (Windows::From, true),
        "qwen3_moe" => (Windows::All, true),
        "smollm3" => (Windows::Unrotated, true),
        "gemma2" | "gemma3" | "gemma3_text" => (Windows::Alternating, false),
        _ => (Windows::None, false),
    }
}

/// What differs from layer to layer: windows, and RoPE.
fn layers(config: Object<'_>, model_type: &str, out: &mut Settings) -> Result<(), HfError> {
    let layers = config.count("num_hidden_layers")?.unwrap_or(0);
    if layers as usize > arch::MAX_LAYERS {
        return Err(config.refuse("num_hidden_layers"));
    }
    let rotated = rotated_layers(config, layers)?;
    let (windows, on_demand) = windows(model_type);
    // Some state a window that is not used.
    let used = !on_demand || config.bool("use_sliding_window")?.unwrap_or(false);
    let window = config.count("sliding_window")?.filter(|_| used && windows != Windows::None);
    let listed = local_layers(config)?;
    match window {
        None if listed.as_ref().is_some_and(|local| local.contains(&true)) => {
            return Err(config.refuse("layer_types"));
        }
        None => {}
        Some(window) => {
            out.count("attention.sliding_window", window)?;
            let local = match (windows, listed) {
                (Windows::None | Windows::All, Some(local)) if local.contains(&false) => {
                    return Err(config.refuse("layer_types"));
                }
                (Windows::None | Windows::All, _) => None,
                (_, Some(local)) => Some(local),
                (Windows::From, None) => {
                    let first = config.count("max_window_layers")?.unwrap_or(0);
                    Some((0..layers).map(|i| i >= first).collect())
                }
                (Windows::Unrotated, None) => {
                    Some(rotated.iter().flatten().map(|rotated| !rotated).collect())
                }
                (Windows::Alternating, None) => None,
            };
            match (local, config.count("sliding_window_pattern")?) {
                (Some(local), _) => {
                    out.set("attention.sliding_window_pattern", local.into())?;
                }
                (None, Some(period)) if model_type.starts_with("gemma3") => {
                    out.count("attention.sliding_window_pattern", period)?;
                }
                (None, _) => {}
            }
        }
    }
    if let Some(rotated) = rotated {
        out.set("rope.layers", rotated.into())?;
    }
    let experts = config.count("num_local_experts")?;
    if experts.is_some() && config.get("moe_intermediate_size").is_none() {
        let width = config.count("intermediate_size")?.unwrap_or(0);
        out.count("expert_feed_forward_length", width)?;
    }
    Ok(())
}

/// Which layers have RoPE, where some have not.
fn rotated_layers(config: Object<'_>, layers: u32) -> Result<Option<Vec<bool>>, HfError> {
    if let Some(rotated) = config.list("no_rope_layers")? {
        let rotated: Option<Vec<bool>> =
            rotated.iter().map(|v| v.as_u64().map(|n| n != 0)).collect();
        return rotated.map(Some).ok_or_else(|| config.refuse("no_rope_layers"));
    }
    let period = config.count("no_rope_layer_interval")?;
    Ok(period.map(|n| (1..=layers).map(|i| n == 0 || i % n != 0).collect()))
}

/// Which layers have the window, where they are listed.
fn local_layers(config: Object<'_>) -> Result<Option<Vec<bool>>, HfError> {
    let Some(types) = config.list("layer_types")? else { return Ok(None) };
    let local: Option<Vec<bool>> = types
        .iter()
        .map(|kind| match kind.as_str()? {
            "sliding_attention" => Some(true),
            "full_attention" => Some(false),
            _ => None,
        })
        .collect();
    local.map(Some).ok_or_else(|| config.refuse("layer_types"))
}
