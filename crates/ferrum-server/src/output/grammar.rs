//! The grammar of an answer that calls tools, or has a form, or both.

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

/// What an answer may be.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerOptions {
    /// The tools that it may call.
    pub tools: Vec<Tool>,
    /// Calls in one answer, at most.
    pub most_calls: usize,
    /// What it may be but calls.
    pub text: Text,
    /// Whether it reasons first.
    pub reasoning: Reasoning,
}

/// What an answer may be but calls.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// Nothing: at least one call must come.
    None,
    /// Text of this form, in the place of calls.
    Form(Grammar),
    /// Any words, which calls may follow.
    Words,
}

/// Whether an answer reasons before all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reasoning {
    /// It does not.
    Never,
    /// If the model likes, and has a token that begins it.
    Possible,
    /// The prompt ends within reasoning, which the answer ends first.
    Opened,
}

/// The id of the control token with a text, if the model has one.
pub type Control<'a> = dyn Fn(&str) -> Option<u32> + 'a;

/// The grammar of an answer of a model that calls tools in this format.
pub fn answer(format: ToolFormat, options: AnswerOptions, control: &Control<'_>) -> Grammar {
    let AnswerOptions { tools, most_calls, text, mut reasoning } = options;
    if reasoning == Reasoning::Possible && control(REASONING_MARKS[0]).is_none() {
        // In letters the mark is words like any others, which the lexer would not tell from it.
        reasoning = Reasoning::Never;
    }
    let (mut rules, mut parts) = (Vec::new(), Vec::new());
    let mut bodies = Vec::new();
    if !tools.is_empty() {
        let calls = Calls { format, tools: &tools, most: most_calls, control };
        if text == Text::Words {
            bodies.extend(calls.within_words(&mut rules));
        } else {
            bodies.push(calls.block("call", false));
        }
        rules.push(calls.rule("call", false));
        parts.extend(tools.iter().enumerate().map(|(index, tool)| {
            (format!("a{index}"), Grammar::JsonSchema(arguments(tool.parameters.as_ref())))
        }));
    }
    match text {
        Text::Form(form) if bodies.is_empty() && reasoning == Reasoning::Never => return form,
        Text::Form(form) => {
            bodies.push("@form".to_owned());
            parts.push(("form".to_owned(), form));
        }
        Text::Words | Text::None => {}
    }
    let begin = match reasoning {
        Reasoning::Never => "",
        Reasoning::Possible => "(opening reasoning)? ",
        Reasoning::Opened => "reasoning ",
    };
    rules.insert(0, format!("start: {begin}({})\n", bodies.join(" | ")));
    if reasoning != Reasoning::Never {
        rules.push(reasoning_rules(control));
    }
    Grammar::Framed { lark: rules.concat(), parts }
}

/// The calls of an answer.
struct Calls<'a> {
    format: ToolFormat,
    tools: &'a [Tool],
    most: usize,
    control: &'a Control<'a>,
}

impl Calls<'_> {
    /// The rule of one call. `begun`: the mark that calls begin with has come.
    fn rule(&self, name: &str, begun: bool) -> String {
        let Frame { before, open, name_end, close, .. } = frame(self.format);
        let opening = self.format.opening();
        let open = if begun && before.is_empty() { unmarked(open, opening) } else { open };
        let alternatives: Vec<String> = self
            .tools
            .iter()
            .enumerate()
            .map(|(index, tool)| {
                let name = &tool.name;
                let name = if self.format.names_in_json() { quoted(name) } else { name.to_owned() };
                let head = self.text(&format!("{open}{name}{name_end}"));
                format!("{head} @a{index} {}", self.text(close))
            })
            .collect();
        format!("{name}: {}\n", alternatives.join(" | "))
    }

    /// All calls, the first by the rule `first`. `begun`: the mark that calls begin with has come.
    fn block(&self, first: &str, begun: bool) -> String {
        let Frame { before, between, after, .. } = frame(self.format);
        let before = if begun { unmarked(before, self.format.opening()) } else { before };
        let mut terms = vec![self.text(before), first.to_owned()];
        let more = self.most.saturating_sub(1);
        if more > 0 {
            terms.push(format!("({} call){{0,{more}}}", self.text(between)));
        }
        terms.push(self.text(after));
        terms.join(" ")
    }

    /// Words without calls, and words that calls follow.
    fn within_words(&self, rules: &mut Vec<String>) -> Vec<String> {
        let opening = self.format.opening();
        let mut words = format!("/(?s:.*)/ & ~/(?s:.*{}.*)/", escaped(opening));
        let mut bodies = vec!["WORDS".to_owned(), format!("lead {}", self.block("first", true))];
        if self.format.bare_calls() {
            words.push_str(r" & ~/(?s:\s*\{.*)/");
            bodies.push(self.block("call", false));
        }
        rules.push(format!("WORDS: {words}\n"));
        rules.push(match (self.control)(opening) {
            Some(id) => format!("lead: WORDS <[{id}]>\n"),
            None => format!("lead[suffix={}]: /(?s:.*)/\n", quoted(opening)),
        });
        rules.push(self.rule("first", true));
        bodies
    }

    /// `text` as terms of a rule.
    fn text(&self, text: &str) -> String {
        terms(text, self.format, self.control)
    }
}

/// What follows the mark in a text that may begin with it.
fn unmarked<'a>(text: &'a str, mark: &str) -> &'a str {
    text.strip_prefix(mark).unwrap_or(text)
}

/// Arguments are an object, also where the schema does not say so.
fn arguments(parameters: Option<&Value>) -> Value {
    match parameters {
        None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(Value::Object(schema)) if schema.is_empty() => json!({"type": "object"}),
        Some(Value::Object(schema))
            if schema.contains_key("properties") && !schema.contains_key("type") =>
        {
            let mut schema = schema.clone();
            schema.insert("type".into(), json!("object"));
            Value::Object(schema)
        }
        Some(other) => other.clone(),
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

/// The mark that begins reasoning, and reasoning up to its end, whatever it says.
fn reasoning_rules(control: &Control<'_>) -> String {
    let [open, close] = REASONING_MARKS;
    let opening = control(open).map_or_else(|| quoted(open), |id| format!("<[{id}]>"));
    let reasoning = match control(close) {
        Some(id) => format!("reasoning: /(?s:.*)/ <[{id}]> /\\s*/\n"),
        None => format!("reasoning: body /\\s*/\nbody[suffix={}]: /(?s:.*)/\n", quoted(close)),
    };
    format!("opening: {opening}\n{reasoning}")
}

/// `text` as terms of a Lark rule: marks that are control tokens as these tokens.
fn terms(text: &str, format: ToolFormat, control: &Control<'_>) -> String {
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

/// `text` as a part of a regular expression.
fn escaped(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$/".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
