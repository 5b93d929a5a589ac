//! Why a grammar is refused, and why an answer could not go on within one.

use std::time::Duration;

/// Why a grammar was refused. All but [`ConstraintError::Busy`] and
/// [`ConstraintError::Vocabulary`] are the sender's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// It is larger than is accepted.
    #[error("the grammar has {size} {what}; at most {max} are accepted")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        size: usize,
        /// How many there may be.
        max: usize,
    },
    /// A part of a schema that could not be enforced.
    #[error("the schema's `{keyword}` at `{place}` cannot be enforced: {reason}")]
    Unsupported {
        /// The keyword.
        keyword: String,
        /// JSON pointer to the schema that holds it.
        place: String,
        /// Why.
        reason: String,
    },
    /// It is malformed, contradicts itself, or is too complex.
    #[error("the grammar cannot be used: {reason}")]
    Invalid {
        /// In words.
        reason: String,
    },
    /// It takes too long to compile.
    #[error("the grammar takes more than {limit:?} to compile")]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// Too many grammars are being compiled.
    #[error("too many grammars are being compiled; try again")]
    Busy,
    /// The model's vocabulary does not allow constraints.
    #[error("this model's vocabulary cannot be constrained: {reason}")]
    Vocabulary {
        /// Why.
        reason: String,
    },
}

/// Why an answer could not go on within its grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the grammar stopped the answer: {0}")]
pub struct ConstraintFailure(pub(super) String);

/// The first line of an error of llguidance, at most 300 characters of it.
pub(super) fn summary(error: &str) -> String {
    let line = error.split("\n<").next().unwrap_or_default().trim();
    let mut text: String = line.chars().take(300).collect();
    if text.len() < line.len() {
        text.push('…');
    }
    text
}
