//! What an encoder's `config.json` says.

use std::path::Path;

use ferrum_kernels::params::Activation;
use serde_json::{Map, Value};

use crate::hf::HfError;
use crate::hf::json::{self, Object};

/// Model types that are encoders.
pub(super) const MODEL_TYPES: &[&str] = &["bert", "roberta", "xlm-roberta"];

/// Settings that change the result and that are not done here, with the value at which they change
/// nothing.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("add_cross_attention", "false"),
    ("is_decoder", "false"),
    ("position_embedding_type", "\"absolute\""),
];

/// Hyperparameters of a bert (Devlin et al. 2018, arXiv:1810.04805) or a RoBERTa (Liu et al. 2019,
/// arXiv:1907.11692; XLM-R: Conneau et al. 2019, arXiv:1911.02116).
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Values of a hidden state.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Heads; they divide `hidden`.
    pub heads: usize,
    /// Values between the two halves of an MLP.
    pub mlp_width: usize,
    /// Positions that there are embeddings for.
    pub positions: usize,
    /// The token of padding, of a RoBERTa: the positions of the others are counted from behind its number,
    /// and it has that number's itself. Positions of a bert are counted from 0.
    pub padding: Option<u32>,
    /// Kinds of segments that there are embeddings for; texts are of kind 0.
    pub token_types: usize,
    /// Added to variances.
    pub eps: f32,
    /// Of the MLPs.
    pub activation: Activation,
}

impl EncoderSpec {
    /// Reads `config.json` in `folder`.
    pub fn read(folder: &Path) -> Result<Self, HfError> {
        let Some(json) = json::read::<Map<String, Value>>(&folder.join("config.json"))? else {
            return Err(HfError::NoConfig { path: folder.to_path_buf() });
        };
        EncoderSpec::of(Object(&json))
    }

    pub(super) fn of(config: Object<'_>) -> Result<Self, HfError> {
        let missing = |key: &str| HfError::Missing { key: key.into() };
        let name = config.text("model_type")?.ok_or_else(|| missing("model_type"))?;
        if !MODEL_TYPES.contains(&name) {
            let known = MODEL_TYPES.join(", ");
            return Err(HfError::ModelType { name: name.into(), known });
        }
        config.refuse_unless(UNSUPPORTED)?;
        if let Some(method) = config.object("quantization_config")? {
            return Err(method.refuse("quant_method"));
        }
        let count = |key: &str| match config.count(key)? {
            Some(0) => Err(config.refuse(key)),
            Some(n) => Ok(n as usize),
            None => Err(missing(key)),
        };
        let (hidden, heads) = (count("hidden_size")?, count("num_attention_heads")?);
        if !hidden.is_multiple_of(heads) {
            return Err(config.refuse("num_attention_heads"));
        }
        let eps = config.number("layer_norm_eps")?.unwrap_or(1e-12) as f32;
        if eps < 0.0 {
            return Err(config.refuse("layer_norm_eps"));
        }
        let padding = match name {
            "bert" => None,
            _ => Some(config.count("pad_token_id")?.unwrap_or(1)),
        };
        let positions = count("max_position_embeddings")?;
        if padding.is_some_and(|padding| padding as usize + 1 >= positions) {
            return Err(config.refuse("pad_token_id"));
        }
        Ok(EncoderSpec {
            vocab: count("vocab_size")?,
            hidden,
            layers: count("num_hidden_layers")?,
            heads,
            mlp_width: count("intermediate_size")?,
            positions,
            padding,
            token_types: config.count("type_vocab_size")?.unwrap_or(2).max(1) as usize,
            eps,
            activation: match config.text("hidden_act")?.unwrap_or("gelu") {
                "gelu" => Activation::Gelu,
                "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
                "relu" => Activation::Relu,
                "silu" | "swish" => Activation::Silu,
                _ => return Err(config.refuse("hidden_act")),
            },
        })
    }

    /// Tokens of the longest text.
    pub fn longest(&self) -> usize {
        self.positions - self.padding.map_or(0, |padding| padding as usize + 1)
    }

    /// Kinds of segments that are told apart: a RoBERTa's texts are all of kind 0.
    pub fn kinds(&self) -> usize {
        if self.padding.is_some() { 1 } else { self.token_types.min(2) }
    }

    /// Values per head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}
