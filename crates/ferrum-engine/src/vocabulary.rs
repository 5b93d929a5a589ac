//! What the engine asks of a tokenizer, so that its own tests need none.

use ferrum_models::tokenizer::{StreamDecoder, Tokenizer};

/// The side of a tokenizer that makes text of tokens.
pub trait Vocabulary: Send + Sync {
    /// Starts the text of one answer. Control tokens have no text, but for those of `shown`, whose
    /// names it is.
    fn detokenizer(&self, shown: &[u32]) -> Box<dyn Detokenizer>;

    /// The tokens by which the model says that its answer is complete.
    fn end_of_generation(&self) -> &[u32];
}

/// Makes the text of one answer, token by token.
pub trait Detokenizer: Send {
    /// The text that token `id` completes: whole characters only, so it may be empty.
    fn push(&mut self, id: u32) -> String;

    /// What is left once no more tokens come, such as an unfinished character as U+FFFD.
    fn finish(&mut self) -> String;
}

/// Why a model cannot propose tokens for another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyMismatch {
    /// One has more tokens.
    #[error("the draft model has {draft} tokens, the model has {own}")]
    Size {
        /// Tokens of the model.
        own: usize,
        /// Tokens of the draft model.
        draft: usize,
    },
    /// A token is another one.
    #[error("token {id} of the draft model is {draft:?}, of the model {own:?}")]
    Token {
        /// The first such token.
        id: u32,
        /// Its text in the model.
        own: String,
        /// Its text in the draft model.
        draft: String,
    },
}

/// Fails where a draft model's tokens are not those of the model that it is to propose tokens for.
pub fn same_vocabulary(own: &Tokenizer, draft: &Tokenizer) -> Result<(), VocabularyMismatch> {
    let (a, b) = (own.vocab_size(), draft.vocab_size());
    if a != b {
        return Err(VocabularyMismatch::Size { own: a, draft: b });
    }
    let text = |of: &Tokenizer, id| {
        String::from_utf8_lossy(&of.token_bytes(id).unwrap_or_default()).into_owned()
    };
    let differs =
        |&id: &u32| own.kind(id) != draft.kind(id) || own.token_bytes(id) != draft.token_bytes(id);
    match (0..a as u32).find(differs) {
        Some(id) => {
            let (own, draft) = (text(own, id), text(draft, id));
            Err(VocabularyMismatch::Token { id, own, draft })
        }
        None => Ok(()),
    }
}

impl Vocabulary for Tokenizer {
    fn detokenizer(&self, shown: &[u32]) -> Box<dyn Detokenizer> {
        Box::new(self.stream().showing(shown))
    }

    fn end_of_generation(&self) -> &[u32] {
        Tokenizer::end_of_generation(self)
    }
}

impl Detokenizer for StreamDecoder {
    fn push(&mut self, id: u32) -> String {
        StreamDecoder::push(self, id)
    }

    fn finish(&mut self) -> String {
        StreamDecoder::finish(self)
    }
}
