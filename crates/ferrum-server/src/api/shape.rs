//! What an answer may be: tools that it may call, and the form that its text must have.

use ferrum_engine::{Grammar, Request};
use ferrum_models::chat::{Content, Message};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::form::Form;
use crate::error::{ApiError, ApiResult};
use crate::model::Model;
use crate::output::grammar::{AnswerOptions, Reasoning, Text, Tool, answer};
use crate::output::{OutputParser, ParserOptions, REASONING_MARKS, ToolFormat};

/// Tools of a request, and calls of an answer, at most.
const MAX_TOOLS: usize = 128;
const MAX_CALLS: usize = 16;

/// A tool that the model may call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ToolDefinition {
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: Option<FunctionDefinition>,
}

/// A function that the model may call.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct FunctionDefinition {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub parameters: Option<Value>,
    /// Whether the arguments follow the schema also where the model is free to call. Where a call
    /// is demanded (`tool_choice`) they always do.
    pub strict: Option<bool>,
}

/// Whether tools are called.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "expected \"none\", \"auto\", \"required\" or a function")]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// This one.
    Named {
        /// Always `function`.
        #[serde(rename = "type")]
        kind: String,
        /// Which.
        function: NamedFunction,
    },
}

/// A function by its name.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct NamedFunction {
    /// The name.
    pub name: String,
}

/// What a request says of the form of its answer.
#[derive(Debug, Clone, Default)]
pub struct ShapeRequest {
    /// The tools.
    pub tools: Vec<FunctionDefinition>,
    /// Which of them.
    pub choice: Option<ToolChoice>,
    /// Whether several calls may come in one answer.
    pub parallel: bool,
    /// The form of the text.
    pub form: Option<Form>,
}

/// The form of an answer, checked.
#[derive(Debug, Clone)]
pub struct Shape {
    /// For the template.
    pub tools: Option<Value>,
    must: Must,
    format: ToolFormat,
    functions: Vec<FunctionDefinition>,
    parallel: bool,
}

/// What must come.
#[derive(Debug, Clone)]
enum Must {
    /// Anything.
    Nothing,
    /// Anything, but with calls that follow the schemas of strict functions.
    StrictCalls,
    /// A call of one of the functions.
    Call,
    /// Text of a form, or a call of one of the functions.
    Text(Form),
}

/// The functions of tools.
pub fn functions(tools: Vec<ToolDefinition>) -> ApiResult<Vec<FunctionDefinition>> {
    let one = |(i, tool): (usize, ToolDefinition)| match tool.function {
        Some(function) if tool.kind == "function" => Ok(function),
        None if tool.kind == "function" => {
            let field = format!("tools.{i}.function");
            Err(ApiError::field(field, "the function is missing"))
        }
        _ => Err(ApiError::unsupported(format!("tools.{i}.type"), &tool.kind)),
    };
    tools.into_iter().enumerate().map(one).collect()
}

impl FunctionDefinition {
    fn is_strict(&self) -> bool {
        self.strict == Some(true)
    }
}

impl Shape {
    /// Checks what a request says.
    pub fn new(request: ShapeRequest, model: &Model) -> ApiResult<Self> {
        let ShapeRequest { tools, choice, parallel, form } = request;
        check_tools(&tools)?;
        let (functions, must_call) = chosen(tools, choice)?;
        let must = match (must_call, form) {
            (true, _) => Must::Call,
            (false, Some(form)) => Must::Text(form),
            (false, None) if functions.iter().any(FunctionDefinition::is_strict) => {
                Must::StrictCalls
            }
            (false, None) => Must::Nothing,
        };
        let described = functions.iter().map(|f| {
            let mut function = Map::new();
            function.insert("name".into(), f.name.clone().into());
            function.insert("description".into(), f.description.clone().unwrap_or_default().into());
            let parameters = f.parameters.clone();
            let parameters =
                parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
            function.insert("parameters".into(), parameters);
            json!({"type": "function", "function": function})
        });
        let described: Vec<Value> = described.collect();
        Ok(Shape {
            tools: (!described.is_empty()).then_some(Value::Array(described)),
            must,
            format: model.conventions.tools.unwrap_or(ToolFormat::Hermes),
            functions,
            parallel,
        })
    }

    /// The constraint of the answer to `prompt`, and the tokens that its text must show.
    pub fn apply(&self, request: &mut Request, model: &Model, opened: bool) -> ApiResult<()> {
        let (text, param) = match &self.must {
            Must::Nothing => (None, "tools"),
            Must::StrictCalls => (Some(Text::Words), "tools"),
            Must::Call => (Some(Text::None), "tools"),
            Must::Text(form) => (Some(Text::Form(form.grammar.clone())), form.param),
        };
        if let Some(text) = text {
            let grammar = self.grammar(text, model, opened);
            request.constraint = Some(model.compile(&grammar, param)?);
        }
        let mut marks: Vec<&str> = Vec::new();
        if !self.functions.is_empty() {
            marks.extend(self.format.marks());
        }
        if model.conventions.reasoning {
            marks.extend(REASONING_MARKS);
        }
        request.shown_tokens =
            marks.iter().filter_map(|mark| model.tokenizer.special(mark)).collect();
        Ok(())
    }

    fn grammar(&self, text: Text, model: &Model, opened: bool) -> Grammar {
        let all_strict = matches!(self.must, Must::Call);
        let tool = |f: &FunctionDefinition| Tool {
            name: f.name.clone(),
            parameters: match all_strict || f.is_strict() {
                true => f.parameters.clone(),
                false => Some(json!({"type": "object"})),
            },
        };
        let options = AnswerOptions {
            tools: self.functions.iter().map(tool).collect(),
            most_calls: if self.parallel { MAX_CALLS } else { 1 },
            reasoning: match (opened, &text) {
                (true, _) => Reasoning::Opened,
                (false, Text::Words) if model.conventions.reasoning => Reasoning::Possible,
                (false, _) => Reasoning::Never,
            },
            text,
        };
        answer(self.format, options, &|text| model.tokenizer.special(text))
    }

    /// A parser of one answer to a prompt that ends within reasoning if `opened`. `whole_calls`:
    /// calls come when they are complete.
    pub fn parser(&self, model: &Model, opened: bool, whole_calls: bool) -> OutputParser {
        OutputParser::new(ParserOptions {
            tools: (!self.functions.is_empty()).then_some(self.format),
            names: self.functions.iter().map(|f| f.name.clone()).collect(),
            // What has a form does not reason, unless the prompt does.
            reasoning: model.conventions.reasoning
                && (opened || !matches!(self.must, Must::Text(_))),
            opened,
            whole_calls,
        })
    }

    /// Whether the call of this place is part of the answer.
    pub fn takes_call(&self, index: usize) -> bool {
        self.parallel || index == 0
    }

    /// The conversation for a template that knows nothing of tools: they are described to the
    /// model in the words of the Hermes format, and calls and their results become text.
    pub fn without_template(&self, messages: Vec<Message>) -> Vec<Message> {
        let mut out: Vec<Message> = messages.into_iter().map(plain_message).collect();
        let Some(tools) = &self.tools else { return out };
        let text = instructions(tools);
        match out.first_mut() {
            Some(Message { role, content: Content::Text(system), .. }) if role == "system" => {
                system.push_str("\n\n");
                system.push_str(&text);
            }
            _ => out.insert(0, Message::new("system", text)),
        }
        out
    }
}

/// What a model is told of its tools where its template does not tell it.
fn instructions(tools: &Value) -> String {
    let list: Vec<String> = tools.as_array().into_iter().flatten().map(Value::to_string).collect();
    format!(
        "You can call functions. Their signatures are:\n<tools>\n{}\n</tools>\nTo call one, answer \
         with its name and arguments as JSON:\n<tool_call>\n{{\"name\": \"...\", \"arguments\": \
         {{...}}}}\n</tool_call>",
        list.join("\n")
    )
}

/// A message whose calls and results are text.
fn plain_message(mut message: Message) -> Message {
    let text = |content: &Content| match content {
        Content::Text(text) => text.clone(),
        Content::Parts(_) | Content::Empty => String::new(),
    };
    if message.role == "tool" {
        let result = format!("<tool_response>\n{}\n</tool_response>", text(&message.content));
        return Message::new("user", result);
    }
    if let Some(Value::Array(calls)) = message.extra.remove("tool_calls") {
        let mut parts = vec![text(&message.content)];
        parts.retain(|part| !part.is_empty());
        parts.extend(calls.iter().map(|c| format!("<tool_call>\n{}\n</tool_call>", c["function"])));
        message.content = Content::Text(parts.join("\n"));
    }
    message
}

fn check_tools(tools: &[FunctionDefinition]) -> ApiResult<()> {
    if tools.len() > MAX_TOOLS {
        return Err(ApiError::field("tools", format!("at most {MAX_TOOLS} tools")));
    }
    for (i, tool) in tools.iter().enumerate() {
        let name = &tool.name;
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(letters) {
            let message = "a function's name has 1 to 64 letters, digits, '_', '-' or '.'";
            return Err(ApiError::field(format!("tools.{i}.function.name"), message));
        }
        if tools[..i].iter().any(|other| other.name == *name) {
            let message = format!("two functions are called {name}");
            return Err(ApiError::field(format!("tools.{i}.function.name"), message));
        }
        if tool.parameters.as_ref().is_some_and(|p| !p.is_object()) {
            let field = format!("tools.{i}.function.parameters");
            return Err(ApiError::field(field, "the parameters are not a JSON schema object"));
        }
    }
    Ok(())
}

/// The functions that may be called, and whether one must be.
fn chosen(
    tools: Vec<FunctionDefinition>,
    choice: Option<ToolChoice>,
) -> ApiResult<(Vec<FunctionDefinition>, bool)> {
    let refuse = |message: &str| Err(ApiError::field("tool_choice", message));
    match choice {
        None => Ok((tools, false)),
        Some(ToolChoice::Mode(mode)) => match mode.as_str() {
            "auto" => Ok((tools, false)),
            "none" => Ok((Vec::new(), false)),
            "required" if tools.is_empty() => refuse("there is no tool to call"),
            "required" => Ok((tools, true)),
            other => Err(ApiError::unsupported("tool_choice", other)),
        },
        Some(ToolChoice::Named { kind, function }) => {
            if kind != "function" {
                return Err(ApiError::unsupported("tool_choice.type", &kind));
            }
            let named: Vec<_> = tools.into_iter().filter(|f| f.name == function.name).collect();
            if named.is_empty() {
                refuse("it names no function of tools")
            } else {
                Ok((named, true))
            }
        }
    }
}
