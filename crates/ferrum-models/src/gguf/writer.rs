//! Writing GGUF files: version 3, little endian, alignment 32.
//!
//! Everything but the tensors' bytes is declared first; the bytes are then streamed, so that a
//! model never has to fit in memory.

use std::collections::HashSet;
use std::io::{self, Write};

use ferrum_kernels::Format;

use super::ggml_type;
use super::header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_KEY_LEN, MAX_NAME_LEN};
use super::metadata::Metadata;
use super::value::{Array, Value};

/// Why a GGUF file could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum WriteError {
    #[error("{0}")]
    Io(io::Error),
    #[error("metadata {key:?} is set twice")]
    DuplicateKey { key: String },
    #[error("{name:?} is no valid {what} (1 to {max} bytes)")]
    Name { name: String, what: &'static str, max: usize },
    #[error("{ALIGNMENT_KEY} cannot be set: it is always {DEFAULT_ALIGNMENT}")]
    Alignment,
    #[error("tensor {name:?} is declared twice")]
    DuplicateTensor { name: String },
    #[error("tensor {name:?} cannot be stored as {format} with dimensions {dims:?}")]
    Dimensions { name: String, format: Format, dims: Vec<usize> },
    #[error("tensor {name:?}: GGUF has no format {format}")]
    Format { name: String, format: Format },
    #[error("tensor {name:?} was written where {expected} was expected")]
    Order { name: String, expected: String },
    #[error("{given} bytes for tensor {name:?}, of which {left} are left to write")]
    TooLong { name: String, given: usize, left: usize },
    #[error("tensor {name:?} lacks {left} bytes")]
    Incomplete { name: String, left: usize },
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        WriteError::Io(error)
    }
}

/// What a file will hold: metadata, and the tensors in order.
#[derive(Debug, Default)]
pub struct GgufWriter {
    metadata: Metadata,
    tensors: Vec<Planned>,
    names: HashSet<String>,
}

/// A declared tensor.
#[derive(Debug)]
struct Planned {
    name: String,
    format: Format,
    dims: Vec<usize>,
    bytes: usize,
}

impl GgufWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry. `general.alignment` is refused: the alignment is always 32, which
    /// is what its absence means.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<(), WriteError> {
        check_name(key, "metadata key", MAX_KEY_LEN)?;
        if key == ALIGNMENT_KEY {
            return Err(WriteError::Alignment);
        }
        self.metadata
            .insert(key.to_string(), value.into())
            .map_err(|key| WriteError::DuplicateKey { key })
    }

    /// Declares the next tensor. `dims`: 1 to 4, innermost first, none zero, the first a multiple
    /// of the format's block.
    pub fn tensor(&mut self, name: &str, format: Format, dims: &[usize]) -> Result<(), WriteError> {
        check_name(name, "tensor name", MAX_NAME_LEN)?;
        let sizes_ok = matches!(dims.len(), 1..=4) && !dims.contains(&0);
        let bytes = match dims.split_first() {
            Some((cols, outer)) if sizes_ok => {
                outer.iter().try_fold(format.row_bytes(*cols), |n, d| Some(n?.checked_mul(*d)))
            }
            _ => None,
        };
        let Some(bytes) = bytes.flatten() else {
            return Err(WriteError::Dimensions {
                name: name.to_string(),
                format,
                dims: dims.to_vec(),
            });
        };
        if !self.names.insert(name.to_string()) {
            return Err(WriteError::DuplicateTensor { name: name.to_string() });
        }
        self.tensors.push(Planned { name: name.to_string(), format, dims: dims.to_vec(), bytes });
        Ok(())
    }

    /// Writes the header to `out`; the tensors' bytes follow through the [`TensorWriter`].
    pub fn start<W: Write>(self, mut out: W) -> Result<TensorWriter<W>, WriteError> {
        let mut header = Vec::new();
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                header.extend_from_slice(&(*dim as u64).to_le_bytes());
            }
            let Some(type_id) = ggml_type::type_id(tensor.format) else {
                let (name, format) = (tensor.name.clone(), tensor.format);
                return Err(WriteError::Format { name, format });
            };
            header.extend_from_slice(&type_id.to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            offset += (tensor.bytes as u64).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
        out.write_all(&header)?;
        Ok(TensorWriter { out, tensors: self.tensors, current: 0, written: 0 })
    }
}

/// Streams the tensors' bytes after the header.
#[derive(Debug)]
pub struct TensorWriter<W: Write> {
    out: W,
    tensors: Vec<Planned>,
    /// Index of the tensor being written.
    current: usize,
    /// Bytes of it that are written.
    written: usize,
}

impl<W: Write> TensorWriter<W> {
    /// Writes the next bytes of the tensor `name`, which must be the declared one whose turn it
    /// is. A tensor's bytes may come in any number of pieces.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let Some(tensor) = self.tensors.get(self.current).filter(|t| t.name == name) else {
            let expected = match self.tensors.get(self.current) {
                Some(t) => format!("tensor {:?}", t.name),
                None => "the end of the file".to_string(),
            };
            return Err(WriteError::Order { name: name.to_string(), expected });
        };
        let left = tensor.bytes - self.written;
        if bytes.len() > left {
            return Err(WriteError::TooLong { name: name.to_string(), given: bytes.len(), left });
        }
        self.out.write_all(bytes)?;
        self.written += bytes.len();
        if self.written == tensor.bytes {
            let padding = tensor.bytes.next_multiple_of(DEFAULT_ALIGNMENT as usize) - tensor.bytes;
            self.out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding])?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Ends the file and gives the output back, flushed. Fails where bytes are missing.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if let Some(tensor) = self.tensors.get(self.current) {
            return Err(WriteError::Incomplete {
                name: tensor.name.clone(),
                left: tensor.bytes - self.written,
            });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn check_name(name: &str, what: &'static str, max: usize) -> Result<(), WriteError> {
    if name.is_empty() || name.len() > max {
        return Err(WriteError::Name { name: name.to_string(), what, max });
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(&value.value_type().id().to_le_bytes());
    match value {
        Value::U8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.element_type().id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(a) => out.extend_from_slice(a),
        Array::I8(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::U64(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(a) => out.extend(a.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(a) => out.extend(a.iter().map(|v| u8::from(*v))),
        Array::String(a) => a.iter().for_each(|s| put_string(out, s)),
    }
}
