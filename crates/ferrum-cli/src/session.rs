//! A model on this machine, opened and loaded: what most commands begin with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use ferrum_engine::{
    AdmissionError, Engine, EngineConfig, Event, FinishReason, Request, RequestId, SamplingParams,
    StopConditions, Usage, Vocabulary, same_vocabulary,
};
use ferrum_hub::{Hub, ModelRef};
use ferrum_models::chat::{ChatTemplate, Message, OwnedSegment, RenderOptions};
use ferrum_models::encoder::is_encoder;
use ferrum_models::tokenizer::{Segment, Tokenizer};
use ferrum_models::{Checkpoint, LoadOptions, arch, checkpoint, load};

use crate::config::Config;
use crate::ui::interrupt::Interrupt;
use crate::ui::progress;

/// A model's file or folder.
pub struct ModelFile {
    /// Its name in messages.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What is there, mapped.
    pub checkpoint: Box<dyn Checkpoint>,
}

/// Opens the model that `name` means, downloading it if it is not here.
pub fn open_model(name: &str, config: &Config) -> Result<ModelFile> {
    open_reference(&ModelRef::parse(name)?, config)
}

/// Opens a model, downloading it if it is not here.
pub fn open_reference(reference: &ModelRef, config: &Config) -> Result<ModelFile> {
    open_at(reference, Hub::new(config.hub.clone()).fetch(reference, &mut *progress::new(config))?)
}

/// Opens a model that is at `path`.
pub fn open_at(reference: &ModelRef, path: PathBuf) -> Result<ModelFile> {
    if is_encoder(&path)? {
        bail!("{reference} makes embeddings and generates no text: see `ferrum embed {reference}`");
    }
    let checkpoint = checkpoint::open(&path)?;
    Ok(ModelFile { name: reference.to_string(), path, checkpoint })
}

impl ModelFile {
    /// The tokenizer of the model.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = self.path.display();
        self.checkpoint.tokenizer().with_context(|| format!("{path}: the tokenizer cannot be used"))
    }
}

/// Who proposes tokens before the model says them.
pub struct Drafts {
    /// A draft model.
    pub model: Option<ModelFile>,
    /// Tokens that are proposed at once, at most.
    pub most: usize,
}

/// A loaded model that answers one prompt after the other.
pub struct Session {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    engine: Engine,
    /// Time that loading took.
    pub load_time: Duration,
}

/// How to answer.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Tokens of the answer, at most.
    pub max_tokens: Option<usize>,
}

/// An answer with what it took.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of prompt and answer.
    pub usage: Usage,
    /// From the prompt to the first token.
    pub to_first_token: Duration,
    /// From the first token to the last.
    pub generating: Duration,
}

impl Session {
    /// Loads a model for one sequence at a time. Its file, with all the metadata, is let go.
    pub fn load(file: ModelFile, options: &LoadOptions, draft: Drafts) -> Result<Self> {
        let start = Instant::now();
        let tokenizer = Arc::new(file.tokenizer()?);
        let template = ChatTemplate::from_metadata(file.checkpoint.metadata(), &tokenizer)?;
        let runner = load(&*file.checkpoint, options)
            .with_context(|| format!("cannot load {}", file.path.display()))?;
        if tokenizer.vocab_size() > runner.limits().vocab {
            bail!("{}: the tokenizer has more tokens than the model", file.path.display());
        }
        let context = runner.limits().context;
        let config =
            EngineConfig { max_running: Some(1), max_draft: draft.most, ..EngineConfig::default() };
        let vocabulary: Arc<dyn Vocabulary> = tokenizer.clone();
        let mut engine = Engine::new(runner, vocabulary, config)?;
        if let Some(file) = draft.model {
            let cannot = || format!("{} cannot propose tokens for the model", file.name);
            same_vocabulary(&tokenizer, &file.tokenizer()?).with_context(cannot)?;
            let context = Some(context.min(arch::spec(&*file.checkpoint)?.context));
            let options = LoadOptions { context, max_samples: None, ..options.for_draft() };
            let runner = load(&*file.checkpoint, &options)
                .with_context(|| format!("cannot load {}", file.path.display()))?;
            engine = engine.with_draft(runner)?;
        }
        Ok(Session { tokenizer, template, engine, load_time: start.elapsed() })
    }

    /// Whether the model has a chat template.
    pub fn can_chat(&self) -> bool {
        self.template.is_some()
    }

    /// Tokens that prompt and answer may have together.
    pub fn context(&self) -> usize {
        self.engine.max_len()
    }

    /// The tokens that ask for the next answer of a conversation.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let Some(template) = &self.template else {
            bail!("the model has no chat template; --raw continues a text without one");
        };
        let options = RenderOptions::answer(jiff::Zoned::now().datetime());
        let rendered = template.render(messages, &options)?;
        let segments: Vec<Segment<'_>> = rendered.iter().map(OwnedSegment::as_segment).collect();
        Ok(with_bos(&self.tokenizer, self.tokenizer.encode(&segments)))
    }

    /// The tokens of a text that is to be continued.
    pub fn raw_prompt(&self, text: &str) -> Vec<u32> {
        with_bos(&self.tokenizer, self.tokenizer.encode_text(text))
    }

    /// Answers a prompt; `show` gets each piece of text as it comes. Stops when `interrupt` says.
    pub fn answer(
        &mut self,
        prompt: Vec<u32>,
        options: &AnswerOptions,
        interrupt: &Interrupt,
        show: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answer> {
        let request = Request {
            prompt,
            sampling: options.sampling.clone(),
            stop: StopConditions { strings: options.stop.clone(), ..StopConditions::default() },
            max_tokens: options.max_tokens,
            ..Request::default()
        };
        let start = Instant::now();
        let id = self.engine.add(request).map_err(admission_error)?;
        let (mut first, mut last, mut whole) = (None, start, String::new());
        let _answering = interrupt.answering();
        let result = self.drive(id, interrupt, &mut |text, is_token| {
            if is_token {
                last = Instant::now();
                first.get_or_insert(last);
            }
            whole.push_str(text);
            show(text)
        });
        if result.is_err() && self.engine.cancel(id) {
            // Nothing else runs, so this only takes the report of the end out of the engine.
            let _ = self.engine.step();
        }
        let (reason, usage) = result?;
        let first = first.unwrap_or(last);
        let (to_first_token, generating) = (first - start, last - first);
        Ok(Answer { text: whole, reason, usage, to_first_token, generating })
    }

    /// Steps until the one request ends. `on_text` is told whether a token came with the text.
    fn drive(
        &mut self,
        id: RequestId,
        interrupt: &Interrupt,
        on_text: &mut dyn FnMut(&str, bool) -> Result<()>,
    ) -> Result<(FinishReason, Usage)> {
        loop {
            if interrupt.is_set() {
                self.engine.cancel(id);
            }
            for event in self.engine.step()? {
                match event {
                    Event::Prompt { .. } => {}
                    Event::Text { text, token, .. } => on_text(&text, token.is_some())?,
                    Event::Finished { reason: FinishReason::Error(why), .. } => {
                        bail!("the answer broke off: {why}")
                    }
                    Event::Finished { reason, usage, .. } => return Ok((reason, usage)),
                }
            }
        }
    }
}

/// A refused request, with what to do about it.
fn admission_error(error: AdmissionError) -> anyhow::Error {
    match error {
        AdmissionError::Context { .. } | AdmissionError::Cache { .. } => {
            anyhow!("{error}; --context makes it larger, as far as the model was trained")
        }
        other => other.into(),
    }
}

/// The prompt with the beginning-of-text token that the model wants, unless its template wrote it.
fn with_bos(tokenizer: &Tokenizer, mut tokens: Vec<u32>) -> Vec<u32> {
    match tokenizer.bos().filter(|_| tokenizer.add_bos()) {
        Some(bos) if tokens.first() != Some(&bos) => tokens.insert(0, bos),
        _ => {}
    }
    tokens
}

impl Answer {
    /// Counts and speeds in one line.
    pub fn stats(&self) -> String {
        let Usage { prompt_tokens, completion_tokens, .. } = self.usage;
        let speed = |tokens: usize, time: Duration| match time.as_secs_f64() {
            seconds if seconds > 0.0 => format!("{:.1} tokens/s", tokens as f64 / seconds),
            _ => "-".to_string(),
        };
        let reason = match &self.reason {
            FinishReason::EndOfText(_) | FinishReason::StopToken(_) => "end of text".to_string(),
            FinishReason::StopString(text) => format!("stop text {text:?}"),
            FinishReason::GrammarComplete => "complete by the grammar".to_string(),
            FinishReason::Length => "length".to_string(),
            FinishReason::Cancelled => "interrupted".to_string(),
            FinishReason::Error(why) => why.clone(),
        };
        format!(
            "prompt: {prompt_tokens} tokens, first token after {:.3} s ({}); \
             answer: {completion_tokens} tokens, {}; ended by: {reason}",
            self.to_first_token.as_secs_f64(),
            speed(prompt_tokens, self.to_first_token),
            speed(completion_tokens.saturating_sub(1), self.generating),
        )
    }
}
