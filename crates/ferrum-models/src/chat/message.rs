//! Conversations as templates see them.

use serde_json::{Map, Value};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`. Written by the program, not by its
    /// users: templates make special tokens of it (`<|user|>`).
    pub role: String,
    /// What is said.
    pub content: Content,
    /// Further fields that templates know, such as `name`, `tool_calls` or `reasoning_content`.
    pub extra: Map<String, Value>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts with a `type`, as in the OpenAI API; templates of multimodal models read them.
    Parts(Vec<Value>),
    /// Nothing, as where the assistant only calls tools.
    Empty,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: Content::Text(content.into()), extra: Map::new() }
    }

    /// The message as an object, strings by `map`.
    pub(super) fn to_value(&self, map: &mut StringMap<'_>) -> Value {
        let mut object = Map::new();
        object.insert("role".to_string(), Value::from(self.role.clone()));
        let content = match &self.content {
            Content::Text(text) => Value::from(map(Origin::Prose, text)),
            Content::Parts(parts) => parts.iter().map(|part| part_to_value(part, map)).collect(),
            Content::Empty => Value::Null,
        };
        object.insert("content".to_string(), content);
        for (key, value) in &self.extra {
            object.insert(map(Origin::Data, key), map_strings(value, map));
        }
        Value::Object(object)
    }
}

/// Where a string that templates see comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// What somebody says.
    Prose,
    /// Names, identifiers and values in data.
    Data,
}

/// Maps strings of a conversation; roles are left as they are.
pub(super) type StringMap<'a> = dyn FnMut(Origin, &str) -> String + 'a;

/// A part of a message's content, whose words are under `text`.
fn part_to_value(part: &Value, map: &mut StringMap<'_>) -> Value {
    let Value::Object(fields) = part else { return map_strings(part, map) };
    let field = |(key, value): (&String, &Value)| match value {
        Value::String(text) if key == "text" => (key.clone(), map(Origin::Prose, text).into()),
        _ => (map(Origin::Data, key), map_strings(value, map)),
    };
    Value::Object(fields.iter().map(field).collect())
}

/// `value` with all strings, keys included, by `map`.
pub(super) fn map_strings(value: &Value, map: &mut StringMap<'_>) -> Value {
    match value {
        Value::String(text) => Value::from(map(Origin::Data, text)),
        Value::Array(items) => items.iter().map(|item| map_strings(item, map)).collect(),
        Value::Object(object) => Value::Object(
            object
                .iter()
                .map(|(key, value)| (map(Origin::Data, key), map_strings(value, map)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// `value` for the template engine.
pub(super) fn jinja_value(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(truth) => minijinja::Value::from(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => minijinja::Value::from(integer),
            (None, Some(integer)) => minijinja::Value::from(integer),
            // serde_json keeps no numbers that are neither integers nor finite doubles
            (None, None) => minijinja::Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => minijinja::Value::from(text.as_str()),
        Value::Array(items) => items.iter().map(jinja_value).collect(),
        Value::Object(object) => minijinja::Value::from_pairs(
            object.iter().map(|(key, value)| (key.as_str(), jinja_value(value))),
        ),
    }
}
