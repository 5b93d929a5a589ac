//! Unigram: of all ways to cut a text into tokens, the one with the highest sum of scores.
//!
//! Source: Kudo, "Subword Regularization", 2018, arXiv:1804.10959, as Hugging Face's `tokenizers` does it
//! (`encode_optimized`): scores and sums in `f64`, and of two ways with one sum, that whose last token is
//! longer. A character that is no token costs more than any token, and neighbours of that kind are one
//! unknown token.

use super::error::TokenizerError;
use super::pretokenize::PreTokenizer;
use super::trie::Trie;
use super::vocab::{TokenKind, Vocabulary};

/// How much less than the lowest score of a token a character costs that is none.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Unigram of one model.
pub(super) struct Unigram {
    words: PreTokenizer,
    trie: Trie,
    /// By token.
    scores: Vec<f64>,
    /// Of a character that is no token.
    unknown_score: f64,
    unknown: u32,
    /// Tokens of bytes, which spell what is unknown.
    bytes: [Option<u32>; 256],
}

/// What a [`Unigram`] is made of.
pub(super) struct Parts<'a> {
    /// How a text is cut first.
    pub words: PreTokenizer,
    /// Texts of the file's tokens, in the order of their numbers.
    pub texts: Vec<&'a str>,
    /// Their scores.
    pub scores: Vec<f64>,
    pub unknown: Option<u32>,
    /// What is unknown is spelled in bytes.
    pub byte_fallback: bool,
}

/// The best way to cut a word up to some place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// The last token of it.
    token: u32,
    /// Where that begins; [`NOWHERE`] where no way is known yet.
    start: usize,
}

/// No place of a text.
const NOWHERE: usize = usize::MAX;

impl Unigram {
    /// Fails where a score is no number, where a token is longer than any is, and without an unknown token.
    pub fn new(vocab: &Vocabulary, parts: Parts<'_>) -> Result<Self, TokenizerError> {
        let Parts { words, texts, scores, unknown, byte_fallback } = parts;
        if let Some((id, score)) = (0..).zip(&scores).find(|(_, score)| !score.is_finite()) {
            return Err(TokenizerError::Score { id, value: *score as f32 });
        }
        let unknown = unknown.ok_or(TokenizerError::MissingUnknown)?;
        // Special tokens are found in markup, and not made of text.
        let is_text = |id: u32| {
            matches!(vocab.kind(id), TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte)
        };
        let tokens = texts.iter().zip(0..).filter(|(_, id)| is_text(*id));
        let trie = Trie::new(tokens.map(|(text, id)| (text.as_bytes(), id)).collect())?;
        let lowest = scores.iter().fold(f64::INFINITY, |low, score| low.min(*score));
        let unknown_score = lowest - UNKNOWN_PENALTY;
        let mut bytes = [None; 256];
        for id in vocab.of_kind(&[TokenKind::Byte]).filter(|_| byte_fallback) {
            // The builder of the vocabulary has turned the text of byte tokens into the byte.
            if let [byte] = vocab.bytes(id) {
                bytes[usize::from(*byte)] = Some(id);
            }
        }
        Ok(Unigram { words, trie, scores, unknown_score, unknown, bytes })
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let (mut best, mut cuts) = (Vec::new(), Vec::new());
        for word in self.words.split(text) {
            let word = &text[word];
            self.find_best(word, &mut best);
            // From the end to the start; neighbours that are unknown are one.
            let (mut end, mut after) = (word.len(), None);
            cuts.clear();
            while end > 0 {
                let Best { token, start, .. } = best[end];
                match cuts.last_mut() {
                    Some((last, _)) if token == self.unknown && after == Some(token) => {
                        *last = start;
                    }
                    _ => cuts.push((start, end)),
                }
                (end, after) = (start, Some(token));
            }
            for (start, end) in cuts.iter().rev() {
                self.push(&word[*start..*end], out);
            }
        }
    }

    /// Fills `best` for every place of `word`.
    fn find_best(&self, word: &str, best: &mut Vec<Best>) {
        let none = Best { score: 0.0, token: self.unknown, start: NOWHERE };
        best.clear();
        best.resize(word.len() + 1, none);
        for (start, c) in word.char_indices() {
            let before = best[start].score;
            let mut reach = |len: usize, token: u32, score: f64| {
                let (score, there) = (before + score, &mut best[start + len]);
                if there.start == NOWHERE || score > there.score {
                    *there = Best { score, token, start };
                }
            };
            let mut is_token = false;
            for (len, id) in self.trie.prefixes(&word.as_bytes()[start..]) {
                is_token |= len == c.len_utf8();
                reach(len, id, self.scores[id as usize]);
            }
            if !is_token {
                reach(c.len_utf8(), self.unknown, self.unknown_score);
            }
        }
    }

    /// Appends the token of this text, or what stands for it where it is none.
    fn push(&self, text: &str, out: &mut Vec<u32>) {
        let whole = self.trie.prefixes(text.as_bytes()).find(|(len, _)| *len == text.len());
        if let Some((_, id)) = whole {
            out.push(id);
            return;
        }
        let spelled = text.bytes().map(|byte| self.bytes[usize::from(byte)]);
        match spelled.collect::<Option<Vec<u32>>>() {
            Some(ids) => out.extend(ids),
            None => out.push(self.unknown),
        }
    }
}
