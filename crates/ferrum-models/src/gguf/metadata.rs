//! The key-value part of a header, with typed access.

use std::collections::HashMap;

use super::error::GgufError;
use super::strings::Strings;
use super::value::{Array, Value};

/// Metadata of a model: values by key, in the order of the file.
///
/// The typed getters return `Ok(None)` where the key is absent and [`GgufError::WrongType`] where
/// the value has another type; the `need_` variants make absence [`GgufError::MissingKey`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// Adds an entry; gives the key back where there is one of that name already.
    pub(crate) fn insert(&mut self, key: String, value: Value) -> Result<(), String> {
        if self.index.contains_key(&key) {
            return Err(key);
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        Ok(())
    }

    /// All entries but that of `key`.
    pub(crate) fn without(&self, key: &str) -> Metadata {
        let mut rest = Metadata::default();
        for (other, value) in self.iter().filter(|(other, _)| *other != key) {
            // Keys are different already.
            let _ = rest.insert(other.to_string(), value.clone());
        }
        rest
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|i| &self.entries[*i].1)
    }

    /// All entries, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An integer of any type whose value fits `u32`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.integer(key, "u32")
    }

    /// An integer of any type whose value fits `u64`.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.integer(key, "u64")
    }

    fn integer<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wide = value.as_integer().ok_or_else(|| wrong_type(key, value, expected))?;
        checked(key, wide, expected).map(Some)
    }

    /// A float; a double is rounded.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(v)) => Ok(Some(*v)),
            Some(Value::F64(v)) => Ok(Some(*v as f32)),
            Some(other) => Err(wrong_type(key, other, "f32")),
        }
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(wrong_type(key, other, "bool")),
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, other, "string")),
        }
    }

    /// An array of strings.
    pub fn str_array(&self, key: &str) -> Result<Option<&Strings>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(v))) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, other, "array of string")),
        }
    }

    /// An array of floats.
    pub fn f32_array(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(v))) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, other, "array of f32")),
        }
    }

    /// An array of signed integers.
    pub fn i32_array(&self, key: &str) -> Result<Option<&[i32]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::I32(v))) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, other, "array of i32")),
        }
    }

    /// An array of truth values.
    pub fn bool_array(&self, key: &str) -> Result<Option<&[bool]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Bool(v))) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, other, "array of bool")),
        }
    }

    /// An array of integers of any type whose values fit `u32`.
    pub fn u32_array(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Array(array) = value else {
            return Err(wrong_type(key, value, "array of u32"));
        };
        let converted = match array {
            Array::U8(v) => all_u32(key, v),
            Array::I8(v) => all_u32(key, v),
            Array::U16(v) => all_u32(key, v),
            Array::I16(v) => all_u32(key, v),
            Array::U32(v) => Ok(v.clone()),
            Array::I32(v) => all_u32(key, v),
            Array::U64(v) => all_u32(key, v),
            Array::I64(v) => all_u32(key, v),
            _ => Err(wrong_type(key, value, "array of u32")),
        };
        converted.map(Some)
    }

    /// [`Metadata::u32`] of a key that must be there.
    pub fn need_u32(&self, key: &str) -> Result<u32, GgufError> {
        need(key, self.u32(key)?)
    }

    /// [`Metadata::f32`] of a key that must be there.
    pub fn need_f32(&self, key: &str) -> Result<f32, GgufError> {
        need(key, self.f32(key)?)
    }

    /// [`Metadata::bool`] of a key that must be there.
    pub fn need_bool(&self, key: &str) -> Result<bool, GgufError> {
        need(key, self.bool(key)?)
    }

    /// [`Metadata::str`] of a key that must be there.
    pub fn need_str(&self, key: &str) -> Result<&str, GgufError> {
        need(key, self.str(key)?)
    }

    /// [`Metadata::str_array`] of a key that must be there.
    pub fn need_str_array(&self, key: &str) -> Result<&Strings, GgufError> {
        need(key, self.str_array(key)?)
    }

    /// [`Metadata::f32_array`] of a key that must be there.
    pub fn need_f32_array(&self, key: &str) -> Result<&[f32], GgufError> {
        need(key, self.f32_array(key)?)
    }

    /// [`Metadata::i32_array`] of a key that must be there.
    pub fn need_i32_array(&self, key: &str) -> Result<&[i32], GgufError> {
        need(key, self.i32_array(key)?)
    }
}

fn need<T>(key: &str, value: Option<T>) -> Result<T, GgufError> {
    value.ok_or_else(|| GgufError::MissingKey { key: key.to_string() })
}

fn wrong_type(key: &str, value: &Value, expected: &'static str) -> GgufError {
    GgufError::WrongType { key: key.to_string(), found: value.describe(), expected }
}

fn checked<T: TryFrom<i128>>(
    key: &str,
    value: i128,
    expected: &'static str,
) -> Result<T, GgufError> {
    T::try_from(value).map_err(|_| GgufError::OutOfRange { key: key.to_string(), value, expected })
}

fn all_u32<T: Copy + Into<i128>>(key: &str, values: &[T]) -> Result<Vec<u32>, GgufError> {
    values.iter().map(|v| checked(key, (*v).into(), "u32")).collect()
}
