//! What is on disk: which kind of model makes the vectors, and what its files say beside the network.

use std::path::Path;

use serde_json::{Map, Value};

use super::spec::MODEL_TYPES;
use super::{EncoderSpec, Sentence, classifier, sentence};
use crate::arch;
use crate::checkpoint::Checkpoint;
use crate::decoder::DecoderSpec;
use crate::gguf::{Gguf, Metadata};
use crate::hf::json::{self, Object};
use crate::hf::{Folder, HfError};
use crate::load::{DEFAULT_CONTEXT, ModelError};
use crate::tokenizer::{Beside, Tokenizer, TokenizerError};

/// The longest `tokenizer.json` that is accepted.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// How hidden states become a vector, of a GGUF file; under the architecture's prefix.
const POOLING_TYPE: &str = "pooling_type";

/// The network of a model that makes vectors.
pub(super) enum Files {
    /// An encoder of the bert family, RoBERTa among it.
    Encoder(EncoderSpec),
    /// A causal model: the states of a decoder.
    Decoder(Box<dyn Checkpoint>, Box<DecoderSpec>),
}

/// A model that makes vectors, opened.
pub(super) struct Source {
    pub files: Files,
    pub sentence: Sentence,
    /// The `config.json` of a cross-encoder.
    pub classifier: Option<Map<String, Value>>,
    /// Tokens of the longest text, special ones included.
    pub max_tokens: usize,
}

/// Whether the model at `path` is a folder with a model that makes vectors and no text: an encoder by
/// its `model_type`, or one that sentence-transformers pools.
pub fn is_encoder(path: &Path) -> Result<bool, HfError> {
    if !path.is_dir() {
        return Ok(false);
    }
    let (folder, pooled) = sentence::network(path)?;
    let config = json::read::<Map<String, Value>>(&folder.join("config.json"))?.unwrap_or_default();
    let name = Object(&config).text("model_type")?;
    Ok(pooled || name.is_some_and(|name| MODEL_TYPES.contains(&name)))
}

/// Whether the model at `path` makes vectors: a folder as [`is_encoder`] says, or a GGUF file that
/// says how its states are pooled.
pub fn makes_embeddings(path: &Path) -> Result<bool, ModelError> {
    if path.is_dir() {
        return Ok(is_encoder(path)?);
    }
    let header = crate::gguf::read_header(path)?;
    Ok(pooling_type(&header.metadata)?.is_some_and(|kind| kind != 0))
}

fn pooling_type(metadata: &Metadata) -> Result<Option<u32>, ModelError> {
    let arch = metadata.need_str("general.architecture")?;
    Ok(metadata.u32(&format!("{arch}.{POOLING_TYPE}"))?)
}

impl Source {
    /// Opens the model at `path`. `context` is the longest text that is wanted of a causal model.
    pub fn open(path: &Path, context: Option<usize>) -> Result<Self, ModelError> {
        if !path.is_dir() {
            return Source::gguf(Gguf::open(path)?, context);
        }
        let sentence = Sentence::read(path)?;
        let stated = sentence.max_tokens.unwrap_or(usize::MAX);
        let config = sentence.folder.join("config.json");
        let config = json::read::<Map<String, Value>>(&config)?.unwrap_or_default();
        let model_type = Object(&config).text("model_type")?;
        if !sentence.stated || model_type.is_none_or(|name| MODEL_TYPES.contains(&name)) {
            let spec = EncoderSpec::read(&sentence.folder)?;
            let max_tokens = spec.longest().min(stated);
            // Not even a token between the special ones.
            if max_tokens < 3 {
                let (key, value) = ("max_seq_length".into(), max_tokens.to_string());
                return Err(HfError::Setting { key, value }.into());
            }
            let head = !sentence.stated && classifier::is_classifier(&config)?;
            let (files, classifier) = (Files::Encoder(spec), head.then_some(config));
            return Ok(Source { files, sentence, classifier, max_tokens });
        }
        let file = Box::new(Folder::open_headless(&sentence.folder)?);
        Source::decoder(file, sentence, context, stated)
    }

    fn gguf(file: Gguf, context: Option<usize>) -> Result<Self, ModelError> {
        let metadata = file.metadata();
        let kind = pooling_type(metadata)?;
        let sentence = Sentence::of_gguf(kind).ok_or_else(|| {
            let arch = metadata.need_str("general.architecture").unwrap_or_default();
            let value = kind.map_or_else(|| "(none)".into(), |kind| kind.to_string());
            ModelError::Setting { key: format!("{arch}.{POOLING_TYPE}"), value }
        })?;
        Source::decoder(Box::new(file), sentence, context, usize::MAX)
    }

    fn decoder(
        file: Box<dyn Checkpoint>,
        sentence: Sentence,
        context: Option<usize>,
        stated: usize,
    ) -> Result<Self, ModelError> {
        let spec = arch::spec(&*file)?;
        let max_tokens = context.unwrap_or(spec.context.min(DEFAULT_CONTEXT)).min(stated);
        if max_tokens < 2 || max_tokens > spec.context {
            return Err(ModelError::Options(format!(
                "texts of {max_tokens} tokens, but the model was trained for {}",
                spec.context
            )));
        }
        let files = Files::Decoder(file, Box::new(spec));
        Ok(Source { files, sentence, classifier: None, max_tokens })
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        match &self.files {
            Files::Encoder(spec) => spec.vocab,
            Files::Decoder(_, spec) => spec.vocab,
        }
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        let spec = match &self.files {
            Files::Encoder(spec) => spec,
            Files::Decoder(file, _) => return file.tokenizer(),
        };
        let path = self.sentence.folder.join("tokenizer.json");
        let bytes = json::read_bytes(&path, MAX_TOKENIZER_BYTES)?;
        let bytes = bytes.ok_or(TokenizerError::NoFile { path })?;
        let config: Map<String, Value> =
            json::read(&self.sentence.folder.join("tokenizer_config.json"))?.unwrap_or_default();
        sentence::check_normalizer(&bytes, Object(&config))?;
        let beside = Beside { config: &config, ends: &[], tokens: Some(spec.vocab) };
        Tokenizer::from_json(&bytes, &beside)
    }
}
