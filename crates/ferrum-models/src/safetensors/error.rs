//! What can be wrong with a safetensors file, one line each.

use super::header::{MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};

/// Why the bytes are not a safetensors file that can be read. Names from the file are printed
/// quoted and escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParseError {
    #[error("not a safetensors file: it has {len} bytes, fewer than its first field")]
    Short { len: usize },
    #[error("a header of {len} bytes is longer than the {MAX_HEADER_BYTES} that are accepted")]
    HeaderTooLong { len: u64 },
    #[error("the file ends inside the header: {len} bytes are announced, {left} are there")]
    Truncated { len: u64, left: usize },
    #[error("not a safetensors file: the header is no JSON object")]
    Start,
    #[error("the header cannot be read: {reason}")]
    Json { reason: String },
    #[error("more than the {MAX_TENSORS} tensors that are accepted")]
    TooMany,
    #[error("a name of {len} bytes (1 to {MAX_NAME_BYTES} are allowed)")]
    NameLength { len: usize },
    #[error("{name:?} appears twice")]
    Duplicate { name: String },
    #[error("tensor {name:?} has type {dtype:?}, which Ferrum does not know")]
    Dtype { name: String, dtype: String },
    #[error("tensor {name:?} has {rank} dimensions (at most {MAX_RANK} are allowed)")]
    Rank { name: String, rank: usize },
    #[error("the size of tensor {name:?} overflows: shape {shape:?}")]
    Overflow { name: String, shape: Vec<u64> },
    #[error("tensor {name:?} has bytes {begin} to {end}, but its shape asks for {expected}")]
    Size { name: String, begin: u64, end: u64, expected: usize },
    #[error("tensor {name:?} ends at byte {end}, the file's data at {len}")]
    Beyond { name: String, end: u64, len: usize },
    #[error("tensor {name:?} begins at byte {begin}, but the one before it ends at {before}")]
    NotContiguous { name: String, begin: usize, before: usize },
    #[error("the tensors end at byte {end}, the file's data at {len}")]
    Trailing { end: usize, len: usize },
}
