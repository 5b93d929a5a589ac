//! From metadata to a tokenizer; every index and length is checked here.

use std::collections::HashMap;
use std::sync::Arc;

use super::bpe::{Bpe, MergeParts, Units};
use super::decode::{Pieces, Spelling};
use super::error::TokenizerError;
use super::normalize::Normalizer;
use super::pretokenize::PreTokenizer;
use super::special::{self, Specials};
use super::spm::Spm;
use super::vocab::{RawToken, TokenKind, Vocabulary};
use super::wordpiece::{Normalization, WordPiece};
use super::{Lead, Model, SpecialIds, Tokenizer, byte_level, pretokenize};
use crate::gguf::Metadata;

const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const CLS: &str = "tokenizer.ggml.cls_token_id";
// sic: the key is spelled so in the format
const SEP: &str = "tokenizer.ggml.seperator_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SEP: &str = "tokenizer.ggml.add_sep_token";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

/// Keys of tokens that end an answer.
const ENDS: &[&str] = &[
    EOS,
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// The families of `tokenizer.ggml.model`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Bpe,
    Spm,
    WordPiece,
}

/// See [`Tokenizer::from_metadata`].
pub(super) fn tokenizer(meta: &Metadata) -> Result<Tokenizer, TokenizerError> {
    let family = match meta.need_str("tokenizer.ggml.model")? {
        "gpt2" => Family::Bpe,
        "llama" => Family::Spm,
        "bert" => Family::WordPiece,
        other => return Err(TokenizerError::UnknownModel(other.to_string())),
    };
    let vocab = vocabulary(meta, family)?;
    let (model, add_bos) = match family {
        Family::Bpe => {
            let spec = pre_tokenizer(meta)?;
            let merges = meta.need_str_array("tokenizer.ggml.merges")?;
            let (words, units) = (PreTokenizer::new(&spec)?, Units::bytes(&vocab));
            let merges = merges.iter().map(MergeParts::parse);
            let bpe = Bpe::new(words, spec.whole_words, units, &vocab, merges)?;
            (Model::Bpe(Box::new(bpe)), spec.add_bos)
        }
        Family::Spm => (Model::Spm(Box::new(spm(meta, &vocab)?)), true),
        Family::WordPiece => (Model::WordPiece(word_piece(meta, &vocab)?), true),
    };
    let ids = special_ids(meta, &vocab, family, add_bos)?;
    let specials = Specials::new(&vocab, HashMap::new())?;
    let spelling = if family == Family::Bpe { Spelling::Bytes } else { Spelling::Marked };
    let lead = match &model {
        Model::Spm(spm) if spm.space_prefix() => Lead::SpaceOfWord,
        _ => Lead::Keep,
    };
    let marks = Normalizer::default();
    let (normalizer, pieces) = (Normalizer::default(), Arc::new(Pieces { vocab, spelling }));
    Ok(Tokenizer { pieces, specials, normalizer, marks, model, ids, lead })
}

fn vocabulary(meta: &Metadata, family: Family) -> Result<Vocabulary, TokenizerError> {
    let tokens = meta.need_str_array("tokenizer.ggml.tokens")?;
    let types = meta.i32_array(TYPES)?;
    if let Some(types) = types {
        check_length(TYPES, types.len(), tokens.len())?;
    }
    Vocabulary::new(tokens.iter().enumerate().map(|(i, text)| {
        let id = i as u32;
        let number = types.map_or(1, |types| types[i]);
        let kind = TokenKind::from_number(number)
            .ok_or(TokenizerError::TokenType { id, value: number })?;
        let kind = if special::is_control_text(text) { TokenKind::Control } else { kind };
        let key = match (kind, family) {
            (TokenKind::Byte, _) => Some(vec![byte_token(id, text)?]),
            (TokenKind::Normal | TokenKind::Unused, Family::Bpe) => byte_level::decode(text),
            // cut out of the text before the algorithm runs, which can then not make it
            (TokenKind::UserDefined, Family::Bpe) => None,
            _ => Some(text.as_bytes().to_vec()),
        };
        Ok(RawToken { text, key, kind })
    }))
}

/// The byte of a token `<0xNN>`.
fn byte_token(id: u32, text: &str) -> Result<u8, TokenizerError> {
    text.strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .filter(|digits| digits.len() == 2)
        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .ok_or_else(|| TokenizerError::ByteToken { id, text: text.to_string() })
}

fn pre_tokenizer(meta: &Metadata) -> Result<pretokenize::Spec, TokenizerError> {
    let name = meta.str("tokenizer.ggml.pre")?.unwrap_or("default");
    pretokenize::spec(name).ok_or_else(|| TokenizerError::UnknownPreTokenizer(name.to_string()))
}

fn spm(meta: &Metadata, vocab: &Vocabulary) -> Result<Spm, TokenizerError> {
    let scores = meta.need_f32_array(SCORES)?;
    check_length(SCORES, scores.len(), vocab.len())?;
    let unknown = special_id(meta, vocab, UNKNOWN)?;
    let space_prefix = meta.bool(SPACE_PREFIX)?.unwrap_or(true);
    Spm::new(vocab, scores, unknown, space_prefix)
}

fn word_piece(meta: &Metadata, vocab: &Vocabulary) -> Result<WordPiece, TokenizerError> {
    let unknown = special_id(meta, vocab, UNKNOWN)?.ok_or(TokenizerError::MissingUnknown)?;
    let lowercase = meta.bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
    let strip_accents = meta.bool("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
    WordPiece::new(unknown, Normalization { lowercase, strip_accents })
}

fn special_ids(
    meta: &Metadata,
    vocab: &Vocabulary,
    family: Family,
    add_bos: bool,
) -> Result<SpecialIds, TokenizerError> {
    let mut bos = special_id(meta, vocab, BOS)?;
    let mut eos = special_id(meta, vocab, EOS)?;
    let mut add_eos = meta.bool(ADD_EOS)?.unwrap_or(false);
    let ends =
        ENDS.iter().map(|key| special_id(meta, vocab, key)).collect::<Result<Vec<_>, _>>()?;
    if family == Family::WordPiece {
        // BERT's texts are [CLS] … [SEP]
        bos = bos.or(special_id(meta, vocab, CLS)?);
        eos = special_id(meta, vocab, SEP)?.or(eos);
        add_eos = meta.bool(ADD_SEP)?.unwrap_or(true);
    }
    let asked = meta.bool(ADD_BOS)?;
    if bos.is_none() && asked == Some(true) {
        return Err(TokenizerError::MissingSpecial { flag: ADD_BOS, id_key: BOS });
    }
    if eos.is_none() && add_eos {
        return Err(TokenizerError::MissingSpecial { flag: ADD_EOS, id_key: EOS });
    }
    Ok(SpecialIds {
        bos,
        eos,
        add_bos: asked.unwrap_or(add_bos && bos.is_some()),
        add_eos,
        between: None,
        end_of_generation: special::end_of_generation(vocab, ends.into_iter().flatten()),
    })
}

/// The id that `key` gives.
fn special_id(
    meta: &Metadata,
    vocab: &Vocabulary,
    key: &'static str,
) -> Result<Option<u32>, TokenizerError> {
    match meta.u32(key)? {
        Some(id) if !vocab.contains(id) => {
            Err(TokenizerError::SpecialId { key, id, tokens: vocab.len() })
        }
        id => Ok(id),
    }
}

fn check_length(key: &'static str, found: usize, tokens: usize) -> Result<(), TokenizerError> {
    if found == tokens { Ok(()) } else { Err(TokenizerError::Length { key, found, tokens }) }
}
