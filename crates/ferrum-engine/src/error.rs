//! The errors of this crate.

use ferrum_models::KernelError;

use crate::sampler::ParamError;

/// Why a request was refused. Nothing of it was kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdmissionError {
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The request asks for no answer.
    #[error("max_tokens must be at least 1")]
    NoTokens,
    /// The prompt holds a token that the model does not have.
    #[error("the prompt holds token {token}, outside the vocabulary of {vocab}")]
    Vocabulary {
        /// The token.
        token: u32,
        /// Tokens that the model has.
        vocab: usize,
    },
    /// Prompt and answer together are longer than the model's context.
    #[error(
        "a prompt of {prompt} tokens and an answer of up to {max_tokens} exceed the context of \
         {context} tokens"
    )]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the answer that were asked for.
        max_tokens: usize,
        /// Tokens that a sequence may have.
        context: usize,
    },
    /// Prompt and answer together would not fit the KV cache, even alone.
    #[error(
        "a prompt of {prompt} tokens and an answer of up to {max_tokens} exceed the KV cache, \
         which holds {cache} tokens"
    )]
    Cache {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the answer that were asked for.
        max_tokens: usize,
        /// Tokens that a sequence may have when it has the cache to itself.
        cache: usize,
    },
    /// A sampling parameter is out of its range.
    #[error(transparent)]
    Sampling(#[from] ParamError),
    /// More alternatives are asked for with each token than are given.
    #[error("logprobs may be at most {most}, not {asked}")]
    Logprobs {
        /// Alternatives asked for.
        asked: usize,
        /// [`crate::request::MAX_LOGPROBS`]
        most: usize,
    },
    /// The end of reasoning is to be forced by no token.
    #[error("reasoning is limited, but no token ends it")]
    Reasoning,
    /// The model has no such adapter.
    #[error("adapter {number} is asked for, of {adapters}")]
    Adapter {
        /// Asked for.
        number: u32,
        /// Those that there are.
        adapters: usize,
    },
    /// A stop string has no characters.
    #[error("a stop string is empty")]
    EmptyStopString,
    /// The constraint was compiled for another model.
    #[error("the constraint is of a vocabulary of {tokens} tokens, the model's has {vocab}")]
    Constraint {
        /// Tokens that the constraint knows.
        tokens: usize,
        /// Tokens that the model has.
        vocab: usize,
    },
}

/// Why the engine could not start or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The sizes of the runner or of the configuration do not allow a single request.
    #[error("the engine cannot work with {what}")]
    Limits {
        /// The size and its value.
        what: String,
    },
    /// The model failed. The step counts as not run.
    #[error("the model could not run a step: {0}")]
    Model(#[from] KernelError),
    /// The model returned another number of logits than the step asked for.
    #[error("the model returned {got} logits for {rows} rows of {vocab}")]
    Logits {
        /// Rows that the step asked for.
        rows: usize,
        /// Logits in a row.
        vocab: usize,
        /// Logits that came.
        got: usize,
    },
}
