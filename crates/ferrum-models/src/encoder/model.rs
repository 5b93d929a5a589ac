//! A model that turns token ids into vectors, or pairs of texts into scores.

use std::path::Path;

use ferrum_kernels::{Backend, KernelError, StepInput};

use super::causal::{self, Causal};
use super::classifier::Classifier;
use super::forward::{Encoder, Network};
use super::pooling::{Pooling, normalize};
use super::source::{Files, Source};
use super::weights::Wanted;
use super::{EmbedError, Input, Sentence};
use crate::hf::Shards;
use crate::load::{self, LoadOptions, ModelError, Task};

/// A model that turns token ids into vectors, or pairs of texts into scores.
pub struct Embedder {
    network: Box<dyn Network>,
    /// Values of a hidden state.
    hidden: usize,
    vocab: usize,
    /// Positions that there are embeddings for, each of them for either kind of text.
    positions: usize,
    /// [`super::EncoderSpec::padding`]
    padding: Option<u32>,
    pooling: Pooling,
    normalize: bool,
    classifier: Option<Classifier>,
    max_tokens: usize,
    step_tokens: usize,
    /// Texts of a step, at most.
    step_texts: usize,
    failure: Option<String>,
}

/// Loading a model.
struct Load<'a> {
    source: Source,
    options: &'a LoadOptions,
}

impl Task for Load<'_> {
    type Output = Embedder;

    fn run<B: Backend>(self, ranks: Vec<B>) -> Result<Embedder, ModelError> {
        let backend = load::only(ranks, "models that make embeddings")?;
        Embedder::load_on(backend, self.source, self.options)
    }
}

impl Embedder {
    /// Loads the model at `path`. Of `options`, the device, its threads and instruction set, the
    /// tokens of a step, the context (of causal models) and whether to be exact are heeded.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let source = Source::open(path, options.context)?;
        load::on_device(options, Load { source, options })
    }

    fn load_on<B: Backend>(
        backend: B,
        source: Source,
        options: &LoadOptions,
    ) -> Result<Self, ModelError> {
        let Source { files, sentence, classifier: head, max_tokens } = source;
        let (step_tokens, rounded) = (options.step_tokens.max(max_tokens), !options.exact);
        let Sentence { pooling, normalize, .. } = sentence;
        let (hidden, vocab, positions, step_texts) = match &files {
            Files::Encoder(spec) => (spec.hidden, spec.vocab, spec.positions, usize::MAX),
            Files::Decoder(_, spec) => (spec.hidden, spec.vocab, 0, causal::MAX_TEXTS),
        };
        let padding = match &files {
            Files::Encoder(spec) => spec.padding,
            Files::Decoder(..) => None,
        };
        let mut classifier = None;
        let network: Box<dyn Network> = match files {
            Files::Encoder(spec) => {
                let shards = Shards::open(&sentence.folder)?;
                if let Some(config) = &head {
                    classifier = Some(Classifier::load(&shards, &spec, config)?);
                }
                let wanted = Wanted { spec: &spec, rounded, classifier: head.is_some() };
                Box::new(Encoder::load(backend, &shards, &wanted, step_tokens)?)
            }
            Files::Decoder(file, spec) => {
                Box::new(Causal::load(backend, &*file, *spec, step_tokens, rounded)?)
            }
        };
        Ok(Embedder {
            network,
            hidden,
            vocab,
            positions,
            padding,
            pooling,
            normalize,
            classifier,
            max_tokens,
            step_tokens,
            step_texts,
            failure: None,
        })
    }

    /// How hidden states become a vector.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Pools otherwise than the files say.
    pub fn set_pooling(&mut self, pooling: Pooling) {
        self.pooling = pooling;
    }

    /// Values of a vector; of a model that scores pairs, 1.
    pub fn dimensions(&self) -> usize {
        if self.classifier.is_some() { 1 } else { self.hidden }
    }

    /// The vector of each text, in their order; of the first `dimensions` values where that is given.
    /// A model that scores pairs gives the score of each, as a vector of one value.
    ///
    /// A vector cut short has the length 1 again where the model's have. Fails where a text is empty
    /// or longer than the model takes, and where a token is not one of the model's; texts from
    /// [`super::TextEncoder`] are neither.
    pub fn embed<T: Input>(
        &mut self,
        texts: &[T],
        dimensions: Option<usize>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let (hidden, have) = (self.hidden, self.dimensions());
        let width = dimensions.unwrap_or(have);
        if width == 0 || width > have {
            return Err(EmbedError::Dimensions { asked: width, have });
        }
        self.check(texts)?;
        let (mut vectors, mut rest) = (Vec::with_capacity(texts.len()), texts);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.fitting(rest));
            let step = self.step_of(now);
            let states = match self.network.run(&step) {
                Ok(states) => states,
                Err(error) => return Err(self.failed(error)),
            };
            for bounds in step.query_starts.windows(2) {
                let states = &states[bounds[0] as usize * hidden..bounds[1] as usize * hidden];
                let mut vector = match &self.classifier {
                    Some(classifier) => vec![classifier.score(&states[..hidden])],
                    None => self.pooling.pool(states, hidden),
                };
                vector.truncate(width);
                if self.normalize {
                    normalize(&mut vector);
                }
                vectors.push(vector);
            }
            rest = later;
        }
        Ok(vectors)
    }

    /// Why no text can be embedded any more, if the device does not work any more.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// A step that failed, perhaps for good.
    fn failed(&mut self, error: KernelError) -> EmbedError {
        self.failure = self.network.works().err().map(|why| why.to_string());
        error.into()
    }

    fn check(&self, texts: &[impl Input]) -> Result<(), EmbedError> {
        let (limit, vocab) = (self.max_tokens, self.vocab);
        for text in texts {
            match text.ids().len() {
                0 => return Err(EmbedError::Empty),
                tokens if tokens > limit => return Err(EmbedError::TooLong { tokens, limit }),
                _ => {}
            }
            if let Some(&id) = text.ids().iter().find(|id| **id as usize >= vocab) {
                return Err(EmbedError::Token { id, vocab });
            }
        }
        Ok(())
    }

    /// Texts that fit into a step, at least one.
    fn fitting(&self, texts: &[impl Input]) -> usize {
        let mut tokens = 0;
        let mut fits = |ids: &[u32]| {
            tokens += ids.len();
            tokens <= self.step_tokens
        };
        texts.iter().take(self.step_texts).take_while(|text| fits(text.ids())).count().max(1)
    }

    fn step_of(&self, texts: &[impl Input]) -> StepInput {
        let mut step = StepInput { query_starts: vec![0], ..StepInput::default() };
        for text in texts {
            // Ids are below the vocabulary's size and lengths within a step, so they fit.
            let ids = text.ids();
            step.tokens.extend(ids.iter().map(|&id| id as i32));
            match self.padding {
                Some(padding) => step.positions.extend(after_padding(ids, padding)),
                None => {
                    let kind = |i: usize| if i < text.first() { 0 } else { self.positions };
                    step.positions.extend((0..ids.len()).map(|i| (i + kind(i)) as i32));
                }
            }
            step.kv_lens.push(ids.len() as i32);
            step.query_starts.push(step.tokens.len() as i32);
        }
        step
    }
}

/// Positions of a RoBERTa's tokens: counted from behind the number of its padding, which keeps that
/// number and is not counted (`create_position_ids_from_input_ids` of transformers).
fn after_padding(ids: &[u32], padding: u32) -> impl Iterator<Item = i32> + '_ {
    let mut last = padding;
    ids.iter().map(move |id| {
        let is_padding = *id == padding;
        last += u32::from(!is_padding);
        if is_padding { padding as i32 } else { last as i32 }
    })
}
