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
