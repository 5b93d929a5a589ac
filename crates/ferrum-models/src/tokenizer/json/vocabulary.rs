//! The vocabulary: the model's tokens and those added to it.

use std::collections::HashMap;

use super::super::byte_level;
use super::super::error::TokenizerError;
use super::super::normalize::Normalizer;
use super::super::special::{self, Flags};
use super::super::spm::SPACE;
use super::super::vocab::{RawToken, TokenKind, Vocabulary};
use super::file::{AddedToken, File};
use super::{Beside, Family, unsupported};

/// Ids without a token that are accepted beside as many as there are tokens.
const MAX_HOLES: usize = 1 << 16;

/// A token in the making; a place without one is reserved.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub text: &'a str,
    pub kind: TokenKind,
}

/// The added tokens that the model knows.
fn added<'a>(file: &'a File<'_>, beside: &Beside<'_>) -> Vec<&'a AddedToken> {
    let known = |token: &&AddedToken| beside.tokens.is_none_or(|n| (token.id as usize) < n);
    file.added_tokens.iter().filter(known).collect()
}

/// All tokens by id, as the file writes them.
pub(super) fn entries<'a>(
    file: &'a File<'_>,
    family: Family,
    beside: &Beside<'_>,
) -> Result<Vec<Entry<'a>>, TokenizerError> {
    let added = added(file, beside);
    let ids = file.model.vocab.tokens.iter().map(|(_, id)| *id).chain(added.iter().map(|t| t.id));
    let count = file.model.vocab.tokens.len() + added.len();
    let len = ids.max().map_or(0, |id| id as usize + 1);
    if len > 2 * count + MAX_HOLES {
        return Err(TokenizerError::TooLarge { tokens: len, bytes: 0 });
    }
    let mut entries = vec![Entry { text: "", kind: TokenKind::Unused }; len];
    for (text, id) in &file.model.vocab.tokens {
        let kind = match family {
            Family::Characters | Family::Unigram
                if file.model.byte_fallback && byte(&text.0).is_some() =>
            {
                TokenKind::Byte
            }
            _ => TokenKind::Normal,
        };
        let entry = &mut entries[*id as usize];
        if !entry.text.is_empty() {
            return Err(twice(*id, &text.0));
        }
        *entry = Entry { text: &text.0, kind };
    }
    for token in added {
        let entry = &mut entries[token.id as usize];
        if !entry.text.is_empty() && entry.text != token.content {
            return Err(twice(token.id, &token.content));
        }
        let control = token.special || special::is_control_text(&token.content);
        let kind = if control { TokenKind::Control } else { TokenKind::UserDefined };
        *entry = Entry { text: &token.content, kind };
    }
    Ok(entries)
}

/// All tokens by id.
pub(super) fn build(
    file: &File<'_>,
    family: Family,
    normalizer: &Normalizer,
    beside: &Beside<'_>,
) -> Result<Vocabulary, TokenizerError> {
    let entries = entries(file, family, beside)?;
    let mut normalized = HashMap::new();
    for token in added(file, beside).into_iter().filter(|token| token.normalized()) {
        let kind = entries[token.id as usize].kind;
        normalized.extend(normal_form(token, kind, family, normalizer, beside)?);
    }
    let texts: Vec<String> = match family {
        Family::WordPiece => entries.iter().map(marked).collect(),
        _ => Vec::new(),
    };
    Vocabulary::new(entries.iter().enumerate().map(|(id, entry)| {
        let text = texts.get(id).map_or(entry.text, String::as_str);
        Ok(match normalized.get(&(id as u32)) {
            Some(form) => RawToken { text: form, key: None, kind: entry.kind },
            None => RawToken { text, key: key(entry.kind, text, family), kind: entry.kind },
        })
    }))
}

/// What a token is looked for as, and decoded to, where that is not its text.
fn normal_form(
    token: &AddedToken,
    kind: TokenKind,
    family: Family,
    normalizer: &Normalizer,
    beside: &Beside<'_>,
) -> Result<Option<(u32, String)>, TokenizerError> {
    let is_control = kind == TokenKind::Control;
    if family == Family::WordPiece {
        // Special ones stand in markup, which texts of embeddings have none of.
        return match is_control {
            true => Ok(None),
            false => Err(unsupported("added tokens'", "normalized, under BERT's normalizer")),
        };
    }
    let form = normalizer.apply(&token.content, false);
    if form == token.content {
        return Ok(None);
    }
    if is_control {
        // transformers takes these flags from `tokenizer_config.json`.
        let all = beside.config.get("added_tokens_decoder");
        let stated =
            all.and_then(|all| all.get(token.id.to_string())?.get("normalized")?.as_bool());
        // Whether a changed text is markup cannot be told any more.
        return match stated {
            Some(false) => Ok(None),
            _ => Err(unsupported("added tokens'", "normalized, of a special token")),
        };
    }
    Ok(Some((token.id, form.into_owned())))
}

fn twice(id: u32, text: &str) -> TokenizerError {
    TokenizerError::Json { reason: format!("token {id} is {text:?} and another too") }
}

/// The byte of a token `<0xNN>`.
fn byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// A token of WordPiece as [`super::super::wordpiece`] has it: the first piece of a word is marked,
/// where the file marks the others.
fn marked(entry: &Entry<'_>) -> String {
    match (entry.kind, entry.text.strip_prefix("##")) {
        (TokenKind::Normal, Some(rest)) if !rest.is_empty() => rest.to_string(),
        (TokenKind::Normal, _) => format!("{SPACE}{}", entry.text),
        _ => entry.text.to_string(),
    }
}

/// What the algorithm finds the token by.
fn key(kind: TokenKind, text: &str, family: Family) -> Option<Vec<u8>> {
    match (kind, family) {
        (TokenKind::Byte, _) => byte(text).map(|byte| vec![byte]),
        (TokenKind::Normal, Family::Bytes) => byte_level::decode(text),
        // Cut out of the text before the algorithm runs, which can then not make it.
        (TokenKind::UserDefined, Family::Bytes) => None,
        _ => Some(text.as_bytes().to_vec()),
    }
}

/// How the text around added tokens matters.
pub(super) fn flags(file: &File<'_>, vocab: &Vocabulary) -> HashMap<u32, Flags> {
    let flags = |token: &AddedToken| Flags {
        left: token.lstrip,
        right: token.rstrip,
        word: token.single_word,
        normalized: token.normalized(),
    };
    file.added_tokens
        .iter()
        .filter(|token| vocab.contains(token.id) && flags(token) != Flags::default())
        .map(|token| (token.id, flags(token)))
        .collect()
}
