//! Why a model cannot be converted.

use ferrum_kernels::{Format, KernelError};

use crate::gguf::{GgufError, WriteError};
use crate::load::ModelError;
use crate::tokenizer::TokenizerError;

/// Why a model cannot be converted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ConvertError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("tensor {name:?}: {reason}")]
    Values { name: String, reason: KernelError },
    #[error(
        "tensor {name:?} is quantised already ({format}): quantising it again costs quality; \
         allow it if you mean it"
    )]
    Quantized { name: String, format: Format },
    #[error("tensor {name:?} is {format}, which GGUF has not: choose what to convert it to")]
    NotInGguf { name: String, format: Format },
    #[error("GGUF has no {what}, so the model cannot be converted")]
    NoPlace { what: String },
    #[error("the GGUF file would not be the same model: {what}")]
    Differs { what: String },
    #[error("interrupted")]
    Interrupted,
}

impl From<GgufError> for ConvertError {
    fn from(error: GgufError) -> Self {
        ConvertError::Model(error.into())
    }
}
