//! Chat templates: from a conversation to a prompt.
//!
//! A model brings its own template (`tokenizer.chat_template`), written in Jinja for Hugging
//! Face's transformers. [`ChatTemplate::render`] gives what `apply_chat_template` gives, divided
//! into [`OwnedSegment`]s so that text of users cannot become control tokens ([`guard`]).

mod environment;
mod error;
mod guard;
mod json;
mod message;
mod methods;
mod namespaces;
mod stack;

#[cfg(test)]
mod tests;

use jiff::civil::DateTime;
use minijinja::{Environment, Value};
use regex_automata::meta::Regex;
use serde_json::{Map, Value as Json};

use crate::gguf::{GgufError, Metadata};
use crate::tokenizer::Tokenizer;

pub use error::ChatError;
pub use guard::OwnedSegment;
pub use message::{Content, Message};

use guard::{Guard, Marks};
use message::{StringMap, jinja_value, map_strings};

/// The longest template that is accepted, in bytes. Of 70 real ones, the longest has 17,000.
const MAX_SOURCE: usize = 1 << 16;

/// Work and memory of a render: an instruction costs one, data one for 64 bytes. The base is far
/// above what real templates need; input adds to it, since each byte may be copied some times.
const FUEL_BASE: u64 = 200_000;

/// Bytes of input that add one to the fuel.
const BYTES_PER_FUEL: u64 = 4;

/// The chat template of a model.
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    guard: Guard,
}

/// Why a model's template could not be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum FromMetadataError {
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error(transparent)]
    Template(#[from] ChatError),
}

/// What a prompt is rendered for.
#[derive(Debug, Clone)]
pub struct RenderOptions {
    /// Ends the prompt with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Tools that the model may call: a list of JSON schemas.
    pub tools: Option<Json>,
    /// The date and time that the template may print.
    pub now: DateTime,
    /// Further variables of the template, such as `enable_thinking`.
    pub extra: Map<String, Json>,
}

impl RenderOptions {
    /// Asks for an answer, at `now`.
    pub fn answer(now: DateTime) -> Self {
        RenderOptions { add_generation_prompt: true, tools: None, now, extra: Map::new() }
    }
}

impl ChatTemplate {
    /// Compiles `source`. `bos` and `eos` are texts that it may print, `control` the texts of all
    /// tokens that text of users must not become.
    pub fn new(
        source: &str,
        bos: &str,
        eos: &str,
        control: impl IntoIterator<Item = String>,
    ) -> Result<Self, ChatError> {
        if source.len() > MAX_SOURCE {
            return Err(ChatError::TooLong { bytes: source.len(), max: MAX_SOURCE });
        }
        let source = without_generation_tags(source)?;
        namespaces::check(&source)?;
        Ok(ChatTemplate {
            env: stack::on_large(|| environment::environment(source.clone()))?,
            source,
            bos: bos.to_string(),
            eos: eos.to_string(),
            guard: Guard::new(control.into_iter().collect())?,
        })
    }

    /// The template of a model, or `None` where it has none.
    pub fn from_metadata(
        meta: &Metadata,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, FromMetadataError> {
        let Some(source) = meta.str("tokenizer.chat_template")? else { return Ok(None) };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default();
        let template = ChatTemplate::new(
            source,
            &text(tokenizer.bos()),
            &text(tokenizer.eos()),
            tokenizer.special_texts(),
        )?;
        Ok(Some(template))
    }

    /// The template itself, in Jinja.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt of a conversation.
    ///
    /// The same prompt follows for every division of its text into segments; they only tell whose
    /// it is. Where the template writes the BOS token itself, the prompt begins with it.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<OwnedSegment>, ChatError> {
        stack::on_large(|| self.render_here(messages, options))
    }

    fn render_here(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<OwnedSegment>, ChatError> {
        let mut concerned = false;
        let input = Input::new(messages, options, &mut |origin, text| {
            concerned |= self.guard.concerns(origin, text);
            text.to_string()
        });
        let plain = self.render_input(&input, options)?;
        if !concerned {
            return Ok(vec![OwnedSegment::Markup(plain)]);
        }
        let marks = Marks::unused_in(input.strings().chain([self.source.as_str()]))?;
        let guarded =
            Input::new(messages, options, &mut |origin, text| self.guard.mark(origin, text, marks));
        let marked = self.render_input(&guarded, options)?;
        if marks.remove(&marked) != plain {
            return Err(ChatError::Ambiguous);
        }
        Ok(marks.segments(&marked))
    }

    fn render_input(&self, input: &Input, options: &RenderOptions) -> Result<String, ChatError> {
        let bytes: usize = input.strings().map(str::len).sum();
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL_BASE + bytes as u64 / BYTES_PER_FUEL));
        let mut context: Vec<(&str, Value)> = vec![
            ("bos_token", Value::from(self.bos.as_str())),
            ("eos_token", Value::from(self.eos.as_str())),
            ("documents", Value::from(())),
            ("strftime_now", environment::strftime_now(options.now)),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
            ("messages", input.messages.iter().map(jinja_value).collect()),
            ("tools", jinja_value(&input.tools)),
        ];
        context.extend(input.extra.iter().map(|(key, value)| (key.as_str(), jinja_value(value))));
        let template = env.get_template(environment::NAME).map_err(|e| environment::explain(&e))?;
        template.render(Value::from_pairs(context)).map_err(|e| environment::explain(&e))
    }
}

/// The variables of a render that come from outside.
struct Input {
    messages: Vec<Json>,
    tools: Json,
    extra: Map<String, Json>,
}

impl Input {
    /// Collects the variables, with all their strings but the roles by `map`.
    fn new(messages: &[Message], options: &RenderOptions, map: &mut StringMap<'_>) -> Self {
        let messages = messages.iter().map(|message| message.to_value(map)).collect();
        let tools = options.tools.as_ref().map_or(Json::Null, |tools| map_strings(tools, map));
        let extra = options
            .extra
            .iter()
            .map(|(key, value)| (key.clone(), map_strings(value, map)))
            .collect();
        Input { messages, tools, extra }
    }

    /// All strings of the variables, keys included.
    fn strings(&self) -> impl Iterator<Item = &str> {
        let extra = self.extra.iter().flat_map(|(_, value)| strings(value));
        self.messages.iter().chain([&self.tools]).flat_map(strings).chain(extra)
    }
}

/// All strings within `value`.
fn strings(value: &Json) -> Vec<&str> {
    match value {
        Json::String(text) => vec![text],
        Json::Array(items) => items.iter().flat_map(strings).collect(),
        Json::Object(object) => object
            .iter()
            .flat_map(|(key, value)| std::iter::once(key.as_str()).chain(strings(value)))
            .collect(),
        _ => Vec::new(),
    }
}

/// `source` with the tags that only mark the assistant's words for training (`generation`, an
/// extension of transformers) replaced by ones without effect.
fn without_generation_tags(source: &str) -> Result<String, ChatError> {
    let tag = Regex::new(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
        .map_err(|e| ChatError::Syntax(e.to_string()))?;
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    for found in tag.find_iter(source) {
        let text = &source[found.range()];
        out.push_str(&source[at..found.start()]);
        if text.contains("endgeneration") {
            out.push_str(&text.replace("endgeneration", " endif "));
        } else {
            out.push_str(&text.replace("generation", " if true "));
        }
        at = found.end();
    }
    out.push_str(&source[at..]);
    Ok(out)
}
