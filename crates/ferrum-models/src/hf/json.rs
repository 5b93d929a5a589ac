//! JSON files of bounded size and depth, and typed access to their members.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::HfError;

/// The longest `config.json`, index or `tokenizer_config.json` that is accepted. Indices of the
/// largest models have some megabytes.
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// Reads a file of at most `max` bytes; `None` where there is none.
pub(crate) fn read_bytes(path: &Path, max: u64) -> Result<Option<Vec<u8>>, HfError> {
    let io = |reason| HfError::Io { path: path.to_path_buf(), reason };
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io)?,
    };
    if !metadata.is_file() {
        return Err(HfError::NotAFile { path: path.to_path_buf() });
    }
    if metadata.len() > max {
        return Err(HfError::TooLong { path: path.to_path_buf(), bytes: metadata.len(), max });
    }
    fs::read(path).map(Some).map_err(io)
}

/// Reads a JSON file; `None` where there is none. Depth is bounded by serde_json (128).
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, HfError> {
    let Some(bytes) = read_bytes(path, MAX_BYTES)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let reason = error.to_string().chars().flat_map(char::escape_debug).collect();
            Err(HfError::Json { path: path.to_path_buf(), reason })
        }
    }
}

/// An object of `config.json`, with typed access. Members that are null count as absent.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a>(pub &'a Map<String, Value>);

impl<'a> Object<'a> {
    /// The member, unless it is null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// An error that names the member and its value.
    pub fn refuse(&self, key: &str) -> HfError {
        let value = self.get(key).map_or("null".into(), Value::to_string);
        HfError::Setting { key: key.into(), value: value.chars().take(100).collect() }
    }

    /// Refuses members that have another value than the JSON text beside them; those that are not
    /// there are fine.
    pub fn refuse_unless(&self, neutral: &[(&str, &str)]) -> Result<(), HfError> {
        for (key, neutral) in neutral {
            let Some(value) = self.get(key) else { continue };
            let same = match value {
                Value::Number(n) => n.as_f64() == neutral.parse().ok(),
                other => serde_json::from_str::<Value>(neutral).is_ok_and(|n| n == *other),
            };
            if !same {
                return Err(self.refuse(key));
            }
        }
        Ok(())
    }

    fn typed<T>(
        &self,
        key: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, HfError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.refuse(key)),
        }
    }

    /// A whole number.
    pub fn count(&self, key: &str) -> Result<Option<u32>, HfError> {
        self.typed(key, |v| u32::try_from(v.as_u64()?).ok())
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, HfError> {
        self.typed(key, |v| v.as_f64().filter(|n| n.is_finite() && n.abs() <= f32::MAX.into()))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, HfError> {
        self.typed(key, Value::as_bool)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, HfError> {
        self.typed(key, Value::as_str)
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, HfError> {
        self.typed(key, |v| v.as_object().map(Object))
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>, HfError> {
        self.typed(key, |v| v.as_array().map(Vec::as_slice))
    }

    /// A list of finite numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, HfError> {
        let number = |v: &Value| v.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
        self.typed(key, |v| v.as_array()?.iter().map(number).collect())
    }
}
