//! Requests of the Responses API as conversations.

use ferrum_models::chat::Message;
use serde_json::{Map, Value, json};

use super::conversation::Conversation;
use super::form::{Form, FormRequest, JsonSchemaFormat, ResponseFormat};
use super::messages::{ChatMessage, to_messages};
use super::params::GenerationParams;
use super::responses::ResponsesRequest;
use super::shape::{FunctionDefinition, NamedFunction, Shape, ShapeRequest, ToolChoice};
use crate::error::{ApiError, ApiResult};
use crate::model::Model;

/// The conversation of a request.
pub fn conversation(request: ResponsesRequest, model: &Model) -> ApiResult<Conversation> {
    check(&request)?;
    let mut messages: Vec<Message> = Vec::new();
    if let Some(instructions) = &request.instructions {
        messages.push(Message::new("system", instructions.clone()));
    }
    match &request.input {
        Some(Value::String(text)) => messages.push(Message::new("user", text.clone())),
        Some(Value::Array(items)) => messages.extend(from_items(items)?),
        _ => return Err(ApiError::field("input", "input is a text or a list of items")),
    }
    if messages.is_empty() {
        return Err(ApiError::field("input", "there is no message"));
    }
    let shape = ShapeRequest {
        tools: request
            .tools
            .iter()
            .flatten()
            .enumerate()
            .map(function)
            .collect::<ApiResult<_>>()?,
        choice: request.tool_choice.as_ref().map(choice).transpose()?,
        parallel: request.parallel_tool_calls != Some(false),
        form: Form::new(FormRequest {
            response_format: request.text.as_ref().and_then(|t| t.format.clone()).map(format),
            ..FormRequest::default()
        })?,
    };
    let mut extra = Map::new();
    if let Some(effort) = request.reasoning.as_ref().and_then(|r| r.effort.clone()) {
        extra.insert("reasoning_effort".into(), effort.into());
    }
    let params = GenerationParams {
        max_tokens: request.max_output_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        ..GenerationParams::default()
    };
    let shape = Shape::new(shape, model)?;
    let drops_turns = request.truncation.as_deref() == Some("auto");
    Ok(Conversation { messages, shape, params, extra, logprobs: None, thinking: None, drops_turns })
}

/// What needs more than one request, or more than text.
fn check(request: &ResponsesRequest) -> ApiResult<()> {
    if request.store == Some(true) {
        return Err(ApiError::unsupported("store", "true"));
    }
    if request.background == Some(true) {
        return Err(ApiError::unsupported("background", "true"));
    }
    if let Some(other) = request.truncation.as_deref().filter(|t| !["auto", "disabled"].contains(t))
    {
        return Err(ApiError::unsupported("truncation", other));
    }
    if let Some(other) = request.include.iter().flatten().next() {
        return Err(ApiError::unsupported("include", other));
    }
    if let Some(summary) = request.reasoning.as_ref().and_then(|r| r.summary.as_deref()) {
        return Err(ApiError::unsupported("reasoning.summary", summary));
    }
    Ok(())
}

/// Items as messages. Calls belong to the assistant's message before them.
fn from_items(items: &[Value]) -> ApiResult<Vec<Message>> {
    let mut messages: Vec<Value> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let field = format!("input.{i}");
        match item["type"].as_str().unwrap_or("message") {
            "message" => {
                messages.push(json!({"role": item["role"], "content": item["content"]}));
            }
            "function_call" => {
                let function = json!({"name": item["name"], "arguments": item["arguments"]});
                let call = json!({"id": item["call_id"], "type": "function", "function": function});
                match messages.last_mut() {
                    Some(last) if last["role"] == "assistant" => match &mut last["tool_calls"] {
                        Value::Array(calls) => calls.push(call),
                        none => *none = json!([call]),
                    },
                    _ => messages.push(json!({"role": "assistant", "tool_calls": [call]})),
                }
            }
            "function_call_output" => {
                let (id, output) = (&item["call_id"], &item["output"]);
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
            }
            "reasoning" => {
                let parts = item["content"].as_array().into_iter().flatten();
                let text: String = parts.filter_map(|part| part["text"].as_str()).collect();
                if !text.is_empty() {
                    messages.push(json!({"role": "assistant", "reasoning_content": text}));
                }
            }
            other => return Err(ApiError::unsupported(format!("{field}.type"), other)),
        }
    }
    let parse = |(i, message): (usize, Value)| {
        serde_json::from_value::<ChatMessage>(message)
            .map_err(|error| ApiError::field(format!("input.{i}"), error.to_string()))
    };
    to_messages(messages.into_iter().enumerate().map(parse).collect::<ApiResult<_>>()?)
}

fn function((i, tool): (usize, &Value)) -> ApiResult<FunctionDefinition> {
    let kind = tool["type"].as_str().unwrap_or("a tool without a type");
    if kind != "function" {
        return Err(ApiError::unsupported(format!("tools.{i}.type"), kind));
    }
    serde_json::from_value(tool.clone())
        .map_err(|error| ApiError::field(format!("tools.{i}"), error.to_string()))
}

fn choice(value: &Value) -> ApiResult<ToolChoice> {
    match (value.as_str(), value["type"].as_str(), value["name"].as_str()) {
        (Some(mode), ..) => Ok(ToolChoice::Mode(mode.into())),
        (None, Some("function"), Some(name)) => Ok(ToolChoice::Named {
            kind: "function".into(),
            function: NamedFunction { name: name.into() },
        }),
        _ => Err(ApiError::unsupported("tool_choice", &value.to_string())),
    }
}

/// Here the schema stands beside the type.
fn format(mut format: Map<String, Value>) -> ResponseFormat {
    let kind = format.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
    let schema = format.remove("schema");
    let json_schema =
        (kind == "json_schema").then(|| JsonSchemaFormat { schema, ..JsonSchemaFormat::default() });
    ResponseFormat { kind, json_schema }
}
