//! Tokenizers, built from the `tokenizer.ggml.*` metadata of a GGUF file or from a `tokenizer.json`.
//!
//! Four families: byte-level BPE with a named pre-tokenizer (`gpt2`), SentencePiece's merges with scores
//! (`llama`) and its Unigram (of a `tokenizer.json` alone), and WordPiece (`bert`). Token
//! ids are those of llama.cpp except where its approximation of a pre-tokenizer differs from the model's
//! own; see the tests.
//!
//! A prompt is a list of [`Segment`]s: only [`Segment::Markup`] can become control tokens, so that
//! what a user wrote stays text even where it looks like one.

mod bpe;
mod build;
mod byte_level;
mod charsmap;
mod decode;
mod error;
mod json;
mod normalize;
mod oniguruma;
mod pretokenize;
mod special;
mod spm;
mod stream;
mod trie;
mod unigram;
mod vocab;
mod wordpiece;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use crate::gguf::Metadata;

pub use error::TokenizerError;
pub use json::{Beside, GgufVocabulary};
pub use stream::StreamDecoder;
pub use vocab::TokenKind;

use decode::Pieces;
use normalize::Normalizer;
use special::{Part, Specials};
use stream::Characters;
use vocab::SPECIAL;

/// A part of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Written by the template: the texts of special tokens become these tokens.
    Markup(&'a str),
    /// Written by someone else: stays text.
    Text(&'a str),
}

/// The tokenizer of a model. It never changes, so threads can share it.
pub struct Tokenizer {
    pieces: Arc<Pieces>,
    specials: Specials,
    normalizer: Normalizer,
    /// What is put into a normalised text once the added tokens are out of it.
    marks: Normalizer,
    model: Model,
    ids: SpecialIds,
    lead: Lead,
}

/// What goes off the front of the text of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// Nothing.
    Keep,
    /// The space that was put in front of the first word, if that is not a token of the user's.
    SpaceOfWord,
    /// A space, whatever it is of.
    OneSpace,
    /// The marks of spaces in the first token.
    MarksOfFirst,
}

/// The algorithm of a family.
enum Model {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
    Unigram(Box<unigram::Unigram>),
    WordPiece(wordpiece::WordPiece),
}

/// Tokens with a role.
struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Between the texts of a pair.
    between: Option<Vec<u32>>,
    /// Sorted.
    end_of_generation: Vec<u32>,
}

impl Tokenizer {
    /// Builds the tokenizer that `meta` describes.
    ///
    /// Fails where a key is missing or malformed, where ids, lengths, scores, types or merges do
    /// not fit the vocabulary, and where the family or pre-tokenizer is unknown.
    pub fn from_metadata(meta: &Metadata) -> Result<Tokenizer, TokenizerError> {
        build::tokenizer(meta)
    }

    /// Builds the tokenizer of a `tokenizer.json`.
    ///
    /// Fails where the file is malformed, where ids or merges do not fit the vocabulary, and where a
    /// part of it is of a kind that is not known.
    pub fn from_json(json: &[u8], beside: &Beside<'_>) -> Result<Tokenizer, TokenizerError> {
        json::tokenizer(json, beside)
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.pieces.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// Whether a prompt begins with [`Self::bos`], which there is then.
    pub fn add_bos(&self) -> bool {
        self.ids.add_bos
    }

    /// Whether a prompt ends with [`Self::eos`], which there is then.
    pub fn add_eos(&self) -> bool {
        self.ids.add_eos
    }

    /// The tokens between two texts that are one input, the tokens around which are those around one text;
    /// `None` where the files do not say so.
    pub fn between(&self) -> Option<&[u32]> {
        self.ids.between.as_deref()
    }

    /// The tokens by which the model ends its answer, sorted.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.ids.end_of_generation
    }

    /// The tokens of a prompt, without BOS and EOS. Dividing text into segments differently does
    /// not change them, as long as the texts of control tokens stay within markup.
    pub fn encode(&self, segments: &[Segment<'_>]) -> Vec<u32> {
        let (text, parts) = self.specials.divide(segments);
        let vocab = &self.pieces.vocab;
        let mut out = Vec::new();
        let mut after_special = true;
        for part in parts {
            let range = match part {
                Part::Token(id) => {
                    out.push(id);
                    after_special = true;
                    continue;
                }
                Part::Text(range) => range,
            };
            let piece = self.normalizer.apply(&text[range.clone()], range.start == 0);
            for part in self.specials.divide_normalized(&piece) {
                let within = match part {
                    Part::Token(id) => {
                        out.push(id);
                        after_special = true;
                        continue;
                    }
                    Part::Text(within) => within,
                };
                let first = range.start == 0 && within.start == 0;
                let part = self.marks.apply(&piece[within], first);
                match &self.model {
                    Model::Bpe(bpe) => bpe.encode(vocab, &part, &mut out),
                    Model::Spm(spm) => spm.encode(vocab, &part, after_special, &mut out),
                    Model::Unigram(unigram) => unigram.encode(&part, &mut out),
                    Model::WordPiece(words) => words.encode(vocab, &part, &mut out),
                }
                after_special = false;
            }
        }
        out
    }

    /// The tokens of plain text: what looks like a special token stays text.
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        self.encode(&[Segment::Text(text)])
    }

    /// The tokens of markup: the texts of special tokens become these tokens.
    pub fn encode_markup(&self, text: &str) -> Vec<u32> {
        self.encode(&[Segment::Markup(text)])
    }

    /// The bytes that token `id` stands for, of special tokens their names; `None` for an id
    /// outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        self.pieces.bytes(id)
    }

    /// [`Self::token_bytes`] as text, U+FFFD where they are not UTF-8.
    pub fn token_text(&self, id: u32) -> Option<String> {
        Some(String::from_utf8_lossy(&self.token_bytes(id)?).into_owned())
    }

    /// What token `id` is for; `None` for an id outside the vocabulary.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.pieces.vocab.contains(id).then(|| self.pieces.vocab.kind(id))
    }

    /// Whether `id` is a control token.
    pub fn is_control(&self, id: u32) -> bool {
        self.kind(id) == Some(TokenKind::Control)
    }

    /// The token with exactly this text among the special tokens (control and unknown).
    pub fn special(&self, text: &str) -> Option<u32> {
        let vocab = &self.pieces.vocab;
        vocab.of_kind(SPECIAL).find(|id| vocab.bytes(*id) == text.as_bytes())
    }

    /// The texts of all special tokens (control and unknown).
    pub fn special_texts(&self) -> impl Iterator<Item = String> + '_ {
        let vocab = &self.pieces.vocab;
        vocab.of_kind(SPECIAL).map(|id| String::from_utf8_lossy(vocab.bytes(id)).into_owned())
    }

    /// The text of `ids`, without special tokens, U+FFFD where it is not UTF-8. The space that
    /// [`Self::encode`] puts before the first word is taken off again.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut characters = Characters::default();
        let mut text = String::new();
        let is_text = |id: &&u32| self.kind(**id).is_some_and(|kind| !SPECIAL.contains(&kind));
        for (i, id) in ids.iter().filter(is_text).enumerate() {
            let bytes = match (i, self.lead) {
                (0, Lead::MarksOfFirst) => self.pieces.without_marks(*id),
                _ => self.pieces.text_bytes(*id),
            };
            characters.push(&bytes.unwrap_or_default(), &mut text);
        }
        characters.finish(&mut text);
        let first = ids.iter().find(is_text).and_then(|id| self.kind(*id));
        let strips = match self.lead {
            Lead::Keep | Lead::MarksOfFirst => false,
            Lead::SpaceOfWord => first != Some(TokenKind::UserDefined),
            Lead::OneSpace => true,
        };
        if strips && text.starts_with(' ') {
            text.remove(0);
        }
        text
    }

    /// A decoder for the tokens of one answer, as they come.
    pub fn stream(&self) -> StreamDecoder {
        StreamDecoder::new(Arc::clone(&self.pieces))
    }
}
