//! Why a text has no vector.

use ferrum_kernels::KernelError;

/// Why a text could not be embedded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum EmbedError {
    #[error("a text of {tokens} tokens is longer than the {limit} that the model takes")]
    TooLong { tokens: usize, limit: usize },
    #[error("a text without tokens")]
    Empty,
    #[error("token {id} is not in the vocabulary of {vocab}")]
    Token { id: u32, vocab: usize },
    #[error("{asked} dimensions, but the model's vectors have {have}")]
    Dimensions { asked: usize, have: usize },
    #[error(transparent)]
    Kernel(#[from] KernelError),
}
