//! Why a conversation could not be rendered.

/// Why a chat template could not be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ChatError {
    #[error("the chat template has {bytes} bytes; at most {max} are accepted")]
    TooLong { bytes: usize, max: usize },
    #[error("the chat template uses the namespace {name:?} otherwise than by its attributes")]
    Namespace { name: String },
    #[error("the chat template is not valid: {0}")]
    Syntax(String),
    /// The template refuses the conversation (`raise_exception`).
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    #[error("the chat template does not come to an end within its budget of work and memory")]
    OutOfFuel,
    #[error("the chat template failed: {0}")]
    Failed(String),
    /// The template computes with text that looks like a special token, so that it cannot be told
    /// which part of the prompt is whose.
    #[error("a message holds text like a special token, and the chat template computes with it")]
    Ambiguous,
    #[error("the messages use every private character")]
    NoMark,
    #[error("special tokens: {0}")]
    Tokens(String),
}
