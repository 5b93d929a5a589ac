//! A conversation to be answered, whatever API it came by: to requests of the engine, and the
//! parsers of their answers.

use ferrum_engine::Request;
use ferrum_models::chat::{Message, OwnedSegment, RenderOptions};
use serde_json::{Map, Value};

use super::params::GenerationParams;
use super::shape::Shape;
use super::turns;
use crate::auth::Tenant;
use crate::error::ApiResult;
use crate::model::Model;
use crate::output::{OutputParser, opens_reasoning};

/// A conversation and how its next message is to be.
pub struct Conversation {
    /// What was said.
    pub messages: Vec<Message>,
    /// The form of the answer.
    pub shape: Shape,
    /// How it is generated.
    pub params: GenerationParams,
    /// Further variables of the template.
    pub extra: Map<String, Value>,
    /// Likeliest tokens to report with each token, if any are to be reported.
    pub logprobs: Option<usize>,
    /// Tokens of reasoning, at most.
    pub thinking: Option<usize>,
    /// Whether the oldest turns are left out where all do not fit.
    pub drops_turns: bool,
}

/// Requests for the answers to a conversation.
pub struct Prepared {
    /// One for each choice.
    pub requests: Vec<Request>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    shape: Shape,
    opened: bool,
}

/// A prompt.
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Whether it ends within reasoning.
    pub opened: bool,
}

impl Conversation {
    /// The prompt by the model's template.
    pub fn prompt(&mut self, model: &Model) -> ApiResult<Prompt> {
        let mut options = RenderOptions {
            extra: std::mem::take(&mut self.extra),
            ..RenderOptions::answer(super::now())
        };
        if model.knows_tools {
            options.tools = self.shape.tools.clone();
        }
        let messages = std::mem::take(&mut self.messages);
        let room = self.params.room(model.context);
        let whole = self.render(messages.clone(), &options, model)?;
        if !self.drops_turns || whole.tokens.len() <= room {
            return Ok(whole);
        }
        let shortened =
            |dropped| self.render(turns::without_oldest(&messages, dropped), &options, model);
        turns::fewest_dropped(turns::count(&messages), room, shortened)
    }

    /// The prompt of these messages.
    fn render(
        &self,
        mut messages: Vec<Message>,
        options: &RenderOptions,
        model: &Model,
    ) -> ApiResult<Prompt> {
        if !model.knows_tools {
            messages = self.shape.without_template(messages);
        }
        let rendered = model.render(&messages, options)?;
        let opened = match model.conventions.reasoning {
            true => {
                let text: String = rendered.iter().map(OwnedSegment::text).collect();
                opens_reasoning(&text)
            }
            false => false,
        };
        let tokens = self.params.truncated(model.encode(&rendered), model.context)?;
        Ok(Prompt { tokens, opened })
    }

    /// The engine's requests; `limit` bounds the choices.
    pub fn prepare(mut self, model: &Model, tenant: &Tenant, limit: usize) -> ApiResult<Prepared> {
        let n = self.params.choices(1, limit)?;
        let Prompt { tokens, opened } = self.prompt(model)?;
        let reasoning = model.reasoning(self.thinking, opened);
        let mut requests = Vec::with_capacity(n);
        for choice in 0..n {
            let mut request = self.params.request(tokens.clone(), choice, tenant)?;
            request.logprobs = self.logprobs;
            request.reasoning = reasoning.clone();
            self.shape.apply(&mut request, model, opened)?;
            requests.push(request);
        }
        Ok(Prepared { requests, prompt_tokens: tokens.len(), shape: self.shape, opened })
    }
}

impl Prepared {
    /// Parsers of the answers. In a whole answer (not a stream) a call that breaks off is text.
    pub fn parsers(&self, model: &Model, stream: bool) -> Vec<Parser> {
        let new = || self.shape.parser(model, self.opened, !stream);
        let one = |_| Parser { parser: new(), all_calls: self.shape.takes_call(1) };
        self.requests.iter().map(one).collect()
    }
}

/// Takes one answer apart.
pub struct Parser {
    parser: OutputParser,
    all_calls: bool,
}

impl Parser {
    /// Takes the next piece; `end`: it is the last.
    pub fn push(&mut self, text: &str, end: bool) -> Vec<crate::output::Delta> {
        use crate::output::Delta;
        let mut deltas = if text.is_empty() { Vec::new() } else { self.parser.push(text) };
        if end {
            deltas.extend(self.parser.finish());
        }
        deltas.retain(|delta| match delta {
            Delta::Call { index, .. } | Delta::Arguments { index, .. } => {
                self.all_calls || *index == 0
            }
            Delta::Content(_) | Delta::Reasoning(_) => true,
        });
        deltas
    }

    /// Whether the answer calls tools.
    pub fn calls(&self) -> bool {
        self.parser.calls() > 0
    }
}
