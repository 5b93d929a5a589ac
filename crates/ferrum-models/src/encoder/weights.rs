//! Tensors of the files to packed weights.

use std::collections::{HashMap, HashSet};

use ferrum_kernels::{Backend, DType, Format, Need, WeightSource};

use super::EncoderSpec;
use crate::hf::{HfError, Shards, StoredTensor};
use crate::load::ModelError;

/// What models have beside the encoder, and vectors do not depend on: the pooler of the task of next
/// sentences, the heads of the one of masked words, and a table of numbers.
const BESIDE: &[&str] = &["pooler.", "cls.", "lm_head.", "embeddings.position_ids"];

/// Names under which models with a head keep the encoder.
const PREFIXES: &[&str] = &["bert.", "roberta."];

/// A linear with its bias.
pub(super) struct Dense<B: Backend> {
    pub weight: B::Weight,
    pub bias: B::Buffer,
}

/// Weight and bias of a norm.
pub(super) struct Norm<B: Backend> {
    pub weight: B::Buffer,
    pub bias: B::Buffer,
}

/// Weights of one layer.
pub(super) struct Layer<B: Backend> {
    pub q: Dense<B>,
    pub k: Dense<B>,
    pub v: Dense<B>,
    pub output: Dense<B>,
    pub attention_norm: Norm<B>,
    pub up: Dense<B>,
    pub down: Dense<B>,
    pub norm: Norm<B>,
}

/// All weights of an encoder.
pub(super) struct Weights<B: Backend> {
    /// `[vocab, hidden]`
    pub words: B::Weight,
    /// `[kinds · positions, hidden]`: the embeddings of all positions with that of segments of kind 0
    /// added, then, if there are such, with that of kind 1.
    pub positions: B::Weight,
    pub norm: Norm<B>,
    pub layers: Vec<Layer<B>>,
}

/// Reads and packs tensors, and remembers which.
struct Loader<'a, B: Backend> {
    backend: &'a B,
    stream: &'a mut B::Stream,
    shards: &'a Shards,
    /// Whether linears may be rounded.
    rounded: bool,
    by_name: HashMap<&'a str, &'a StoredTensor>,
    used: HashSet<String>,
}

/// What is loaded, and how.
pub(super) struct Wanted<'a> {
    pub spec: &'a EncoderSpec,
    /// Linears may be rounded, as [`WeightSource::rounded`] says.
    pub rounded: bool,
    /// There is the head of a classifier, which is not part of the encoder.
    pub classifier: bool,
}

/// Loads all weights. A tensor that is missing, of another shape or not used is an error.
pub(super) fn load<B: Backend>(
    backend: &B,
    stream: &mut B::Stream,
    shards: &Shards,
    wanted: &Wanted<'_>,
) -> Result<Weights<B>, ModelError> {
    let &Wanted { spec, rounded, classifier } = wanted;
    let prefix =
        |name: &str| PREFIXES.iter().find(|p| name.starts_with(**p)).map_or(0, |p| p.len());
    let mut by_name = HashMap::new();
    for tensor in &shards.tensors {
        let name = tensor.raw.name.as_str();
        if let Some(first) = by_name.insert(&name[prefix(name)..], tensor) {
            let (first, second) = (first.raw.name.clone(), name.to_string());
            return Err(HfError::SamePart { first, second }.into());
        }
    }
    let mut loader = Loader { backend, stream, shards, rounded, by_name, used: HashSet::new() };
    let weights = loader.all(spec)?;
    let head: &[&str] = if classifier { &["classifier."] } else { &[] };
    let unused = loader.by_name.iter().find(|(name, _)| {
        let mut beside = BESIDE.iter().chain(head);
        !loader.used.contains(**name) && !beside.any(|beside| name.starts_with(beside))
    });
    match unused {
        Some((_, tensor)) => Err(ModelError::UnusedTensor { name: tensor.raw.name.clone() }),
        None => Ok(weights),
    }
}

impl<B: Backend> Loader<'_, B> {
    fn all(&mut self, spec: &EncoderSpec) -> Result<Weights<B>, ModelError> {
        let hidden = spec.hidden;
        let name = "embeddings.word_embeddings.weight";
        self.backend.check(&Need::Embed(self.format(name)?))?;
        Ok(Weights {
            words: self.matrix(name, spec.vocab, hidden, false)?,
            positions: self.positions(spec)?,
            norm: self.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..spec.layers).map(|i| self.layer(spec, i)).collect::<Result<_, _>>()?,
        })
    }

    /// The embedding of a token's segment goes with that of its position.
    fn positions(&mut self, spec: &EncoderSpec) -> Result<B::Weight, ModelError> {
        let (rows, cols) = (spec.positions, spec.hidden);
        let values = self.values("embeddings.position_embeddings.weight", &[rows, cols])?;
        let name = "embeddings.token_type_embeddings.weight";
        let types = self.values(name, &[spec.token_types, cols])?;
        let kinds = spec.kinds();
        let mut bytes = Vec::with_capacity(kinds * values.len() * 4);
        for kind in types.chunks_exact(cols).take(kinds) {
            for row in values.chunks_exact(cols) {
                bytes.extend(row.iter().zip(kind).flat_map(|(p, t)| (p + t).to_le_bytes()));
            }
        }
        let source = WeightSource::new(Format::F32, kinds * rows, cols, &bytes)?;
        Ok(self.backend.pack(self.stream, &source)?)
    }

    fn layer(&mut self, spec: &EncoderSpec, i: usize) -> Result<Layer<B>, ModelError> {
        let (hidden, mlp) = (spec.hidden, spec.mlp_width);
        let name = |what: &str| format!("encoder.layer.{i}.{what}");
        Ok(Layer {
            q: self.dense(&name("attention.self.query"), hidden, hidden)?,
            k: self.dense(&name("attention.self.key"), hidden, hidden)?,
            v: self.dense(&name("attention.self.value"), hidden, hidden)?,
            output: self.dense(&name("attention.output.dense"), hidden, hidden)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), hidden)?,
            up: self.dense(&name("intermediate.dense"), mlp, hidden)?,
            down: self.dense(&name("output.dense"), hidden, mlp)?,
            norm: self.norm(&name("output.LayerNorm"), hidden)?,
        })
    }

    fn dense(&mut self, name: &str, rows: usize, cols: usize) -> Result<Dense<B>, ModelError> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols, self.rounded)?;
        Ok(Dense { weight, bias: self.vector(&format!("{name}.bias"), rows)? })
    }

    /// Old files call a norm's parts as the first implementation of bert did.
    fn norm(&mut self, name: &str, len: usize) -> Result<Norm<B>, ModelError> {
        let old = self.by_name.contains_key(format!("{name}.gamma").as_str());
        let [weight, bias] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        Ok(Norm {
            weight: self.vector(&format!("{name}.{weight}"), len)?,
            bias: self.vector(&format!("{name}.{bias}"), len)?,
        })
    }

    fn find(&self, name: &str) -> Result<&StoredTensor, ModelError> {
        let missing = || crate::gguf::GgufError::MissingTensor { name: name.to_string() };
        Ok(self.by_name.get(name).copied().ok_or_else(missing)?)
    }

    fn format(&self, name: &str) -> Result<Format, ModelError> {
        Ok(self.find(name)?.format()?)
    }

    /// The tensor and its format, if it has this shape.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<(Format, StoredTensor), ModelError> {
        let format = self.format(name)?;
        let tensor = self.find(name)?.clone();
        tensor.check_shape(shape)?;
        self.used.insert(name.to_string());
        Ok((format, tensor))
    }

    fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        rounded: bool,
    ) -> Result<B::Weight, ModelError> {
        let (format, tensor) = self.take(name, &[rows, cols])?;
        self.backend.check(&Need::Linear { format, cols })?;
        let shards = self.shards;
        let release = |range| shards.release(&tensor, range);
        let source = WeightSource::new(format, rows, cols, shards.data(&tensor))?.telling(&release);
        let source = if rounded { source.rounded() } else { source };
        Ok(self.backend.pack(self.stream, &source)?)
    }

    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (_, tensor) = self.take(name, shape)?;
        let values = self.shards.floats(&tensor)?;
        self.shards.release(&tensor, 0..usize::MAX);
        Ok(values)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<B::Buffer, ModelError> {
        let values = self.values(name, &[len])?;
        let mut buffer = self.backend.alloc(DType::F32, len)?;
        self.backend.upload_f32(self.stream, &values, &mut buffer)?;
        Ok(buffer)
    }
}
