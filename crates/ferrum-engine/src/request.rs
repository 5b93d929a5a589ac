//! What comes in and what is told of it: requests, their ends, their counts.

use std::fmt;

use ferrum_models::draw::MOST_LOGPROBS;
pub use ferrum_models::draw::TokenLogprobs;

use crate::{constraint::Constraint, reasoning::ReasoningSpec, sampler::SamplingParams};

/// Names a request for as long as the engine lives. Ids grow in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.0)
    }
}

/// A prompt to continue.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// Token ids of the prompt, the beginning-of-text token included where the model wants one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// What ends the answer, besides its length.
    pub stop: StopConditions,
    /// Most tokens of the answer; `None`: as many as context and KV cache hold. 0 is for
    /// [`Request::prompt_logprobs`] alone: the prompt is scored and nothing is sampled.
    pub max_tokens: Option<usize>,
    /// Reports the log-probability of each token of the answer, and those of this many likeliest
    /// tokens in its place; at most [`MAX_LOGPROBS`].
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt, in [`crate::Event::Prompt`]. Such a prompt is read
    /// in full, whatever is cached, in chunks of as many tokens as a step can return logits for.
    pub prompt_logprobs: Option<usize>,
    /// Requests share computed prefixes only with those of the same salt. One for each tenant
    /// keeps a tenant from learning by timing what another has asked.
    pub cache_salt: u64,
    /// Number of the adapter that the model has for this request: [`Runner::adapters`]. Computed
    /// prefixes are shared only with requests of the same one.
    ///
    /// [`Runner::adapters`]: ferrum_models::Runner::adapters
    pub adapter: u32,
    /// Control tokens whose names are part of the answer's text, such as the marks of tool calls.
    pub shown_tokens: Vec<u32>,
    /// How the answer may reason.
    pub reasoning: Option<ReasoningSpec>,
    /// The grammar of the answer, compiled for this model's vocabulary.
    pub constraint: Option<Constraint>,
}

/// Alternatives that a request may ask for with each token.
pub const MAX_LOGPROBS: usize = MOST_LOGPROBS;

/// What ends an answer, besides its length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopConditions {
    /// The answer is cut where the first of these strings is complete; the string is not part of
    /// it.
    pub strings: Vec<String>,
    /// Tokens that end the answer without being part of its text.
    pub tokens: Vec<u32>,
    /// Goes on after the model's own end-of-generation tokens.
    pub ignore_eos: bool,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, by this end-of-generation token.
    EndOfText(u32),
    /// A token of [`StopConditions::tokens`] came.
    StopToken(u32),
    /// This string of [`StopConditions::strings`] came.
    StopString(String),
    /// The answer is complete by [`Request::constraint`].
    GrammarComplete,
    /// It has [`Request::max_tokens`] tokens.
    Length,
    /// The caller gave it up.
    Cancelled,
    /// It could not go on, for this reason. Other requests are not concerned.
    Error(String),
}

/// Tokens that a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that were sampled, the one that ended the answer included.
    pub completion_tokens: usize,
    /// Tokens of the prompt that were not computed for this request: others had them in the cache.
    pub cached_tokens: usize,
    /// Of the sampled tokens, those of reasoning, where the request says how answers reason.
    pub reasoning_tokens: usize,
}
