//! The grammar of an answer that must call tools (`tool_choice` required or named).

use ferrum_engine::Grammar;
use serde_json::{Value, json};

use super::{REASONING_MARKS, ToolFormat};

/// A tool that the answer may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments; `None`: it takes none.
    pub parameters: Option<Value>,
}

/// What the answer is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallOptions {
    /// Most calls; at least one must come.
    pub most: usize,
    /// The prompt ends within reasoning, which the answer ends first.
    pub reasoning_opened: bool,
}

/// The grammar of an answer that calls some of `tools`, which may not be empty. `control` gives
/// the id of the control token with a text, if the model has one.
pub fn calls(
    format: ToolFormat,
    tools: &[Tool],
    options: CallOptions,
    control: &dyn Fn(&str) -> Option<u32>,
) -> Grammar {
    let Frame { before, open, name_end, close, between, after } = frame(format);
    let text = |text: &str| terms(text, format, control);
    let alternatives: Vec<String> = tools
        .iter()
        .enumerate()
        .map(|(index, tool)| {
            let name = if format.names_in_json() { quoted(&tool.name) } else { tool.name.clone() };
            let head = text(&format!("{open}{name}{name_end}"));
            format!("{head} @a{index} {}", text(close))
        })
        .collect();
    let more = options.most.saturating_sub(1);
    let mut start = vec![text(before), "call".to_owned()];
    if more > 0 {
        start.push(format!("({} call){{0,{more}}}", text(between)));
    }
    start.push(text(after));
    if options.reasoning_opened {
        start.insert(0, "reasoning".to_owned());
    }
    let mut lark = format!("start: {}\ncall: {}\n", start.join(" "), alternatives.join(" | "));
    if options.reasoning_opened {
        lark.push_str(&reasoning(control));
    }
    let none = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    let schemas = tools.iter().enumerate().map(|(index, tool)| {
        (format!("a{index}"), tool.parameters.as_ref().map_or_else(none, arguments))
    });
    Grammar::LarkWithSchemas { lark, schemas: schemas.collect() }
}

/// Arguments are an object, also where the schema does not say so.
fn arguments(parameters: &Value) -> Value {
    match parameters {
        Value::Object(schema) if schema.is_empty() => json!({"type": "object"}),
        Value::Object(schema)
            if schema.contains_key("properties") && !schema.contains_key("type") =>
        {
            let mut schema = schema.clone();
            schema.insert("type".into(), json!("object"));
            Value::Object(schema)
        }
        other => other.clone(),
    }
}

/// The texts around names and arguments.
struct Frame {
    before: &'static str,
    open: &'static str,
    name_end: &'static str,
    close: &'static str,
    between: &'static str,
    after: &'static str,
}

fn frame(format: ToolFormat) -> Frame {
    match format {
        ToolFormat::Hermes => Frame {
            before: "",
            open: "<tool_call>\n{\"name\": ",
            name_end: ", \"arguments\": ",
            close: "}\n</tool_call>",
            between: "\n",
            after: "",
        },
        ToolFormat::Llama3 => Frame {
            before: "",
            open: "{\"name\": ",
            name_end: ", \"parameters\": ",
            close: "}",
            between: "; ",
            after: "",
        },
        ToolFormat::Mistral => Frame {
            before: "[TOOL_CALLS][",
            open: "{\"name\": ",
            name_end: ", \"arguments\": ",
            close: "}",
            between: ", ",
            after: "]",
        },
        ToolFormat::MistralArgs => Frame {
            before: "",
            open: "[TOOL_CALLS]",
            name_end: "[ARGS]",
            close: "",
            between: "",
            after: "",
        },
        ToolFormat::DeepSeek => Frame {
            before: "<｜tool▁calls▁begin｜>",
            open: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            name_end: "\n```json\n",
            close: "\n```<｜tool▁call▁end｜>",
            between: "\n",
            after: "<｜tool▁calls▁end｜>",
        },
        ToolFormat::DeepSeek31 => Frame {
            before: "<｜tool▁calls▁begin｜>",
            open: "<｜tool▁call▁begin｜>",
            name_end: "<｜tool▁sep｜>",
            close: "<｜tool▁call▁end｜>",
            between: "",
            after: "<｜tool▁calls▁end｜>",
        },
    }
}

impl ToolFormat {
    /// Whether the name of a tool stands as a string in JSON.
    fn names_in_json(self) -> bool {
        matches!(self, ToolFormat::Hermes | ToolFormat::Llama3 | ToolFormat::Mistral)
    }
}

/// Reasoning up to its end, whatever it says.
fn reasoning(control: &dyn Fn(&str) -> Option<u32>) -> String {
    let [_, close] = REASONING_MARKS;
    match control(close) {
        Some(id) => format!("reasoning: /(?s:.*)/ <[{id}]> /\\s*/\n"),
        None => format!("reasoning: body /\\s*/\nbody[suffix={}]: /(?s:.*)/\n", quoted(close)),
    }
}

/// `text` as terms of a Lark rule: marks that are control tokens as these tokens.
fn terms(text: &str, format: ToolFormat, control: &dyn Fn(&str) -> Option<u32>) -> String {
    let mut terms = Vec::new();
    let mut plain = 0;
    let mut at = 0;
    while at < text.len() {
        let mark = format.marks().iter().find(|mark| text[at..].starts_with(**mark));
        if let Some((mark, id)) = mark.and_then(|mark| Some((mark, control(mark)?))) {
            terms.push(quoted(&text[plain..at]));
            terms.push(format!("<[{id}]>"));
            at += mark.len();
            plain = at;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    terms.push(quoted(&text[plain..]));
    terms.retain(|term| term != "\"\"");
    if terms.is_empty() { "\"\"".to_owned() } else { terms.join(" ") }
}

/// A string of Lark, which is one of JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
