//! WordPiece: words are normalised and covered by the longest tokens from left to right.
//!
//! Source: Devlin et al., "BERT", 2018, `tokenization.py`, as Hugging Face's `BertNormalizer` and
//! `BertPreTokenizer` do it. GGUF vocabularies write a word's first piece with U+2581 in front
//! and the others bare, where BERT's own write the others with `##`.

use regex_automata::meta::Regex;
use unicode_normalization::UnicodeNormalization;

use super::error::TokenizerError;
use super::spm::SPACE;
use super::vocab::Vocabulary;

/// WordPiece of one model.
pub(super) struct WordPiece {
    unknown: u32,
    options: Normalization,
    /// Characters that are dropped first: control, format, private use, U+FFFD.
    dropped: Regex,
    /// Combining marks that take no room.
    accents: Regex,
    /// One word: a punctuation mark, a Chinese character, or a run of anything but these and space.
    words: Regex,
}

/// What is done to text before it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Normalization {
    /// Upper case becomes lower case.
    pub lowercase: bool,
    /// Accents are taken off: NFD without non-spacing marks.
    pub strip_accents: bool,
}

/// BERT treats every ASCII character that is neither letter, digit nor space as punctuation.
const PUNCTUATION: &str = r"\p{P}$+<=>^`|~";

/// Blocks of ideographs that are words of their own (`_is_chinese_char`, `tokenization.py`).
const CHINESE: &str = concat!(
    r"\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}",
    r"\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}"
);

/// Longer words are unknown, as in `WordpieceTokenizer`.
const MAX_WORD_CHARS: usize = 100;

impl WordPiece {
    /// Compiles the patterns.
    pub fn new(unknown: u32, options: Normalization) -> Result<Self, TokenizerError> {
        let words = format!(r"[{PUNCTUATION}{CHINESE}]|[^\s{PUNCTUATION}{CHINESE}]+");
        Ok(WordPiece {
            unknown,
            options,
            dropped: compile(r"[\p{C}\u{FFFD}--[\t\n\r]]")?,
            accents: compile(r"\p{Mn}")?,
            words: compile(&words)?,
        })
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, vocab: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let text = self.normalize(text);
        let mut word = String::new();
        for found in self.words.find_iter(&text) {
            word.clear();
            word.push_str(SPACE);
            word.push_str(&text[found.range()]);
            self.encode_word(vocab, &word, out);
        }
    }

    fn normalize(&self, text: &str) -> String {
        let mut text = remove(&self.dropped, text);
        if self.options.strip_accents {
            let decomposed: String = text.nfd().collect();
            text = remove(&self.accents, &decomposed);
        }
        if self.options.lowercase {
            text = text.chars().flat_map(char::to_lowercase).collect();
        }
        text
    }

    /// Covers `word`, which has U+2581 in front, or gives the unknown token for all of it.
    fn encode_word(&self, vocab: &Vocabulary, word: &str, out: &mut Vec<u32>) {
        let before = out.len();
        let mut rest = word;
        if word.chars().count() > MAX_WORD_CHARS + 1 {
            out.push(self.unknown);
            return;
        }
        while !rest.is_empty() {
            match longest_prefix(vocab, rest) {
                Some((id, len)) => {
                    out.push(id);
                    rest = &rest[len..];
                }
                None => {
                    out.truncate(before);
                    out.push(self.unknown);
                    return;
                }
            }
        }
    }
}

/// The longest token that `text` begins with, and its length.
fn longest_prefix(vocab: &Vocabulary, text: &str) -> Option<(u32, usize)> {
    let limit = text.len().min(vocab.longest());
    (1..=limit).rev().find_map(|len| Some((vocab.find(&text.as_bytes()[..len])?, len)))
}

fn remove(pattern: &Regex, text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    for found in pattern.find_iter(text) {
        kept.push_str(&text[at..found.start()]);
        at = found.end();
    }
    kept.push_str(&text[at..]);
    kept
}

fn compile(pattern: &str) -> Result<Regex, TokenizerError> {
    Regex::new(pattern).map_err(|e| TokenizerError::Pattern {
        pattern: pattern.to_string(),
        reason: e.to_string(),
    })
}
