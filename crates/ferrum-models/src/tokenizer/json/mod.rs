//! Tokenizers of `tokenizer.json`, the file of Hugging Face's `tokenizers` package.
//!
//! Every part that the file names is either done as that package does it, or refused by name: a
//! token that is cut otherwise than in training is an error that nobody sees.

mod decoder;
mod file;
mod gguf;
mod normalizer;
mod post_processor;
mod pre_tokenizer;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::bpe::{Bpe, Units};
use super::decode::{Pieces, Spelling};
use super::error::TokenizerError;
use super::normalize::Normalizer;
use super::special::{self, Specials};
use super::unigram::{self, Unigram};
use super::vocab::Vocabulary;
use super::wordpiece::WordPiece;
use super::{Model, SpecialIds, Tokenizer};
use file::{Entries, File, ModelJson, Part};
pub use gguf::GgufVocabulary;

/// What other files say of a tokenizer.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    /// `tokenizer_config.json`.
    pub config: &'a Map<String, Value>,
    /// Tokens that end an answer: `eos_token_id` of `generation_config.json` and `config.json`.
    pub ends: &'a [u32],
    /// Tokens that the model knows. Added tokens beyond them (Gemma's for images) are left out.
    pub tokens: Option<usize>,
}

/// See [`Tokenizer::from_json`].
pub(super) fn tokenizer(json: &[u8], beside: &Beside<'_>) -> Result<Tokenizer, TokenizerError> {
    let file = File::parse(json)?;
    build(&file, Family::of(&file)?, beside)
}

/// The tokenizer of a file that was read.
fn build(
    file: &File<'_>,
    family: Family,
    beside: &Beside<'_>,
) -> Result<Tokenizer, TokenizerError> {
    let steps = match family {
        Family::WordPiece => Vec::new(), // it has its own
        _ => normalizer::steps(file.normalizer.as_ref())?,
    };
    let normalizer = Normalizer { steps };
    let vocab = vocabulary::build(file, family, &normalizer, beside)?;
    let (model, marks) = match family {
        Family::WordPiece => (word_piece(file, &vocab)?, Normalizer::default()),
        Family::Bytes | Family::Characters => bpe(file, family, &vocab)?,
        Family::Unigram => unigram(file, &vocab)?,
    };
    let lead = decoder::lead(file, family)?;
    let ids = special_ids(file, &vocab, beside)?;
    let specials = Specials::new(&vocab, vocabulary::flags(file, &vocab))?;
    let spelling = match family {
        Family::Bytes => Spelling::Bytes,
        Family::Characters | Family::Unigram => Spelling::MarkedThroughout,
        Family::WordPiece => Spelling::Marked,
    };
    let pieces = Arc::new(Pieces { vocab, spelling });
    Ok(Tokenizer { pieces, specials, normalizer, marks, model, ids, lead })
}

/// Families of tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// BPE on bytes that are spelled in printable characters.
    Bytes,
    /// BPE on characters, as SentencePiece's.
    Characters,
    WordPiece,
    /// SentencePiece's other algorithm.
    Unigram,
}

impl Family {
    fn of(file: &File<'_>) -> Result<Self, TokenizerError> {
        let kind = file.model.kind();
        if file.model.vocab.scores.is_some() != (kind == "Unigram") {
            let reason = format!("the vocabulary is not one of {kind:?}");
            return Err(TokenizerError::Json { reason });
        }
        match kind {
            "BPE" => {
                let parts = Part::flat(file.pre_tokenizer.as_ref(), "pretokenizers")?;
                let bytes = parts.iter().any(|part| part.kind == "ByteLevel");
                Ok(if bytes { Family::Bytes } else { Family::Characters })
            }
            "WordPiece" => Ok(Family::WordPiece),
            "Unigram" => Ok(Family::Unigram),
            other => Err(unsupported("model", other)),
        }
    }
}

fn unsupported(what: &'static str, kind: impl Into<String>) -> TokenizerError {
    TokenizerError::Unsupported { what, kind: kind.into() }
}

/// The algorithm, and what is put into a text once the added tokens are out of it.
fn bpe(
    file: &File<'_>,
    family: Family,
    vocab: &Vocabulary,
) -> Result<(Model, Normalizer), TokenizerError> {
    let ModelJson { dropout, continuing_subword_prefix, end_of_word_suffix, .. } = &file.model;
    if dropout.is_some_and(|p| p != 0.0) {
        return Err(unsupported("BPE's", "dropout"));
    }
    for (what, text) in [
        ("continuing_subword_prefix", continuing_subword_prefix),
        ("end_of_word_suffix", end_of_word_suffix),
    ] {
        if text.as_ref().is_some_and(|text| !text.is_empty()) {
            return Err(unsupported("BPE's", what));
        }
    }
    let mut steps = Vec::new();
    let words = pre_tokenizer::read(file.pre_tokenizer.as_ref(), &mut steps)?;
    let unknown = match &file.model.unk_token {
        Some(text) => Some(special::by_text(vocab, text).ok_or_else(|| missing(text))?),
        None => None,
    };
    let units = match family {
        Family::Bytes => Units::bytes(vocab),
        _ => {
            let (fallback, fuse) = (file.model.byte_fallback, file.model.fuse_unk);
            Units::characters(vocab, fallback, unknown, fuse)
        }
    };
    let merges = file.model.merges.iter().map(|merge| merge.parts());
    let bpe = Bpe::new(words, file.model.ignore_merges, units, vocab, merges)?;
    Ok((Model::Bpe(Box::new(bpe)), Normalizer { steps }))
}

/// The algorithm with scores, and what is put into a text once the added tokens are out of it.
fn unigram(file: &File<'_>, vocab: &Vocabulary) -> Result<(Model, Normalizer), TokenizerError> {
    let mut steps = Vec::new();
    let words = pre_tokenizer::read(file.pre_tokenizer.as_ref(), &mut steps)?;
    let ModelJson { vocab: Entries { tokens, scores }, unk_id, byte_fallback, .. } = &file.model;
    if let Some(id) = unk_id.filter(|id| *id as usize >= tokens.len()) {
        return Err(TokenizerError::SpecialId { key: "unk_id", id, tokens: tokens.len() });
    }
    let parts = unigram::Parts {
        words,
        texts: tokens.iter().map(|(text, _)| &*text.0).collect(),
        scores: scores.clone().unwrap_or_default(),
        unknown: *unk_id,
        byte_fallback: *byte_fallback,
    };
    Ok((Model::Unigram(Box::new(Unigram::new(vocab, parts)?)), Normalizer { steps }))
}

fn missing(text: &str) -> TokenizerError {
    TokenizerError::Json { reason: format!("there is no token {text:?}") }
}

fn word_piece(file: &File<'_>, vocab: &Vocabulary) -> Result<Model, TokenizerError> {
    if file.model.max_input_chars_per_word.is_some_and(|n| n != 100) {
        return Err(unsupported("WordPiece's", "max_input_chars_per_word"));
    }
    if file.model.continuing_subword_prefix.as_deref().is_some_and(|p| p != "##") {
        return Err(unsupported("WordPiece's", "continuing_subword_prefix"));
    }
    let text = file.model.unk_token.as_deref().unwrap_or("[UNK]");
    let unknown = special::by_text(vocab, text).ok_or_else(|| missing(text))?;
    match Part::flat(file.pre_tokenizer.as_ref(), "pretokenizers")?.as_slice() {
        [part] if part.kind == "BertPreTokenizer" => {}
        [] => return Err(unsupported("pre-tokenizer", "null")),
        [part, ..] => return Err(unsupported("pre-tokenizer", part.kind)),
    }
    let options = normalizer::bert(file.normalizer.as_ref())?;
    Ok(Model::WordPiece(WordPiece::new(unknown, options)?))
}

/// The special token that `tokenizer_config.json` names, as a text or an object with one.
fn named(beside: &Beside<'_>, vocab: &Vocabulary, key: &str) -> Option<u32> {
    let value = beside.config.get(key)?;
    let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?;
    special::by_text(vocab, text)
}

fn special_ids(
    file: &File<'_>,
    vocab: &Vocabulary,
    beside: &Beside<'_>,
) -> Result<SpecialIds, TokenizerError> {
    let around = post_processor::around(file.post_processor.as_ref(), vocab)?;
    let named = |key: &str| named(beside, vocab, key);
    let flag = |key: &str| beside.config.get(key).and_then(Value::as_bool);
    let bos = around.bos.or_else(|| named("bos_token"));
    let eos = around.eos.or_else(|| named("eos_token"));
    if let Some(&id) = beside.ends.iter().find(|id| !vocab.contains(**id)) {
        return Err(TokenizerError::SpecialId { key: "eos_token_id", id, tokens: vocab.len() });
    }
    let ends = beside.ends.iter().copied().chain(named("eos_token"));
    Ok(SpecialIds {
        bos,
        eos,
        add_bos: bos.is_some() && flag("add_bos_token").unwrap_or(around.bos.is_some()),
        add_eos: eos.is_some() && flag("add_eos_token").unwrap_or(around.eos.is_some()),
        between: around.between,
        end_of_generation: special::end_of_generation(vocab, ends),
    })
}
