//! The marks around the JSON of a call, by family.

use super::{ToolFormat, call::Shape};

const SEPARATOR: &str = "<｜tool▁sep｜>";
const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";

/// The longest name of a tool, in bytes, and the longest id of a call.
const MAX_NAME: usize = 128;

/// What stands before or after the JSON of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match<T> {
    /// It is complete: so many bytes.
    Found(usize, T),
    /// More text is needed to tell.
    Open,
    /// It is something else.
    No,
}

/// How a family frames its calls.
impl ToolFormat {
    /// The mark that begins calls within text.
    pub(super) fn opening(self) -> &'static str {
        match self {
            ToolFormat::Hermes => "<tool_call>",
            ToolFormat::Llama3 => "<|python_tag|>",
            ToolFormat::Mistral | ToolFormat::MistralArgs => "[TOOL_CALLS]",
            ToolFormat::DeepSeek | ToolFormat::DeepSeek31 => "<｜tool▁calls▁begin｜>",
        }
    }

    /// Whether an answer may be a call without a mark.
    pub(super) fn bare_calls(self) -> bool {
        self == ToolFormat::Llama3
    }

    /// What stands before the JSON of the first call, [`Self::opening`] included. `end`: no more
    /// text comes.
    pub(super) fn before(self, text: &str, end: bool) -> Match<Shape> {
        let mut at = Cursor { text, at: 0, end };
        let result = at.literal(self.opening()).and_then(|()| match self {
            ToolFormat::Hermes | ToolFormat::Llama3 => at.space().map(|()| Shape::Whole),
            ToolFormat::Mistral | ToolFormat::MistralArgs => at.mistral(),
            ToolFormat::DeepSeek | ToolFormat::DeepSeek31 => {
                at.space().and_then(|()| at.deepseek())
            }
        });
        at.matched(result)
    }

    /// What stands between a call and the next one's JSON. In Mistral's lists (`list`) that is a
    /// comma.
    pub(super) fn between(self, text: &str, list: bool, end: bool) -> Match<Shape> {
        let mut at = Cursor { text, at: 0, end };
        let result = at.space().and_then(|()| match self {
            ToolFormat::Llama3 => {
                at.optional(";")?;
                at.space()?;
                at.peek("{").map(|()| Shape::Whole)
            }
            ToolFormat::Mistral | ToolFormat::MistralArgs if list => {
                at.literal(",")?;
                at.space().map(|()| Shape::Whole)
            }
            ToolFormat::DeepSeek | ToolFormat::DeepSeek31 => {
                at.deepseek_end()?;
                at.deepseek()
            }
            // A call begins like the first one.
            _ => Err(Stop::No),
        });
        at.matched(result)
    }

    /// What stands after the last call. It may be missing.
    pub(super) fn after(self, text: &str, list: bool, end: bool) -> Match<()> {
        let mut at = Cursor { text, at: 0, end };
        let result = at.space().and_then(|()| match self {
            ToolFormat::Hermes => at.literal("</tool_call>"),
            ToolFormat::Llama3 => Ok(()),
            ToolFormat::Mistral | ToolFormat::MistralArgs if list => at.literal("]"),
            ToolFormat::Mistral | ToolFormat::MistralArgs => Ok(()),
            ToolFormat::DeepSeek | ToolFormat::DeepSeek31 => {
                at.deepseek_end()?;
                at.literal(CALLS_END)
            }
        });
        at.matched(result)
    }
}

/// Why a match ends early.
enum Stop {
    Open,
    No,
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
    end: bool,
}

impl<'a> Cursor<'a> {
    fn matched<T>(&self, result: Result<T, Stop>) -> Match<T> {
        match result {
            Ok(value) => Match::Found(self.at, value),
            Err(Stop::Open) if !self.end => Match::Open,
            Err(_) => Match::No,
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Fails unless the text goes on with `literal`; does not pass it.
    fn peek(&self, literal: &str) -> Result<(), Stop> {
        let rest = self.rest();
        if rest.starts_with(literal) {
            Ok(())
        } else if literal.starts_with(rest) {
            Err(Stop::Open)
        } else {
            Err(Stop::No)
        }
    }

    fn literal(&mut self, literal: &str) -> Result<(), Stop> {
        self.peek(literal)?;
        self.at += literal.len();
        Ok(())
    }

    /// Passes `literal` if it is there.
    fn optional(&mut self, literal: &str) -> Result<bool, Stop> {
        match self.literal(literal) {
            Ok(()) => Ok(true),
            Err(Stop::Open) if !self.end => Err(Stop::Open),
            Err(_) => Ok(false),
        }
    }

    /// Passes white space; open at the end of the text, where more could come.
    fn space(&mut self) -> Result<(), Stop> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        if self.rest().is_empty() && !self.end { Err(Stop::Open) } else { Ok(()) }
    }

    /// A name: letters, digits, `_`, `-`, `.`.
    fn name(&mut self) -> Result<String, Stop> {
        let rest = self.rest();
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let len = rest.find(|c| !letter(c)).unwrap_or(rest.len());
        if len > MAX_NAME {
            return Err(Stop::No);
        }
        if len == rest.len() {
            return Err(Stop::Open);
        }
        if len == 0 {
            return Err(Stop::No);
        }
        self.at += len;
        Ok(rest[..len].to_owned())
    }

    fn mistral(&mut self) -> Result<Shape, Stop> {
        self.space()?;
        if self.rest().starts_with('[') {
            self.at += 1;
            self.space()?;
            return Ok(Shape::Whole);
        }
        if self.rest().starts_with('{') {
            return Ok(Shape::Whole);
        }
        let name = self.name()?;
        if self.optional("[CALL_ID]")? {
            self.name()?;
        }
        self.optional("[ARGS]")?;
        self.space()?;
        self.peek("{")?;
        Ok(Shape::Arguments(name))
    }

    /// `<｜tool▁call▁begin｜>`, and the name as V3 (`function<sep>name` and a block of code) or as
    /// V3.1 (`name<sep>`) has it.
    fn deepseek(&mut self) -> Result<Shape, Stop> {
        self.literal(CALL_BEGIN)?;
        let first = self.name()?;
        self.literal(SEPARATOR)?;
        self.space()?;
        if self.peek("{").is_ok() {
            return Ok(Shape::Arguments(first));
        }
        let name = self.name()?;
        self.space()?;
        self.literal("```json")?;
        self.space()?;
        self.peek("{")?;
        Ok(Shape::Arguments(name))
    }

    /// The end of a call: of the block of code, if there is one, and the mark.
    fn deepseek_end(&mut self) -> Result<(), Stop> {
        self.optional("```")?;
        self.space()?;
        self.literal(CALL_END)?;
        self.space()
    }
}
