//! What is known of a model that makes vectors before its weights are loaded.

use std::fs;
use std::path::Path;

use ferrum_kernels::KvDType;

use super::causal;
use super::source::{Files, Source};
use crate::hf::HfError;
use crate::load::{self, LoadOptions, ModelError};

/// What a model that makes vectors is like, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderSizes {
    /// Values of a vector; of a model that scores pairs, 1.
    pub dimensions: usize,
    /// Tokens of the longest text, special ones included.
    pub max_tokens: usize,
    /// Bytes of memory while it is loaded, about.
    pub bytes: u64,
}

impl EncoderSizes {
    /// Of the model at `path`, loaded with `options`.
    pub fn read(path: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let Source { files, sentence, classifier, max_tokens } =
            Source::open(path, options.context)?;
        let tokens = options.step_tokens.max(max_tokens);
        let (hidden, bytes) = match files {
            Files::Encoder(spec) => {
                // Hidden states, queries, keys, values, what attention gives, and the MLP's values.
                let width = spec.hidden.saturating_mul(5).saturating_add(spec.mlp_width);
                let buffers = tokens.saturating_mul(width).saturating_mul(size_of::<f32>());
                (spec.hidden, files_bytes(&sentence.folder)?.saturating_add(buffers as u64))
            }
            Files::Decoder(file, spec) => {
                let options = LoadOptions {
                    context: Some(max_tokens),
                    step_tokens: tokens,
                    kv_blocks: Some(causal::kv_blocks(tokens)),
                    kv_dtype: KvDType::F32,
                    ..options.clone()
                };
                (spec.hidden, load::memory_estimate(&*file, &options)?.total() as u64)
            }
        };
        let dimensions = if classifier.is_some() { 1 } else { hidden };
        Ok(EncoderSizes { dimensions, max_tokens, bytes })
    }
}

/// Bytes of the weights and the vocabulary of the model in `folder`: in memory they take about what
/// they take in its files.
fn files_bytes(folder: &Path) -> Result<u64, HfError> {
    let io = |reason| HfError::Io { path: folder.to_path_buf(), reason };
    let mut bytes = 0u64;
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let weights = path.extension().is_some_and(|extension| extension == "safetensors");
        if weights || path.ends_with("tokenizer.json") {
            bytes = bytes.saturating_add(fs::metadata(&path).map_err(io)?.len());
        }
    }
    Ok(bytes)
}
