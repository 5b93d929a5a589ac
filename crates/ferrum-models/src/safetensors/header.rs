//! The header of a safetensors file, checked against the bytes that follow it.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::dtype::Dtype;
use super::error::ParseError;

/// The longest header that is accepted, as in the format's own library.
pub const MAX_HEADER_BYTES: usize = 100_000_000;
/// More tensors than any model has.
pub(super) const MAX_TENSORS: usize = 1 << 20;
/// The longest name of a tensor.
pub(super) const MAX_NAME_BYTES: usize = 512;
/// Dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;

/// Bytes of the header's length, which the file begins with.
const LENGTH_BYTES: usize = 8;

/// A tensor that lies wholly inside its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor {
    /// Name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Type of the values.
    pub dtype: Dtype,
    /// Dimensions, outermost first; none for a single number.
    pub shape: Vec<usize>,
    /// Where the values lie in the file, in bytes from its start.
    pub range: Range<usize>,
}

/// What a file says of its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// In the order of their bytes.
    pub tensors: Vec<RawTensor>,
}

/// Reads the header of a whole file and holds it against the file.
pub fn parse(file: &[u8]) -> Result<Header, ParseError> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(ParseError::Short { len: file.len() });
    };
    let len = u64::from_le_bytes(*length);
    if len > MAX_HEADER_BYTES as u64 {
        return Err(ParseError::HeaderTooLong { len });
    }
    // Below the bound, so it fits.
    let Some((json, data)) = rest.split_at_checked(len as usize) else {
        return Err(ParseError::Truncated { len, left: rest.len() });
    };
    if json.first() != Some(&b'{') {
        return Err(ParseError::Start);
    }
    let entries: Entries =
        serde_json::from_slice(json).map_err(|e| ParseError::Json { reason: escaped(&e) })?;
    let start = LENGTH_BYTES + json.len();
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, entry) in &entries.0 {
        if !names.insert(name) {
            return Err(ParseError::Duplicate { name: name.clone() });
        }
        if let Entry::Tensor(tensor) = entry {
            tensors.push(tensor.place(name, data.len())?);
        }
    }
    tensors.sort_by_key(|t| (t.range.start, t.range.end));
    check_order(&tensors, data.len())?;
    for tensor in &mut tensors {
        tensor.range = tensor.range.start + start..tensor.range.end + start;
    }
    Ok(Header { tensors })
}

/// The tensors follow one another from the first byte of the data to the last.
fn check_order(tensors: &[RawTensor], len: usize) -> Result<(), ParseError> {
    let mut before = 0;
    for RawTensor { name, range, .. } in tensors {
        if range.start != before {
            let (name, begin) = (name.clone(), range.start);
            return Err(ParseError::NotContiguous { name, begin, before });
        }
        before = range.end;
    }
    if before == len { Ok(()) } else { Err(ParseError::Trailing { end: before, len }) }
}

/// A message without the characters that could break a line or reach the terminal.
fn escaped(error: &serde_json::Error) -> String {
    error.to_string().chars().flat_map(char::escape_debug).collect()
}

/// The header's members, in its order, double ones too.
struct Entries(Vec<(String, Entry)>);

enum Entry {
    /// `__metadata__`: texts for people.
    Metadata,
    Tensor(TensorEntry),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl TensorEntry {
    /// Checks the entry; the range is still that within the data.
    fn place(&self, name: &str, len: usize) -> Result<RawTensor, ParseError> {
        let name = || name.to_string();
        if name().is_empty() || name().len() > MAX_NAME_BYTES {
            return Err(ParseError::NameLength { len: name().len() });
        }
        let dtype = Dtype::from_name(&self.dtype)
            .ok_or_else(|| ParseError::Dtype { name: name(), dtype: self.dtype.clone() })?;
        let overflow = || ParseError::Overflow { name: name(), shape: self.shape.clone() };
        if self.shape.len() > MAX_RANK {
            return Err(ParseError::Rank { name: name(), rank: self.shape.len() });
        }
        let shape: Vec<usize> = self
            .shape
            .iter()
            .map(|d| usize::try_from(*d).map_err(|_| overflow()))
            .collect::<Result<_, _>>()?;
        // With a dimension of zero a product would hide that the others overflow.
        let elements = shape.iter().filter(|d| **d != 0).try_fold(1usize, |n, d| n.checked_mul(*d));
        let bytes = elements.and_then(|n| n.checked_mul(dtype.size())).ok_or_else(overflow)?;
        let expected = if shape.contains(&0) { 0 } else { bytes };
        let (begin, end) = self.data_offsets;
        if end > len as u64 {
            return Err(ParseError::Beyond { name: name(), end, len });
        }
        if end.checked_sub(begin) != Some(expected as u64) {
            return Err(ParseError::Size { name: name(), begin, end, expected });
        }
        // At most `len`, so both fit.
        Ok(RawTensor { name: name(), dtype, shape, range: begin as usize..end as usize })
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if entries.len() > MAX_TENSORS {
                        return Err(A::Error::custom(ParseError::TooMany));
                    }
                    let entry = match name.as_str() {
                        "__metadata__" => map.next_value_seed(Texts)?,
                        _ => Entry::Tensor(map.next_value()?),
                    };
                    entries.push((name, entry));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// `__metadata__` must be an object of texts; nothing here depends on what they say.
struct Texts;

impl<'de> DeserializeSeed<'de> for Texts {
    type Value = Entry;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Texts {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value::<String>()?;
        }
        Ok(Entry::Metadata)
    }
}
