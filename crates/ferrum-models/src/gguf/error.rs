//! What can be wrong with a GGUF file, one line each.
//!
//! Names from the file are printed quoted and escaped, so that a hostile name cannot break the
//! line or reach the terminal.

use std::io;
use std::path::PathBuf;

use super::header::{ALIGNMENT_KEY, MAX_ENTRIES, MAX_HEADER_BYTES};

/// Why the bytes are not a GGUF file that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParseError {
    #[error("not a GGUF file: it does not begin with \"GGUF\"")]
    Magic,
    #[error("the file is big endian; only little-endian GGUF files are supported")]
    BigEndian,
    #[error("GGUF version {0} is not supported (versions 2 and 3 are)")]
    Version(u32),
    #[error("the file ends inside {what}: {need} bytes needed at offset {at}, {left} left")]
    Truncated { what: &'static str, at: usize, need: u64, left: usize },
    #[error("the header is longer than {MAX_HEADER_BYTES} bytes (at {what}, offset {at})")]
    HeaderTooLong { what: &'static str, at: usize },
    #[error("{count} {what} cannot fit in the {left} bytes that are left at offset {at}")]
    Count { what: &'static str, count: u64, at: usize, left: usize },
    #[error("{count} {what} are more than the {MAX_ENTRIES} that are accepted")]
    TooMany { what: &'static str, count: u64 },
    #[error("a {what} of {len} bytes at offset {at} (1 to {max} are allowed)")]
    NameLength { what: &'static str, len: u64, at: usize, max: usize },
    #[error("invalid UTF-8 in {what} at offset {at}")]
    Utf8 { what: &'static str, at: usize },
    #[error("metadata {key:?} has the unknown value type {id}")]
    ValueType { key: String, id: u32 },
    #[error("metadata {key:?} is a recursive array, which is not supported")]
    RecursiveArray { key: String },
    #[error("metadata {key:?} has a bool of value {byte}")]
    Bool { key: String, byte: u8 },
    #[error("metadata {key:?} appears twice")]
    DuplicateKey { key: String },
    #[error("{ALIGNMENT_KEY} is {found}; it must be a u32 that is a power of two")]
    Alignment { found: String },
    #[error("tensor {name:?} appears twice")]
    DuplicateTensor { name: String },
    #[error("tensor {name:?} has {count} dimensions (1 to 4 are allowed)")]
    DimensionCount { name: String, count: u32 },
    #[error("dimension {axis} of tensor {name:?} is zero")]
    ZeroDimension { name: String, axis: usize },
    #[error("the size of tensor {name:?} overflows: dimensions {dims:?}")]
    Overflow { name: String, dims: Vec<u64> },
    #[error("tensor {name:?} has type {type_name}, which Ferrum does not support")]
    TensorType { name: String, type_name: String },
    #[error("rows of tensor {name:?} have {cols} values, no multiple of the {block} of {format}")]
    Block { name: String, format: ferrum_kernels::Format, cols: usize, block: usize },
    #[error("tensor {name:?} begins at {offset}, no multiple of the alignment {alignment}")]
    Unaligned { name: String, offset: u64, alignment: u64 },
    #[error(
        "tensor {name:?} lies beyond the end of the file: {bytes} bytes at {start}, file of {len}"
    )]
    Beyond { name: String, bytes: u64, start: u64, len: u64 },
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap { first: String, second: String },
}

/// Why a GGUF model could not be opened, or lacks what was asked of it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum GgufError {
    #[error("{}: {reason}", path.display())]
    Io { path: PathBuf, reason: io::Error },
    #[error("{}: {reason}", path.display())]
    Parse { path: PathBuf, reason: ParseError },
    #[error("{}: not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error(
        "{}: part {} of {count} of a split model, but its name does not end in -{:05}-of-{count:05}.gguf",
        path.display(), no + 1, no + 1
    )]
    SplitName { path: PathBuf, no: u32, count: u32 },
    #[error("{}: missing (part {} of {count} of a split model)", path.display(), no + 1)]
    SplitMissing { path: PathBuf, no: u32, count: u32 },
    #[error("{}: {key} is {found}, expected {expected}", path.display())]
    SplitMismatch { path: PathBuf, key: &'static str, found: String, expected: u64 },
    #[error("the split model has {found} tensors; {} announces {expected}", path.display())]
    SplitTensors { path: PathBuf, found: usize, expected: u32 },
    #[error("tensor {name:?} is in {} and again in {}", first.display(), second.display())]
    SplitDuplicate { name: String, first: PathBuf, second: PathBuf },
    #[error("the model has no tensor {name:?}")]
    MissingTensor { name: String },
    #[error("the model has no metadata {key:?}")]
    MissingKey { key: String },
    #[error("metadata {key:?} is {found}, expected {expected}")]
    WrongType { key: String, found: String, expected: &'static str },
    #[error("metadata {key:?} is {value}, which does not fit {expected}")]
    OutOfRange { key: String, value: i128, expected: &'static str },
}
