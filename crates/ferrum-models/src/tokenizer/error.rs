//! Why a tokenizer could not be built.

use std::path::PathBuf;

use crate::gguf::GgufError;
use crate::hf::HfError;

/// Why the tokenizer of a model could not be built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum TokenizerError {
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error(transparent)]
    Folder(#[from] HfError),
    #[error("{}: missing, and no other kind of tokenizer file is supported", path.display())]
    NoFile { path: PathBuf },
    #[error("tokenizer.json: {reason}")]
    Json { reason: String },
    #[error("tokenizer.json: {what} {kind:?} is not supported")]
    Unsupported { what: &'static str, kind: String },
    #[error("tokenizer model {0:?} is not supported (gpt2, llama and bert are)")]
    UnknownModel(String),
    #[error("pre-tokenizer {0:?} is not supported")]
    UnknownPreTokenizer(String),
    #[error("pattern {pattern:?}: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("the vocabulary is empty")]
    Empty,
    #[error("a vocabulary of {tokens} tokens and {bytes} bytes is too large")]
    TooLarge { tokens: usize, bytes: usize },
    #[error("metadata {key:?} has {found} values for {tokens} tokens")]
    Length { key: &'static str, found: usize, tokens: usize },
    #[error("tokens {first} and {second} are both {text:?}")]
    Duplicate { first: u32, second: u32, text: String },
    #[error("token {id} has the unknown type {value}")]
    TokenType { id: u32, value: i32 },
    #[error("token {id} has {bytes} bytes, more than any that is known")]
    LongToken { id: u32, bytes: usize },
    #[error("token {id} has the score {value}")]
    Score { id: u32, value: f32 },
    #[error("byte token {id} is {text:?}, expected <0xNN>")]
    ByteToken { id: u32, text: String },
    #[error("metadata {key:?} is {id}, but the vocabulary has {tokens} tokens")]
    SpecialId { key: &'static str, id: u32, tokens: usize },
    #[error("metadata {flag:?} asks for a token that {id_key:?} does not give")]
    MissingSpecial { flag: &'static str, id_key: &'static str },
    #[error("merge {index} ({text:?}) is not two tokens that make a third")]
    Merge { index: usize, text: String },
    #[error("no token for byte {byte:#04x} and no unknown token")]
    MissingByte { byte: u8 },
    #[error("the vocabulary has no unknown token")]
    MissingUnknown,
}
