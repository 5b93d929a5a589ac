//! Names of tensors: those of transformers' decoders to those of GGUF.

use crate::arch::Architecture;

/// Modules outside the layers.
const MODEL: &[(&str, &str)] =
    &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Modules of a layer, as Llama has them or as others call what Llama has not. `{}` stands for the
/// number of an expert.
const LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.experts.{}.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.{}.up_proj", "ffn_up_exps"),
    ("mlp.experts.{}.down_proj", "ffn_down_exps"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("block_sparse_moe.experts.{}.w1", "ffn_gate_exps"),
    ("block_sparse_moe.experts.{}.w3", "ffn_up_exps"),
    ("block_sparse_moe.experts.{}.w2", "ffn_down_exps"),
];

/// Tensors that some writers add and that are computed from the settings.
const DERIVED: &[&str] = &["rotary_emb.inv_freq", "masked_bias"];

/// Models of text and images have a text model of this name; the rest is for images only.
const TEXT_MODEL: &[&str] = &["language_model.", "model.language_model."];
const IMAGE_MODEL: &[&str] = &[
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
];

/// Modules of a model that was saved without its head, and so without `model.` in front.
const ALONE: &[&str] = &["embed_tokens.", "layers.", "norm."];

/// What a tensor of a file is in GGUF's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The module, such as `blk.0.attn_q`.
    pub module: String,
    /// Its part: `weight`, `bias`, `qweight`, …
    pub part: String,
    /// The number of the expert, of those that are one tensor in GGUF.
    pub expert: Option<usize>,
}

/// The place of the tensor `name`; `None` where its name says nothing to a decoder.
pub(super) fn place(name: &str, architecture: &Architecture) -> Option<Place> {
    let text = text_name(name);
    let (module, part) = text.rsplit_once('.')?;
    let place = |module: String, expert| Some(Place { module, part: part.to_string(), expert });
    if let Some(rest) = module.strip_prefix("model.layers.") {
        let (layer, module) = rest.split_once('.')?;
        let layer = number(layer)?;
        let (pattern, expert) = without_number(module);
        let ours = lookup(architecture.modules, &pattern).or_else(|| lookup(LAYER, &pattern))?;
        return place(format!("blk.{layer}.{ours}"), expert);
    }
    place(lookup(MODEL, module)?.to_string(), None)
}

/// A module of a layer in GGUF's words, such as `blk.0.attn_q`; `None` where its name says nothing to
/// a decoder, and for those of experts.
pub(crate) fn module_of(name: &str, architecture: &Architecture) -> Option<String> {
    let place = place(&format!("{name}.weight"), architecture)?;
    place.expert.is_none().then_some(place.module)
}

/// The name without what models of text and images put in front: `model.` of the text model, and
/// its head.
fn text_name(name: &str) -> String {
    match TEXT_MODEL.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(rest) if rest.starts_with("model.") || rest.starts_with("lm_head.") => rest.into(),
        Some(rest) => format!("model.{rest}"),
        None if ALONE.iter().any(|module| name.starts_with(module)) => format!("model.{name}"),
        None => name.into(),
    }
}

/// Whether the model's text does not depend on the tensor `name`.
pub(super) fn is_beside(name: &str) -> bool {
    DERIVED.iter().any(|end| name.ends_with(end))
        || IMAGE_MODEL.iter().any(|prefix| name.starts_with(prefix))
}

/// What transformers calls the tensor with this name in GGUF, without regard to the architecture:
/// for messages.
pub(super) fn theirs(name: &str) -> Option<String> {
    let (module, part) = name.rsplit_once('.')?;
    let reverse = |table: &'static [(&str, &str)], module: &str| {
        table.iter().find(|(_, ours)| *ours == module).map(|(theirs, _)| *theirs)
    };
    if let Some(theirs) = reverse(MODEL, module) {
        return Some(format!("{theirs}.{part}"));
    }
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    Some(format!("model.layers.{layer}.{}.{part}", reverse(LAYER, module)?))
}

fn lookup(table: &[(&'static str, &'static str)], module: &str) -> Option<&'static str> {
    table.iter().find(|(theirs, _)| *theirs == module).map(|(_, ours)| *ours)
}

/// A number as it is written, without zeros in front.
fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n: &usize| n.to_string() == text)
}

/// `module` with `{}` for the one component that is a number, and that number.
fn without_number(module: &str) -> (String, Option<usize>) {
    let mut found = None;
    let parts: Vec<&str> = module
        .split('.')
        .map(|part| match number(part) {
            Some(n) if found.is_none() => {
                found = Some(n);
                "{}"
            }
            _ => part,
        })
        .collect();
    (parts.join("."), found)
}
