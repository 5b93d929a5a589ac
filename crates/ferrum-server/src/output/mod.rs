//! What a model's text means beyond text: tool calls and reasoning.
//!
//! Models write both in the words that their chat template taught them. [`Conventions`] reads off
//! the template which ones these are, [`OutputParser`] takes the answer apart as it comes, and
//! [`grammar`] is the grammar of an answer that must call a tool.
//!
//! The text that belongs to no call comes out as content, in order and once: a call that is
//! malformed or that names an unknown tool is content too. Only white space beside the marks of
//! calls and reasoning is left out. How the answer is cut into pieces makes no difference to what
//! the deltas add up to.

mod call;
mod frame;
pub mod grammar;
mod json;
mod parser;

#[cfg(test)]
mod tests;

pub use parser::{OutputParser, ParserOptions};

/// The words in which a family of models calls tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen and others.
    Hermes,
    /// `{"name": …, "parameters": …}` as the whole answer, or after `<|python_tag|>`: Llama 3.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}, …]`: Mistral. The later
    /// `[TOOL_CALLS]name[ARGS]{…}` is read too.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`, once for each call: Mistral since 2025. The earlier form is
    /// read too.
    MistralArgs,
    /// `<｜tool▁calls▁begin｜>…` with the arguments in a block of code: DeepSeek V3 and R1. The
    /// form of V3.1 is read too.
    DeepSeek,
    /// The same with bare arguments: DeepSeek V3.1. The form of V3 is read too.
    DeepSeek31,
}

/// How a model writes what is not plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conventions {
    /// How it calls tools, if its template says so.
    pub tools: Option<ToolFormat>,
    /// Whether it may begin its answers with `<think>…</think>`.
    pub reasoning: bool,
}

impl Conventions {
    /// Reads them off the source of a chat template.
    pub fn of_template(source: &str) -> Self {
        let has = |text: &str| source.contains(text);
        let tools = if has("<｜tool▁calls▁begin｜>") || has("<｜tool▁call▁begin｜>") {
            Some(if has("```json") { ToolFormat::DeepSeek } else { ToolFormat::DeepSeek31 })
        } else if has("[TOOL_CALLS]") {
            Some(if has("[ARGS]") { ToolFormat::MistralArgs } else { ToolFormat::Mistral })
        } else if has("<tool_call>") {
            Some(ToolFormat::Hermes)
        } else if has("<|python_tag|>") || has("Environment: ipython") {
            Some(ToolFormat::Llama3)
        } else {
            None
        };
        Conventions { tools, reasoning: has("<think>") || has("</think>") }
    }
}

impl ToolFormat {
    /// The marks of calls that may be control tokens: their texts must be part of the answer's
    /// text for [`OutputParser`] to see them.
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            ToolFormat::Hermes => &["<tool_call>", "</tool_call>"],
            ToolFormat::Llama3 => &["<|python_tag|>"],
            ToolFormat::Mistral | ToolFormat::MistralArgs => {
                &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"]
            }
            ToolFormat::DeepSeek | ToolFormat::DeepSeek31 => &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁calls▁end｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁sep｜>",
            ],
        }
    }
}

/// The marks of reasoning, which may be control tokens too.
pub const REASONING_MARKS: [&str; 2] = ["<think>", "</think>"];

/// Whether a prompt ends with the beginning of reasoning, so that the answer continues it.
pub fn opens_reasoning(prompt: &str) -> bool {
    prompt.trim_end().ends_with(REASONING_MARKS[0])
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Text.
    Content(String),
    /// Reasoning.
    Reasoning(String),
    /// A call begins.
    Call {
        /// Its place among the calls of the answer, from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// The arguments of a call go on.
    Arguments {
        /// Which call.
        index: usize,
        /// JSON that follows the JSON before.
        json: String,
    },
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Its text.
    pub content: String,
    /// Its reasoning.
    pub reasoning: String,
    /// Names and arguments (JSON) of its calls.
    pub calls: Vec<(String, String)>,
}

impl Output {
    /// Adds a delta.
    pub fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Content(text) => self.content.push_str(&text),
            Delta::Reasoning(text) => self.reasoning.push_str(&text),
            Delta::Call { name, .. } => self.calls.push((name, String::new())),
            Delta::Arguments { index, json } => {
                if let Some((_, arguments)) = self.calls.get_mut(index) {
                    arguments.push_str(&json);
                }
            }
        }
    }
}
