//! The chat template of a folder: `chat_template.jinja`, or in `tokenizer_config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::HfError;
use super::json::{self, Object};

/// Above what [`crate::chat`] accepts.
const MAX_BYTES: u64 = 1 << 20;

/// The template, if the folder has one; of several, the one called `default`.
pub(super) fn read(
    folder: &Path,
    tokenizer_config: &Map<String, Value>,
) -> Result<Option<String>, HfError> {
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = json::read_bytes(&path, MAX_BYTES)? {
        let text = String::from_utf8(bytes);
        return text.map(Some).map_err(|e| HfError::Json { path, reason: e.to_string() });
    }
    let config = Object(tokenizer_config);
    Ok(match config.get("chat_template") {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(all)) => {
            let named = |name: &str| {
                let found = all.iter().find(|t| t["name"] == name)?;
                found["template"].as_str().map(str::to_string)
            };
            named("default")
        }
        Some(_) => return Err(config.refuse("chat_template")),
    })
}
