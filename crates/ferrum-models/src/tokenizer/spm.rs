//! SentencePiece vocabularies with scores: the pair of neighbours whose token has the highest
//! score is merged until none is left, and what is no token is spelled in bytes.
//!
//! Source: Kudo and Richardson, "SentencePiece", 2018 (the BPE model, `bpe_model.cc`). Spaces are
//! written U+2581; a heap of candidate pairs makes n characters take O(n log n).

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::error::TokenizerError;
use super::vocab::{TokenKind, Vocabulary};

/// How a space is written in these vocabularies.
pub(super) const SPACE: &str = "\u{2581}";

/// SentencePiece merging of one model.
pub(super) struct Spm {
    scores: Vec<f32>,
    /// What each byte of a character without a token becomes.
    bytes: [u32; 256],
    space_prefix: bool,
}

/// A token in the making: a slice of the text. The symbols are a linked list.
struct Symbol {
    start: usize,
    /// 0 for a symbol that was merged into its left one.
    len: usize,
    prev: usize,
    next: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// A pair that may be merged: highest score first, then leftmost.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Spm {
    /// `scores` has one value a token. Every byte needs a token `<0xNN>` of kind byte, or else
    /// there must be an `unknown` token.
    pub fn new(
        vocab: &Vocabulary,
        scores: &[f32],
        unknown: Option<u32>,
        space_prefix: bool,
    ) -> Result<Self, TokenizerError> {
        let mut found = [unknown; 256];
        for id in vocab.of_kind(&[TokenKind::Byte]) {
            // the builder of the vocabulary has turned the text of byte tokens into the byte
            if let [byte] = vocab.bytes(id) {
                found[*byte as usize] = Some(id);
            }
        }
        let mut bytes = [0; 256];
        for (byte, id) in found.into_iter().enumerate() {
            bytes[byte] = id.ok_or(TokenizerError::MissingByte { byte: byte as u8 })?;
        }
        for (value, id) in scores.iter().zip(0..) {
            if !value.is_finite() {
                return Err(TokenizerError::Score { id, value: *value });
            }
        }
        Ok(Spm { scores: scores.to_vec(), bytes, space_prefix })
    }

    /// Whether text after the start or a special token gets a space in front.
    pub fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Appends the tokens of `text`; `prefix` tells that it follows the start or a special token.
    pub fn encode(&self, vocab: &Vocabulary, text: &str, prefix: bool, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + SPACE.len());
        if prefix && self.space_prefix {
            escaped.push_str(SPACE);
        }
        for (i, part) in text.split(' ').enumerate() {
            if i > 0 {
                escaped.push_str(SPACE);
            }
            escaped.push_str(part);
        }
        let symbols = self.merge_all(vocab, escaped.as_bytes(), characters(&escaped));
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while let Some(symbol) = symbols.get(at) {
            let bytes = &escaped.as_bytes()[symbol.start..symbol.start + symbol.len];
            match vocab.find(bytes) {
                Some(id) => out.push(id),
                None => out.extend(bytes.iter().map(|byte| self.bytes[*byte as usize])),
            }
            at = symbol.next;
        }
    }

    fn merge_all(&self, vocab: &Vocabulary, text: &[u8], mut symbols: Vec<Symbol>) -> Vec<Symbol> {
        let mut heap = BinaryHeap::new();
        for left in 0..symbols.len() {
            heap.extend(self.candidate(vocab, text, &symbols, left));
        }
        while let Some(Candidate { left, right, len, .. }) = heap.pop() {
            let (a, b) = (symbols[left].len, symbols[right].len);
            // one of the two has grown or is gone
            if a == 0 || b == 0 || a + b != len {
                continue;
            }
            let (before, after) = (symbols[left].prev, symbols[right].next);
            symbols[left].len = len;
            symbols[left].next = after;
            symbols[right].len = 0;
            if let Some(symbol) = symbols.get_mut(after) {
                symbol.prev = left;
            }
            if before != NONE {
                heap.extend(self.candidate(vocab, text, &symbols, before));
            }
            heap.extend(self.candidate(vocab, text, &symbols, left));
        }
        symbols
    }

    /// The pair that begins at `left`, if it makes a token.
    fn candidate(
        &self,
        vocab: &Vocabulary,
        text: &[u8],
        symbols: &[Symbol],
        left: usize,
    ) -> Option<Candidate> {
        let first = &symbols[left];
        let right = first.next;
        let len = first.len + symbols.get(right)?.len;
        let id = vocab.find(&text[first.start..first.start + len])?;
        Some(Candidate { score: self.scores[id as usize], left, right, len })
    }
}

/// One symbol a character.
fn characters(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .enumerate()
        .map(|(i, (start, c))| Symbol {
            start,
            len: c.len_utf8(),
            prev: i.checked_sub(1).unwrap_or(NONE),
            next: i + 1,
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // scores are finite, so partial_cmp orders them all; 0.0 equals -0.0
        let score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        score.then(Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}
