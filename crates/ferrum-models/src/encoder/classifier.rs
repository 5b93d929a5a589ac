//! The head of a cross-encoder: the state of a pair's first token to a score.

use serde_json::{Map, Value};

use super::EncoderSpec;
use crate::hf::json::Object;
use crate::hf::{HfError, Shards};
use crate::load::ModelError;

/// The classes of transformers whose heads are known.
const CLASSES: &[&str] = &[
    "BertForSequenceClassification",
    "RobertaForSequenceClassification",
    "XLMRobertaForSequenceClassification",
];

/// What becomes of the head's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreFunction {
    /// The number itself.
    Identity,
    /// Between 0 and 1: `1 / (1 + e⁻ˣ)`.
    Sigmoid,
}

/// `f(classifier · tanh(pooler · state))`, as transformers' `BertForSequenceClassification` and
/// `RobertaForSequenceClassification` with one label, and sentence-transformers' `CrossEncoder`.
pub(super) struct Classifier {
    /// `[hidden, hidden]`
    pooler: Vec<f32>,
    pooler_bias: Vec<f32>,
    /// `[1, hidden]`
    weight: Vec<f32>,
    bias: f32,
    function: ScoreFunction,
}

/// Whether the `config.json` is that of a cross-encoder, of which the head counts.
pub(super) fn is_classifier(config: &Map<String, Value>) -> Result<bool, HfError> {
    let classes = Object(config).list("architectures")?.unwrap_or_default();
    Ok(classes.iter().any(|class| CLASSES.iter().any(|known| class == known)))
}

/// The function that sentence-transformers applies to scores: the one that `config.json` names, or
/// the sigmoid.
fn function(config: Object<'_>) -> Result<ScoreFunction, HfError> {
    let nested = config.object("sentence_transformers")?;
    let named = nested.map(|nested| nested.text("activation_fn")).transpose()?.flatten();
    let old = "sbert_ce_default_activation_function";
    match named.or(config.text(old)?) {
        None | Some("torch.nn.modules.activation.Sigmoid") => Ok(ScoreFunction::Sigmoid),
        Some("torch.nn.modules.linear.Identity") => Ok(ScoreFunction::Identity),
        Some(_) => Err(match nested {
            Some(nested) => nested.refuse("activation_fn"),
            None => config.refuse(old),
        }),
    }
}

/// Labels, as `id2label` or `num_labels` say.
fn labels(config: Object<'_>) -> Result<usize, HfError> {
    match config.object("id2label")? {
        Some(labels) => Ok(labels.0.len()),
        // Transformers' default.
        None => Ok(config.count("num_labels")?.unwrap_or(2) as usize),
    }
}

impl Classifier {
    /// Reads the head of the model that `config` describes.
    pub fn load(
        shards: &Shards,
        spec: &EncoderSpec,
        config: &Map<String, Value>,
    ) -> Result<Self, ModelError> {
        let config = Object(config);
        let labels = labels(config)?;
        if labels != 1 {
            let value = labels.to_string();
            return Err(HfError::Setting { key: "num_labels".into(), value }.into());
        }
        let is_bert = spec.padding.is_none();
        if is_bert && spec.token_types < 2 {
            // There is no telling the two texts apart.
            return Err(config.refuse("type_vocab_size").into());
        }
        let hidden = spec.hidden;
        let (pooler, last) = match is_bert {
            true => ("bert.pooler.dense", "classifier"),
            false => ("classifier.dense", "classifier.out_proj"),
        };
        let values = |layer: &str, part: &str, shape: &[usize]| {
            values(shards, &format!("{layer}.{part}"), shape)
        };
        Ok(Classifier {
            pooler: values(pooler, "weight", &[hidden, hidden])?,
            pooler_bias: values(pooler, "bias", &[hidden])?,
            weight: values(last, "weight", &[1, hidden])?,
            bias: values(last, "bias", &[1])?[0],
            function: function(config)?,
        })
    }

    /// The score of the state of a pair's first token.
    pub fn score(&self, state: &[f32]) -> f32 {
        let dot = |row: &[f32], x: &[f32]| -> f64 {
            row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        let rows = self.pooler.chunks_exact(state.len()).zip(&self.pooler_bias);
        let pooled: Vec<f32> =
            rows.map(|(row, bias)| (dot(row, state) + f64::from(*bias)).tanh() as f32).collect();
        let x = dot(&self.weight, &pooled) + f64::from(self.bias);
        match self.function {
            ScoreFunction::Identity => x as f32,
            ScoreFunction::Sigmoid => (1.0 / (1.0 + (-x).exp())) as f32,
        }
    }
}

/// The values of a tensor of this shape.
fn values(shards: &Shards, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
    let missing = || crate::gguf::GgufError::MissingTensor { name: name.to_string() };
    let tensor = shards.tensors.iter().find(|t| t.raw.name == name).ok_or_else(missing)?;
    tensor.check_shape(shape)?;
    shards.floats(tensor)
}
