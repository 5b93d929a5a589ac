//! Texts to the tokens that a model takes.

use std::path::Path;

use super::source::{Files, Source};
use super::{EmbedError, Sentence};
use crate::load::ModelError;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Texts to token ids, with the limits of a model.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    sentence: Sentence,
    max_tokens: usize,
    vocab: usize,
    /// Of a model that scores pairs: whether it tells the texts apart by their kinds.
    pairs: Option<bool>,
}

/// What goes through the network at once: a text or a pair of texts, as tokens.
pub trait Input: Send + Sync + 'static {
    /// All tokens.
    fn ids(&self) -> &[u32];
    /// Those of kind 0, at the start; the rest is of kind 1.
    fn first(&self) -> usize;
}

impl Input for Vec<u32> {
    fn ids(&self) -> &[u32] {
        self
    }

    fn first(&self) -> usize {
        self.len()
    }
}

impl Input for Pair {
    fn ids(&self) -> &[u32] {
        &self.ids
    }

    fn first(&self) -> usize {
        self.first
    }
}

/// Two texts as the tokens of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The tokens of both, with those around them.
    pub ids: Vec<u32>,
    /// Tokens of kind 0: those of the first text and of the second too where the model does not tell
    /// them apart; the rest is of kind 1.
    pub first: usize,
}

impl TextEncoder {
    /// Reads the tokenizer and the settings of the model at `path`; `context` as in
    /// [`crate::LoadOptions`].
    pub fn open(path: &Path, context: Option<usize>) -> Result<Self, ModelError> {
        let source = Source::open(path, context)?;
        let (tokenizer, vocab) = (source.tokenizer()?, source.vocab());
        let Source { files, sentence, max_tokens, classifier } = source;
        let kinds = matches!(&files, Files::Encoder(spec) if spec.kinds() > 1);
        let pairs = classifier.map(|_| kinds);
        if pairs.is_some() && tokenizer.between().is_none() {
            let kind = "that does not join pairs of texts".into();
            return Err(TokenizerError::Unsupported { what: "post-processor", kind }.into());
        }
        Ok(TextEncoder { tokenizer, sentence, max_tokens, vocab, pairs })
    }

    /// Whether the model scores pairs of texts (a cross-encoder), and makes no vectors.
    pub fn scores_pairs(&self) -> bool {
        self.pairs.is_some()
    }

    /// Tokens of the longest text, special ones included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The tokens of a text with those around it. One that is too long is cut where `truncate`, at
    /// its end and before the token that closes it, else refused.
    pub fn encode(&self, text: &str, truncate: bool) -> Result<Vec<u32>, EmbedError> {
        let mut ids: Vec<u32> = self.opening().into_iter().collect();
        ids.extend(self.plain(&self.sentence.prompt, text));
        let end = self.closing();
        let tokens = ids.len() + usize::from(end.is_some());
        if tokens > self.max_tokens {
            if !truncate {
                return Err(EmbedError::TooLong { tokens, limit: self.max_tokens });
            }
            ids.truncate(self.max_tokens - usize::from(end.is_some()));
        }
        ids.extend(end);
        Ok(ids)
    }

    /// The tokens of two texts, with those around and between them: `[CLS] first [SEP] second [SEP]`
    /// (Devlin et al. 2018, arXiv:1810.04805), or `<s> first </s></s> second </s>` in RoBERTas. Where
    /// they are too long together they are cut if `truncate`, token by token the longer one, as the
    /// tokenizers of transformers do it (`longest_first`); else refused.
    pub fn encode_pair(
        &self,
        first: &str,
        second: &str,
        truncate: bool,
    ) -> Result<Pair, EmbedError> {
        let (mut a, mut b) = (self.plain("", first), self.plain("", second));
        let (open, close) = (self.opening(), self.closing());
        let between = self.tokenizer.between().unwrap_or_default();
        let around = open.iter().len() + between.len() + close.iter().len();
        let tokens = a.len() + b.len() + around;
        if tokens > self.max_tokens {
            let room = self.max_tokens.saturating_sub(around);
            if !truncate || room < 2 {
                return Err(EmbedError::TooLong { tokens, limit: self.max_tokens });
            }
            let (first, second) = longest_first(a.len(), b.len(), room);
            a.truncate(first);
            b.truncate(second);
        }
        let between = between.iter().copied();
        let mut ids: Vec<u32> = open.into_iter().chain(a).chain(between).collect();
        let first = ids.len();
        ids.extend(b.into_iter().chain(close));
        let kinds = self.pairs.unwrap_or(false);
        Ok(Pair { first: if kinds { first } else { ids.len() }, ids })
    }

    fn opening(&self) -> Option<u32> {
        self.tokenizer.bos().filter(|_| self.tokenizer.add_bos())
    }

    fn closing(&self) -> Option<u32> {
        self.tokenizer.eos().filter(|_| self.tokenizer.add_eos())
    }

    /// The tokens of a text alone. Special tokens count where a text spells them, as in
    /// sentence-transformers: there is no conversation here whose parts they could forge.
    fn plain(&self, prompt: &str, text: &str) -> Vec<u32> {
        let text = match (prompt.is_empty(), self.sentence.lowercase) {
            (true, false) => std::borrow::Cow::Borrowed(text),
            (_, false) => format!("{prompt}{text}").into(),
            (_, true) => format!("{prompt}{text}").to_lowercase().into(),
        };
        self.tokenizer.encode_markup(&text)
    }

    /// Token ids that someone else made, as they are: held against the vocabulary and the limit, and
    /// cut at their end where `truncate`.
    pub fn accept(&self, ids: &[u32], truncate: bool) -> Result<Vec<u32>, EmbedError> {
        if ids.is_empty() {
            return Err(EmbedError::Empty);
        }
        if let Some(&id) = ids.iter().find(|id| **id as usize >= self.vocab) {
            return Err(EmbedError::Token { id, vocab: self.vocab });
        }
        if ids.len() > self.max_tokens && !truncate {
            return Err(EmbedError::TooLong { tokens: ids.len(), limit: self.max_tokens });
        }
        Ok(ids[..ids.len().min(self.max_tokens)].to_vec())
    }
}

/// What is left of two texts of `a` and `b` tokens where there is room for less: the longer one is
/// cut first, and keeps the odd token; of equal ones the second.
fn longest_first(a: usize, b: usize, room: usize) -> (usize, usize) {
    let short = a.min(b).min(room / 2);
    if a <= b { (short, room - short) } else { (room - short, short) }
}

#[cfg(test)]
mod tests {
    use super::longest_first;

    #[test]
    fn the_longer_text_is_cut() {
        for (a, b, room, left) in [
            (3, 10, 8, (3, 5)),
            (10, 3, 8, (5, 3)),
            (10, 10, 8, (4, 4)),
            (10, 10, 9, (4, 5)),
            (4, 9, 8, (4, 4)),
            (5, 9, 9, (4, 5)),
            (9, 5, 9, (5, 4)),
            (9, 6, 9, (5, 4)),
            (0, 9, 8, (0, 8)),
        ] {
            assert_eq!(longest_first(a, b, room), left, "{a} and {b} in {room}");
        }
    }
}
