//! Anthropic's requests as conversations.

use ferrum_models::chat::{Content, Message};
use serde_json::{Map, Value, json};

use super::anthropic::{MessagesRequest, Thinking};
use super::conversation::Conversation;
use super::params::{GenerationParams, OneOrMany};
use super::shape::{FunctionDefinition, NamedFunction, Shape, ShapeRequest, ToolChoice};
use crate::error::{ApiError, ApiResult};
use crate::model::Model;

/// The conversation of a request.
pub fn conversation(request: MessagesRequest, model: &Model) -> ApiResult<Conversation> {
    let mut messages = Vec::new();
    if let Some(system) = &request.system {
        messages.push(Message::new("system", text_of(system, "system")?));
    }
    if request.messages.is_empty() {
        return Err(ApiError::field("messages", "there is no message"));
    }
    for (i, message) in request.messages.iter().enumerate() {
        add_message(&mut messages, message, &format!("messages.{i}"))?;
    }
    if request.messages.last().is_some_and(|message| message["role"] == "assistant") {
        let field = format!("messages.{}", request.messages.len() - 1);
        return Err(ApiError::unsupported(field, "a last message to go on with (role assistant)"));
    }
    let mut extra = Map::new();
    let thinking = match &request.thinking {
        None => None,
        Some(thinking) => {
            let tokens = thinking_tokens(thinking, request.max_tokens, model)?;
            extra.insert("enable_thinking".into(), (thinking.kind == "enabled").into());
            tokens
        }
    };
    let shape = Shape::new(shape(&request)?, model)?;
    let params = GenerationParams {
        max_tokens: request.max_tokens,
        stop: request.stop_sequences.map(OneOrMany::Many),
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        ..GenerationParams::default()
    };
    Ok(Conversation {
        messages,
        shape,
        params,
        extra,
        logprobs: None,
        thinking,
        drops_turns: false,
    })
}

/// Tokens of thinking, at most, where the request says so. Some are to be left for the answer.
fn thinking_tokens(
    thinking: &Thinking,
    max_tokens: Option<usize>,
    model: &Model,
) -> ApiResult<Option<usize>> {
    match (thinking.kind.as_str(), thinking.budget_tokens) {
        ("disabled", None) => Ok(None),
        ("enabled", _) if !model.conventions.reasoning => {
            Err(ApiError::unsupported("thinking", "thinking with this model"))
        }
        ("enabled", None) => Ok(None),
        ("enabled", Some(tokens)) if tokens > 0 && max_tokens.is_none_or(|max| tokens < max) => {
            Ok(Some(tokens))
        }
        ("enabled" | "disabled", Some(_)) => {
            let field = "thinking.budget_tokens";
            let message = format!("{field} must be at least 1 and less than max_tokens");
            Err(ApiError::field(field, message))
        }
        (other, _) => Err(ApiError::unsupported("thinking.type", other)),
    }
}

fn shape(request: &MessagesRequest) -> ApiResult<ShapeRequest> {
    let mut tools = Vec::new();
    for (i, tool) in request.tools.iter().flatten().enumerate() {
        if let Some(kind) = tool.kind.as_deref().filter(|kind| *kind != "custom") {
            return Err(ApiError::unsupported(format!("tools.{i}.type"), kind));
        }
        tools.push(FunctionDefinition {
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: tool.input_schema.clone(),
            strict: None,
        });
    }
    let mut parallel = true;
    let choice = match &request.tool_choice {
        None => None,
        Some(choice) => {
            parallel = choice.disable_parallel_tool_use != Some(true);
            Some(match (choice.kind.as_str(), &choice.name) {
                ("any", None) => ToolChoice::Mode("required".into()),
                ("auto" | "none", None) => ToolChoice::Mode(choice.kind.clone()),
                ("tool", Some(name)) => ToolChoice::Named {
                    kind: "function".into(),
                    function: NamedFunction { name: name.clone() },
                },
                (other, _) => return Err(ApiError::unsupported("tool_choice.type", other)),
            })
        }
    };
    Ok(ShapeRequest { tools, choice, parallel, form: None })
}

/// The text of a string or of blocks of text.
fn text_of(content: &Value, field: &str) -> ApiResult<String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => super::messages::join_parts(blocks, field),
        _ => Err(ApiError::field(field, "expected a text or a list of blocks")),
    }
}

/// Adds what a message says; results of tools are messages of their own.
fn add_message(out: &mut Vec<Message>, message: &Value, field: &str) -> ApiResult<()> {
    let role = match message["role"].as_str() {
        Some(role @ ("user" | "assistant")) => role,
        _ => return Err(ApiError::field(format!("{field}.role"), "a role is user or assistant")),
    };
    let field = format!("{field}.content");
    let Value::Array(blocks) = &message["content"] else {
        out.push(Message::new(role, text_of(&message["content"], &field)?));
        return Ok(());
    };
    let (mut texts, mut calls, mut thinking) = (Vec::new(), Vec::new(), String::new());
    for block in blocks {
        let text = |key: &str| block[key].as_str().unwrap_or_default().to_string();
        match (block["type"].as_str().unwrap_or("a block without a type"), role) {
            ("text", _) => texts.push(text("text")),
            ("thinking", "assistant") => thinking.push_str(&text("thinking")),
            ("tool_use", "assistant") => {
                let function = json!({"name": block["name"], "arguments": block["input"]});
                let id = &block["id"];
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            ("tool_result", "user") => {
                let result = match &block["content"] {
                    Value::Null => String::new(),
                    content => text_of(content, &field)?,
                };
                let failed = block["is_error"] == true;
                let result = if failed { format!("Error: {result}") } else { result };
                let mut message = Message::new("tool", result);
                message.extra.insert("tool_call_id".into(), block["tool_use_id"].clone());
                out.push(message);
            }
            (other, _) => return Err(ApiError::unsupported(field, other)),
        }
    }
    if texts.is_empty() && calls.is_empty() && thinking.is_empty() {
        return Ok(());
    }
    let text = texts.join("\n");
    let mut message = Message::new(role, text.clone());
    if text.is_empty() && !calls.is_empty() {
        message.content = Content::Empty;
    }
    if !calls.is_empty() {
        message.extra.insert("tool_calls".into(), calls.into());
    }
    if !thinking.is_empty() {
        message.extra.insert("reasoning_content".into(), thinking.into());
    }
    out.push(message);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_that_are_errors_say_so() {
        let block = |is_error: bool| {
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a",
                "content": "no such city", "is_error": is_error}]})
        };
        let mut out = Vec::new();
        add_message(&mut out, &block(true), "messages.0").unwrap();
        add_message(&mut out, &block(false), "messages.1").unwrap();
        assert_eq!(out[0].content, Content::Text("Error: no such city".into()));
        assert_eq!(out[1].content, Content::Text("no such city".into()));
    }
}
