//! What can be wrong with a folder, one line each.

use std::io;
use std::path::PathBuf;

use crate::safetensors;

/// Why a folder is no model that Ferrum can run. Names from its files are printed quoted and escaped.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum HfError {
    #[error("{}: {reason}", path.display())]
    Io { path: PathBuf, reason: io::Error },
    #[error("{}: not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: {bytes} bytes are more than the {max} that are accepted", path.display())]
    TooLong { path: PathBuf, bytes: u64, max: u64 },
    #[error("{}: {reason}", path.display())]
    Json { path: PathBuf, reason: String },
    #[error("{}: no config.json in this folder, so it is no model", path.display())]
    NoConfig { path: PathBuf },
    #[error("{}: there is no safetensors file with the weights", path.display())]
    NoWeights { path: PathBuf },
    #[error(
        "{}: a pickle file, which can run any program when it is read; Ferrum reads safetensors only \
         (transformers' save_pretrained writes them)",
        path.display()
    )]
    Pickle { path: PathBuf },
    #[error("{}: {reason}", path.display())]
    Parse { path: PathBuf, reason: safetensors::ParseError },
    #[error("{}: {name:?} is no name of a safetensors file in the same folder", path.display())]
    ShardName { path: PathBuf, name: String },
    #[error("{}: {name:?} should be in {shard:?}, but is not", path.display())]
    NotInShard { path: PathBuf, name: String, shard: String },
    #[error("tensor {name:?} is in {shard:?}, but the index does not say so")]
    NotInIndex { name: String, shard: String },
    #[error("tensor {name:?} is in {first:?} and again in {second:?}")]
    Duplicate { name: String, first: String, second: String },
    #[error("tensors {first:?} and {second:?} are the same part of the model")]
    SamePart { first: String, second: String },
    #[error("tensor {name:?} is of type {dtype}, which Ferrum cannot run")]
    Dtype { name: String, dtype: safetensors::Dtype },
    #[error("tensor {name:?} has the shape {shape:?}, which no part of a model has")]
    Shape { name: String, shape: Vec<usize> },
    #[error("{name:?}: the {found} experts of a layer do not have the same type and shape")]
    Experts { name: String, found: usize },
    #[error("quantised layer {name:?}: {reason}")]
    Quantized { name: String, reason: String },
    #[error("there is no \"lm_head.weight\", though \"tie_word_embeddings\" is false")]
    NoHead,
    #[error("config.json: {key:?} is missing")]
    Missing { key: String },
    #[error("config.json: {key:?} = {value} is not supported")]
    Setting { key: String, value: String },
    #[error("model type {name:?} is not supported (supported: {known})")]
    ModelType { name: String, known: String },
}
