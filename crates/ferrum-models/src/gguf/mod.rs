//! GGUF files: metadata and tensors, memory-mapped, split files too.
//!
//! [`Gguf::open`] maps a model and checks everything that the loader relies on. [`parse`] is the
//! layer below: it turns bytes into a [`Header`] and accepts tensor types that Ferrum cannot run,
//! so that a listing can still show them. [`GgufWriter`] writes such files.
//!
//! The format is that of the GGUF specification (`docs/gguf.md` of the ggml repository), versions
//! 2 and 3, little endian. Files are taken to be hostile: every count and length is held against
//! the bytes that are left before memory is allocated for it.
//!
//! Memory for the header is bounded: at most [`MAX_HEADER_BYTES`] of a file are read as header,
//! and metadata entries and tensors are at most [`MAX_ENTRIES`] each. Once read, no
//! array takes more memory than twice its bytes in the file.

mod cursor;
mod error;
mod ggml_type;
mod header;
mod memory;
mod metadata;
mod model;
mod split;
mod strings;
mod tensor;
mod value;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{GgufError, ParseError};
pub use header::{Header, MAX_ENTRIES, MAX_HEADER_BYTES, parse};
pub(crate) use memory::vocabulary_bytes;
pub use metadata::Metadata;
pub use model::{Gguf, read_header};
pub use strings::Strings;
pub use tensor::{RawTensor, TensorInfo};
pub use value::{Array, Value, ValueType};
pub use writer::{GgufWriter, TensorWriter, WriteError};
