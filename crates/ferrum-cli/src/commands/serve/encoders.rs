//! The models that make embeddings, as a server offers them: their sizes are known before they are
//! loaded.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferrum_models::LoadOptions;
use ferrum_models::encoder::{EncoderSpec, Sentence};
use ferrum_server::{Encoder, Limits, Offer, Start};

use super::offers::cannot_load;
use crate::ui::text;

/// A model that makes embeddings, before it is offered.
pub struct EncoderCandidate {
    pub id: String,
    pub aliases: Vec<String>,
    pub path: PathBuf,
    pub options: LoadOptions,
    pub sizes: Sizes,
}

/// What is known of it without its weights.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Values of a vector.
    dimensions: usize,
    /// Tokens of the longest text.
    longest: usize,
    /// Memory while it is loaded.
    pub bytes: u64,
}

impl Sizes {
    /// Of the model in `folder` loaded with `options`.
    pub fn of(folder: &Path, options: &LoadOptions) -> Result<Self> {
        let read = || -> Result<Self> {
            let spec = EncoderSpec::read(folder)?;
            let longest = Sentence::read(folder)?.max_tokens.unwrap_or(usize::MAX);
            let longest = spec.positions.min(longest);
            let tokens = options.step_tokens.max(longest);
            // Hidden states, queries, keys, values, what attention gives, and the MLP's values.
            let width = spec.hidden.saturating_mul(5).saturating_add(spec.mlp_width);
            let buffers = tokens.saturating_mul(width).saturating_mul(size_of::<f32>());
            let files = files_bytes(folder)?;
            Ok(Sizes {
                dimensions: spec.hidden,
                longest,
                bytes: files.saturating_add(buffers as u64),
            })
        };
        read().with_context(|| cannot_load(folder))
    }
}

/// Bytes of the weights and the vocabulary of the model in `folder`: in memory they take about what
/// they take in its files.
fn files_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0u64;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let weights = path.extension().is_some_and(|extension| extension == "safetensors");
        if weights || path.ends_with("tokenizer.json") {
            bytes = bytes.saturating_add(fs::metadata(&path)?.len());
        }
    }
    Ok(bytes)
}

impl EncoderCandidate {
    /// The offer, and its sizes in a line.
    pub fn offer(self, limits: &Limits) -> (Offer, String) {
        let EncoderCandidate { id, aliases, path, options, sizes } = self;
        let Sizes { dimensions, longest, bytes } = sizes;
        let queue = limits.queue;
        let line = format!(
            "{id}: embeddings of {dimensions} values, texts of up to {longest} tokens, {queue} \
             requests waiting, memory {}",
            text::bytes(bytes)
        );
        let (name, folder) = (id.clone(), path.clone());
        let load = Box::new(move || Encoder::load(name.clone(), &folder, &options, queue));
        let offer = Offer {
            id,
            aliases,
            context: longest,
            bytes,
            waiting: queue.saturating_add(1),
            files: vec![path],
            start: Start::Encoder { dimensions, load },
        };
        (offer, line)
    }
}
