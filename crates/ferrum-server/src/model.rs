//! A loaded model: tokenizer, chat template, and the engine that runs it.

use std::sync::{Arc, OnceLock};

use ferrum_engine::constraint::{
    CompileLimits, Constraint, ConstraintCompiler, ConstraintError, TokenTable,
};
use ferrum_engine::{
    Engine, EngineConfig, EngineError, Grammar, ReasoningSpec, Vocabulary, VocabularyMismatch,
    same_vocabulary,
};
use ferrum_models::chat::{ChatTemplate, FromMetadataError, Message, OwnedSegment, RenderOptions};
use ferrum_models::gguf::GgufError;
use ferrum_models::tokenizer::{Segment, Tokenizer, TokenizerError};
use ferrum_models::{Checkpoint, LoadOptions, ModelError, load};

use crate::error::{ApiError, ApiResult};
use crate::metrics::ModelMetrics;
use crate::output::{Conventions, REASONING_MARKS};
use crate::service::{Service, ServiceConfig};

/// A model that answers.
pub struct Model {
    /// The name by which it is listed.
    pub id: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// Its engine.
    pub service: Service,
    /// Tokens that prompt and answer may have together.
    pub context: usize,
    /// How it writes what is not plain text.
    pub conventions: Conventions,
    /// Whether its template describes tools by itself.
    pub knows_tools: bool,
    /// Made when the first constraint is asked for.
    compiler: OnceLock<Result<ConstraintCompiler, ConstraintError>>,
}

/// Why a model could not be made ready.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum StartError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error("the tokenizer cannot be used: {0}")]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Template(#[from] FromMetadataError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("the tokenizer has more tokens than the model")]
    Vocabulary,
    #[error("the draft model does not fit: {0}")]
    Draft(#[from] VocabularyMismatch),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the engine's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What is loaded, and how.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The name by which it is listed.
    pub id: String,
    /// Sizes and device.
    pub load: LoadOptions,
    /// Choices of the engine.
    pub engine: EngineConfig,
    /// Requests that may wait.
    pub queue: usize,
    /// Events that may wait for a reader.
    pub backlog: usize,
}

impl Model {
    /// Why its engine has ended on its own, if it has.
    pub fn failure(&self) -> Option<String> {
        self.service.failure().map(|why| format!("{}: {why}", self.id))
    }

    /// Loads a model and starts its engine.
    pub fn start(
        file: &dyn Checkpoint,
        spec: ModelSpec,
        metrics: Arc<ModelMetrics>,
    ) -> Result<Self, StartError> {
        Self::start_with(file, None, spec, metrics)
    }

    /// Loads a model, with one that proposes tokens for it, and starts its engine.
    pub fn start_with(
        file: &dyn Checkpoint,
        draft: Option<(&dyn Checkpoint, &LoadOptions)>,
        spec: ModelSpec,
        metrics: Arc<ModelMetrics>,
    ) -> Result<Self, StartError> {
        let tokenizer = Arc::new(file.tokenizer()?);
        let template = ChatTemplate::from_metadata(file.metadata(), &tokenizer)?;
        let runner = load(file, &spec.load)?;
        if tokenizer.vocab_size() > runner.limits().vocab {
            return Err(StartError::Vocabulary);
        }
        let vocabulary: Arc<dyn Vocabulary> = tokenizer.clone();
        let mut engine = Engine::new(runner, vocabulary, spec.engine)?;
        if let Some((file, options)) = draft {
            same_vocabulary(&tokenizer, &file.tokenizer()?)?;
            engine = engine.with_draft(load(file, options)?)?;
        }
        let context = engine.max_len();
        let running = spec.engine.max_running.unwrap_or(usize::MAX).min(spec.load.max_seqs);
        let config = ServiceConfig { running, queue: spec.queue, backlog: spec.backlog };
        let service = Service::start(engine, config, metrics)?;
        let id = spec.id;
        let source = template.as_ref().map(ChatTemplate::source).unwrap_or_default();
        let conventions = Conventions::of_template(source);
        let knows_tools = conventions.tools.is_some() && source.contains("tools");
        Ok(Model {
            id,
            tokenizer,
            template,
            service,
            context,
            conventions,
            knows_tools,
            compiler: OnceLock::new(),
        })
    }

    /// The prompt of a conversation, as the template writes it.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> ApiResult<Vec<OwnedSegment>> {
        let Some(template) = &self.template else {
            let message =
                format!("the model {} has no chat template; use /v1/completions", self.id);
            return Err(ApiError::field("model", message));
        };
        template
            .render(messages, options)
            .map_err(|error| ApiError::field("messages", error.to_string()))
    }

    /// The constraint of a grammar that the field `param` of a request asks for.
    pub fn compile(&self, grammar: &Grammar, param: &str) -> ApiResult<Constraint> {
        let new = || {
            let table = TokenTable::from(self.tokenizer.as_ref());
            ConstraintCompiler::new(&table, CompileLimits::default())
        };
        let compiler = self.compiler.get_or_init(new);
        let result = compiler.as_ref().map_err(Clone::clone).and_then(|c| c.compile(grammar));
        result.map_err(|error| match error {
            ConstraintError::Busy => ApiError::busy(error.to_string(), 1),
            _ => ApiError::field(param, error.to_string()),
        })
    }

    /// The tokens of a rendered conversation.
    pub fn encode(&self, rendered: &[OwnedSegment]) -> Vec<u32> {
        let segments: Vec<Segment<'_>> = rendered.iter().map(OwnedSegment::as_segment).collect();
        self.with_bos(self.tokenizer.encode(&segments))
    }

    /// The tokens of a text that its sender wrote as a whole, special tokens included.
    pub fn encode_raw(&self, text: &str) -> Vec<u32> {
        self.with_bos(self.tokenizer.encode_markup(text))
    }

    /// Puts the beginning-of-text token in front, where the model wants one and it is not there.
    pub fn with_bos(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        match self.tokenizer.bos().filter(|_| self.tokenizer.add_bos()) {
            Some(bos) if tokens.first() != Some(&bos) => tokens.insert(0, bos),
            _ => {}
        }
        tokens
    }

    /// How the answer reasons to a prompt that ends within reasoning if `opened`: at most `tokens`
    /// tokens, if they are bounded, and then it ends in the way that models write it. `None`: the
    /// model does not reason.
    pub fn reasoning(&self, tokens: Option<usize>, opened: bool) -> Option<ReasoningSpec> {
        if !self.conventions.reasoning {
            return None;
        }
        let [begin, end] = REASONING_MARKS.map(str::to_string);
        let close = self.tokenizer.encode_markup(&format!("\n{end}\n\n"));
        Some(ReasoningSpec { tokens, opened, begin, end, close })
    }

    /// A token as text; where it is no text by itself, its bytes as `bytes:\xe2\x96`.
    pub fn token_name(&self, token: u32) -> String {
        let bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
        match std::str::from_utf8(&bytes) {
            Ok(text) => text.to_string(),
            Err(_) => {
                bytes.iter().fold("bytes:".to_string(), |out, byte| format!("{out}\\x{byte:02x}"))
            }
        }
    }
}
