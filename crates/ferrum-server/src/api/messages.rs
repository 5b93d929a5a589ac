//! Messages of a conversation, from the OpenAI API's form to the templates'.

use ferrum_models::chat::{Content, Message};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};

/// A message.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: String,
    /// What is said: a text or a list of parts.
    pub content: Option<Value>,
    /// Who of several.
    pub name: Option<String>,
    /// The assistant's calls.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that this message answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought.
    #[serde(alias = "reasoning")]
    pub reasoning_content: Option<String>,
    /// In the place of `content`.
    pub refusal: Option<String>,
    /// Comments on the assistant's text, which no template reads.
    pub annotations: Option<Value>,
}

/// A call of a tool, in an assistant's message.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct ToolCall {
    /// Names the call.
    pub id: Option<String>,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Place among the calls, in streams.
    pub index: Option<usize>,
    /// What is called.
    pub function: FunctionCall,
}

/// What is called, and with what.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// JSON as a text.
    pub arguments: String,
}

/// The conversation for a template.
pub fn to_messages(messages: Vec<ChatMessage>) -> ApiResult<Vec<Message>> {
    messages.into_iter().enumerate().map(|(i, message)| to_message(i, message)).collect()
}

fn to_message(index: usize, message: ChatMessage) -> ApiResult<Message> {
    let field = |name: &str| format!("messages.{index}.{name}");
    // Templates make special tokens of roles, so that only known ones may pass.
    let role = match message.role.as_str() {
        role @ ("system" | "user" | "assistant" | "tool") => role,
        // The newer name for the same thing; templates know the older one.
        "developer" => "system",
        other => {
            let message = format!(
                "the role {other:?} is not one of system, developer, user, assistant, tool"
            );
            return Err(ApiError::field(field("role"), message));
        }
    };
    let content = match message.content {
        Some(Value::String(text)) => Content::Text(text),
        Some(Value::Array(parts)) => Content::Text(join_parts(&parts, &field("content"))?),
        None | Some(Value::Null) => match message.refusal {
            Some(refusal) => Content::Text(refusal),
            None if role == "assistant" => Content::Empty,
            None => return Err(ApiError::field(field("content"), "the message has no content")),
        },
        Some(_) => {
            return Err(ApiError::field(field("content"), "content is a text or a list of parts"));
        }
    };
    let mut extra = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            extra.insert(name.into(), value);
        }
    };
    set("name", message.name.map(Value::from));
    set("tool_call_id", message.tool_call_id.map(Value::from));
    set("reasoning_content", message.reasoning_content.map(Value::from));
    let calls = message.tool_calls.filter(|calls| !calls.is_empty());
    set("tool_calls", calls.map(|calls| calls.into_iter().map(call_for_template).collect()));
    Ok(Message { role: role.into(), content, extra })
}

/// The texts of parts, one below the other.
pub fn join_parts(parts: &[Value], field: &str) -> ApiResult<String> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("a part without a type");
        let text = match kind {
            "text" | "input_text" | "output_text" => part.get("text"),
            "refusal" => part.get("refusal"),
            other => return Err(ApiError::unsupported(field, other)),
        };
        let Some(text) = text.and_then(Value::as_str) else {
            return Err(ApiError::field(field, format!("a part of type {kind} has no text")));
        };
        texts.push(text);
    }
    Ok(texts.join("\n"))
}

/// Templates take the arguments as an object; the API has them as a text.
fn call_for_template(call: ToolCall) -> Value {
    let FunctionCall { name, arguments } = call.function;
    let arguments = match serde_json::from_str::<Value>(&arguments) {
        Ok(value @ Value::Object(_)) => value,
        _ => Value::from(arguments),
    };
    let function = json!({"name": name, "arguments": arguments});
    json!({"id": call.id, "type": "function", "function": function})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: Value) -> ApiResult<Message> {
        to_message(3, serde_json::from_value(json).unwrap())
    }

    #[test]
    fn parts_become_text() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let got = message(json!({"role": "developer", "content": parts})).unwrap();
        assert_eq!(got, Message::new("system", "a\nb"));
    }

    #[test]
    fn calls_have_objects() {
        let call = json!({"id": "c1", "type": "function",
            "function": {"name": "f", "arguments": "{\"x\": 1}"}});
        let got = message(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
        let got = got.unwrap();
        assert_eq!(got.content, Content::Empty);
        assert_eq!(got.extra["tool_calls"][0]["function"]["arguments"]["x"], 1);
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for json in [
            json!({"role": "root", "content": "x"}),
            json!({"role": "user"}),
            json!({"role": "user", "content": 5}),
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
            json!({"role": "user", "content": [{"type": "text"}]}),
        ] {
            let error = message(json.clone()).unwrap_err();
            assert!(error.param.unwrap().starts_with("messages.3."), "{json}");
        }
    }
}
