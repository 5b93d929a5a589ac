//! Safetensors files: a JSON header with the place of every tensor, then their bytes.
//!
//! The format is that of the `safetensors` repository's README. Files are taken to be hostile: the
//! header is bounded by [`MAX_HEADER_BYTES`], and the tensors must fill the rest of the file exactly,
//! without gaps or overlaps, each in the size that its shape and type say.

mod dtype;
mod error;
mod header;

#[cfg(test)]
mod tests;

pub use dtype::Dtype;
pub use error::ParseError;
pub use header::{Header, MAX_HEADER_BYTES, RawTensor, parse};
