//! From bytes to a [`Header`]: magic, version, metadata and tensor descriptions.

use std::collections::HashSet;

use super::cursor::{Cursor, Number};
use super::error::ParseError;
use super::metadata::Metadata;
use super::strings::Strings;
use super::tensor::RawTensor;
use super::value::{Array, Value, ValueType};

/// Bytes that a header may have. Vocabularies of half a million tokens need about 30 MB.
pub const MAX_HEADER_BYTES: usize = 128 << 20;

/// Metadata entries and tensors that a file may have, each. Real models have a few thousand.
pub const MAX_ENTRIES: u64 = 1 << 16;

/// The longest metadata key in bytes, by the specification.
pub(super) const MAX_KEY_LEN: usize = (1 << 16) - 1;

/// The longest tensor name in bytes, by the specification.
pub(super) const MAX_NAME_LEN: usize = 64;

/// The metadata key of the alignment of tensor data, a u32.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// Alignment of tensor data where [`ALIGNMENT_KEY`] is absent.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// The smallest metadata entry: length of the key, a byte of key, type, a byte of value.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 1;

/// The smallest tensor description: length of the name, a byte of name, number of dimensions, one
/// dimension, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// The header of one GGUF file: everything before the tensor data.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Keys and values.
    pub metadata: Metadata,
    /// Tensors, in the order of the file. Their types may be ones that Ferrum cannot run.
    pub tensors: Vec<RawTensor>,
    /// Every tensor begins at a multiple of this, counted from `data_start`. A power of two.
    pub alignment: u64,
    /// Offset in the file at which tensor data begins.
    pub data_start: u64,
}

/// Reads the header of a GGUF file. `file` may end after the header: whether the tensors lie
/// inside the file is checked by [`Header::layout`].
pub fn parse(file: &[u8]) -> Result<Header, ParseError> {
    let mut c = Cursor::new(file);
    if c.take(4, "the magic").ok() != Some(b"GGUF".as_slice()) {
        return Err(ParseError::Magic);
    }
    let version = c.number::<u32>("the version")?;
    match version {
        2 | 3 => {}
        v if matches!(v.swap_bytes(), 1..=3) => return Err(ParseError::BigEndian),
        v => return Err(ParseError::Version(v)),
    }
    let tensor_count = limited(c.number("the tensor count")?, "tensors")?;
    let entry_count = limited(c.number("the metadata count")?, "metadata entries")?;

    let metadata = read_metadata(&mut c, entry_count)?;
    let alignment = alignment(&metadata)?;
    let tensors = read_tensors(&mut c, tensor_count)?;

    // The header ends below MAX_HEADER_BYTES and the alignment below 2^32: no overflow.
    let data_start = (c.at() as u64).next_multiple_of(alignment);
    Ok(Header { version, metadata, tensors, alignment, data_start })
}

/// `count`, if it is not above [`MAX_ENTRIES`].
fn limited(count: u64, what: &'static str) -> Result<u64, ParseError> {
    if count > MAX_ENTRIES { Err(ParseError::TooMany { what, count }) } else { Ok(count) }
}

fn alignment(metadata: &Metadata) -> Result<u64, ParseError> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(a)) if a.is_power_of_two() => Ok(u64::from(*a)),
        Some(Value::U32(a)) => Err(ParseError::Alignment { found: a.to_string() }),
        Some(other) => Err(ParseError::Alignment { found: other.describe() }),
    }
}

fn read_metadata(c: &mut Cursor<'_>, count: u64) -> Result<Metadata, ParseError> {
    c.check_count(count, MIN_ENTRY_BYTES, "metadata entries")?;
    let mut metadata = Metadata::default();
    for _ in 0..count {
        let key = c.name(MAX_KEY_LEN, "metadata key")?;
        let id = c.number::<u32>("a value type")?;
        let value = read_value(c, &key, id)?;
        if let Err(key) = metadata.insert(key, value) {
            return Err(ParseError::DuplicateKey { key });
        }
    }
    Ok(metadata)
}

fn read_value(c: &mut Cursor<'_>, key: &str, type_id: u32) -> Result<Value, ParseError> {
    const WHAT: &str = "a metadata value";
    Ok(match value_type(key, type_id)? {
        ValueType::U8 => Value::U8(c.number(WHAT)?),
        ValueType::I8 => Value::I8(c.number(WHAT)?),
        ValueType::U16 => Value::U16(c.number(WHAT)?),
        ValueType::I16 => Value::I16(c.number(WHAT)?),
        ValueType::U32 => Value::U32(c.number(WHAT)?),
        ValueType::I32 => Value::I32(c.number(WHAT)?),
        ValueType::U64 => Value::U64(c.number(WHAT)?),
        ValueType::I64 => Value::I64(c.number(WHAT)?),
        ValueType::F32 => Value::F32(c.number(WHAT)?),
        ValueType::F64 => Value::F64(c.number(WHAT)?),
        ValueType::Bool => Value::Bool(bool_of(key, c.number(WHAT)?)?),
        ValueType::String => Value::String(c.str("a metadata string")?.to_string()),
        ValueType::Array => {
            let element = value_type(key, c.number(WHAT)?)?;
            let count = c.number::<u64>("an array length")?;
            Value::Array(read_array(c, key, element, count)?)
        }
    })
}

fn read_array(
    c: &mut Cursor<'_>,
    key: &str,
    element: ValueType,
    count: u64,
) -> Result<Array, ParseError> {
    const WHAT: &str = "array elements";
    Ok(match element {
        ValueType::U8 => Array::U8(c.numbers(count, WHAT)?),
        ValueType::I8 => Array::I8(c.numbers(count, WHAT)?),
        ValueType::U16 => Array::U16(c.numbers(count, WHAT)?),
        ValueType::I16 => Array::I16(c.numbers(count, WHAT)?),
        ValueType::U32 => Array::U32(c.numbers(count, WHAT)?),
        ValueType::I32 => Array::I32(c.numbers(count, WHAT)?),
        ValueType::U64 => Array::U64(c.numbers(count, WHAT)?),
        ValueType::I64 => Array::I64(c.numbers(count, WHAT)?),
        ValueType::F32 => Array::F32(c.numbers(count, WHAT)?),
        ValueType::F64 => Array::F64(c.numbers(count, WHAT)?),
        ValueType::Bool => {
            let bytes = c.numbers::<u8>(count, WHAT)?;
            Array::Bool(bytes.into_iter().map(|b| bool_of(key, b)).collect::<Result<_, _>>()?)
        }
        ValueType::String => {
            let mut strings = Strings::with_capacity(c.check_count(count, u64::SIZE, WHAT)?);
            for _ in 0..count {
                strings.push(c.str("an array string")?);
            }
            strings.shrink_to_fit();
            Array::String(strings)
        }
        ValueType::Array => return Err(ParseError::RecursiveArray { key: key.to_string() }),
    })
}

fn value_type(key: &str, id: u32) -> Result<ValueType, ParseError> {
    ValueType::from_id(id).ok_or_else(|| ParseError::ValueType { key: key.to_string(), id })
}

fn bool_of(key: &str, byte: u8) -> Result<bool, ParseError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        byte => Err(ParseError::Bool { key: key.to_string(), byte }),
    }
}

fn read_tensors(c: &mut Cursor<'_>, count: u64) -> Result<Vec<RawTensor>, ParseError> {
    let capacity = c.check_count(count, MIN_TENSOR_BYTES, "tensors")?;
    let mut tensors = Vec::with_capacity(capacity);
    let mut names = HashSet::with_capacity(capacity);
    for _ in 0..count {
        let tensor = read_tensor(c)?;
        if !names.insert(tensor.name.clone()) {
            return Err(ParseError::DuplicateTensor { name: tensor.name });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor(c: &mut Cursor<'_>) -> Result<RawTensor, ParseError> {
    const WHAT: &str = "a tensor description";
    let name = c.name(MAX_NAME_LEN, "tensor name")?;
    let count = c.number::<u32>(WHAT)?;
    if !matches!(count, 1..=4) {
        return Err(ParseError::DimensionCount { name, count });
    }
    let dims = c.numbers::<u64>(u64::from(count), WHAT)?;
    if let Some(axis) = dims.iter().position(|d| *d == 0) {
        return Err(ParseError::ZeroDimension { name, axis });
    }
    if dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).is_none() {
        return Err(ParseError::Overflow { name, dims });
    }
    let type_id = c.number(WHAT)?;
    let offset = c.number(WHAT)?;
    Ok(RawTensor { name, dims, type_id, offset })
}
