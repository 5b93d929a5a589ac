//! A folder to something that turns texts into vectors.

use std::path::Path;

use ferrum_kernels::StepInput;
use serde_json::{Map, Value};

use super::forward::{Encoder, Network};
use super::pooling::{Pooling, normalize};
use super::{EmbedError, EncoderSpec, Sentence};
use crate::hf::Shards;
use crate::hf::json::{self, Object};
use crate::load::{self, Device, LoadOptions, ModelError};
use crate::tokenizer::{Beside, Tokenizer, TokenizerError};

/// The longest `tokenizer.json` that is accepted.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Texts to token ids, with the limits of a model.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    sentence: Sentence,
    max_tokens: usize,
    vocab: usize,
}

impl TextEncoder {
    /// Reads the tokenizer and the settings of the model in `folder`.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let spec = EncoderSpec::read(folder)?;
        let sentence = Sentence::read(folder)?;
        let path = folder.join("tokenizer.json");
        let bytes = json::read_bytes(&path, MAX_TOKENIZER_BYTES)?;
        let bytes = bytes.ok_or(TokenizerError::NoFile { path })?;
        let config: Map<String, Value> =
            json::read(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let beside = Beside { config: &config, ends: &[], tokens: Some(spec.vocab) };
        let tokenizer = Tokenizer::from_json(&bytes, &beside)?;
        let max_tokens = spec.positions.min(sentence.max_tokens.unwrap_or(usize::MAX));
        if max_tokens < 3 {
            // Not even a token between the special ones.
            let key = "max_seq_length";
            let value = serde_json::json!({ key: max_tokens });
            let value = value.as_object().cloned().unwrap_or_default();
            return Err(Object(&value).refuse(key).into());
        }
        Ok(TextEncoder { tokenizer, sentence, max_tokens, vocab: spec.vocab })
    }

    /// Tokens of the longest text, special ones included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The tokens of a text with those around it. One that is too long is cut where `truncate`, at
    /// its end and before the token that closes it, else refused.
    pub fn encode(&self, text: &str, truncate: bool) -> Result<Vec<u32>, EmbedError> {
        let t = &self.tokenizer;
        let Sentence { prompt, lowercase, .. } = &self.sentence;
        let text = match (prompt.is_empty(), lowercase) {
            (true, false) => std::borrow::Cow::Borrowed(text),
            (_, false) => format!("{prompt}{text}").into(),
            (_, true) => format!("{prompt}{text}").to_lowercase().into(),
        };
        let mut ids: Vec<u32> = t.bos().filter(|_| t.add_bos()).into_iter().collect();
        // Special tokens count where a text spells them, as in sentence-transformers: there is no
        // conversation here whose parts they could forge.
        ids.extend(t.encode_markup(&text));
        let end = t.eos().filter(|_| t.add_eos());
        let tokens = ids.len() + usize::from(end.is_some());
        if tokens > self.max_tokens {
            if !truncate {
                return Err(EmbedError::TooLong { tokens, limit: self.max_tokens });
            }
            ids.truncate(self.max_tokens - usize::from(end.is_some()));
        }
        ids.extend(end);
        Ok(ids)
    }

    /// Token ids that someone else made, as they are: held against the vocabulary and the limit, and
    /// cut at their end where `truncate`.
    pub fn accept(&self, ids: &[u32], truncate: bool) -> Result<Vec<u32>, EmbedError> {
        if ids.is_empty() {
            return Err(EmbedError::Empty);
        }
        if let Some(&id) = ids.iter().find(|id| **id as usize >= self.vocab) {
            return Err(EmbedError::Token { id, vocab: self.vocab });
        }
        if ids.len() > self.max_tokens && !truncate {
            return Err(EmbedError::TooLong { tokens: ids.len(), limit: self.max_tokens });
        }
        Ok(ids[..ids.len().min(self.max_tokens)].to_vec())
    }
}

/// A model that turns token ids into vectors.
pub struct Embedder {
    network: Box<dyn Network>,
    spec: EncoderSpec,
    pooling: Pooling,
    normalize: bool,
    max_tokens: usize,
    step_tokens: usize,
}

impl Embedder {
    /// Loads the model in `folder`. Of `options`, the device, its threads and instruction set and
    /// the tokens of a step are heeded; an encoder has no cache.
    pub fn load(folder: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let spec = EncoderSpec::read(folder)?;
        let Sentence { pooling, normalize, max_tokens, .. } = Sentence::read(folder)?;
        let max_tokens = spec.positions.min(max_tokens.unwrap_or(usize::MAX));
        let step_tokens = options.step_tokens.max(max_tokens);
        let shards = Shards::open(folder)?;
        let network: Box<dyn Network> = match options.device {
            Device::Cpu => {
                Box::new(Encoder::load(load::cpu(options)?, &shards, &spec, step_tokens)?)
            }
            Device::Reference => {
                Box::new(Encoder::load(load::reference(options)?, &shards, &spec, step_tokens)?)
            }
        };
        Ok(Embedder { network, spec, pooling, normalize, max_tokens, step_tokens })
    }

    /// Hyperparameters.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// How hidden states become a vector.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Pools otherwise than the files say.
    pub fn set_pooling(&mut self, pooling: Pooling) {
        self.pooling = pooling;
    }

    /// Values of a vector.
    pub fn dimensions(&self) -> usize {
        self.spec.hidden
    }

    /// The vector of each text, in their order; of the first `dimensions` values where that is given.
    ///
    /// A vector cut short has the length 1 again where the model's have. Fails where a text is empty
    /// or longer than the model takes, and where a token is not one of the model's; texts from
    /// [`TextEncoder`] are neither.
    pub fn embed(
        &mut self,
        texts: &[Vec<u32>],
        dimensions: Option<usize>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let (hidden, limit, vocab) = (self.spec.hidden, self.max_tokens, self.spec.vocab);
        let width = dimensions.unwrap_or(hidden);
        if width == 0 || width > hidden {
            return Err(EmbedError::Dimensions { asked: width, have: hidden });
        }
        for text in texts {
            match text.len() {
                0 => return Err(EmbedError::Empty),
                tokens if tokens > limit => return Err(EmbedError::TooLong { tokens, limit }),
                _ => {}
            }
            if let Some(&id) = text.iter().find(|id| **id as usize >= vocab) {
                return Err(EmbedError::Token { id, vocab });
            }
        }
        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.fitting(rest));
            self.step(now, width, &mut vectors)?;
            rest = later;
        }
        Ok(vectors)
    }

    /// Texts that fit into a step, at least one.
    fn fitting(&self, texts: &[Vec<u32>]) -> usize {
        let mut tokens = 0;
        let fits = |text: &&Vec<u32>| {
            tokens += text.len();
            tokens <= self.step_tokens
        };
        texts.iter().take_while(fits).count().max(1)
    }

    fn step(
        &mut self,
        texts: &[Vec<u32>],
        width: usize,
        vectors: &mut Vec<Vec<f32>>,
    ) -> Result<(), EmbedError> {
        let mut step = StepInput { query_starts: vec![0], ..StepInput::default() };
        for text in texts {
            // Ids are below the vocabulary's size and lengths within a step, so they fit.
            step.tokens.extend(text.iter().map(|&id| id as i32));
            step.positions.extend(0..text.len() as i32);
            step.kv_lens.push(text.len() as i32);
            step.query_starts.push(step.tokens.len() as i32);
        }
        let hidden = self.spec.hidden;
        let states = self.network.run(&step)?;
        for bounds in step.query_starts.windows(2) {
            let states = &states[bounds[0] as usize * hidden..bounds[1] as usize * hidden];
            let mut vector = self.pooling.pool(states, hidden);
            vector.truncate(width);
            if self.normalize {
                normalize(&mut vector);
            }
            vectors.push(vector);
        }
        Ok(())
    }
}
