//! What tokens are as text.

use std::borrow::Cow;

use super::spm::SPACE;
use super::vocab::{SPECIAL, TokenKind, Vocabulary};

/// How the vocabulary writes spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As they are; normal tokens were brought to their bytes when the vocabulary was built.
    Bytes,
    /// As U+2581.
    Marked,
    /// Likewise, in user-defined tokens too.
    MarkedThroughout,
}

/// The vocabulary as seen from the tokens' side.
pub(super) struct Pieces {
    pub vocab: Vocabulary,
    pub spelling: Spelling,
}

impl Pieces {
    /// The bytes that token `id` adds to a text; nothing for special tokens.
    pub fn text_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let bytes = self.bytes(id)?;
        (!SPECIAL.contains(&self.vocab.kind(id))).then_some(bytes)
    }

    /// The bytes that token `id` stands for; of special tokens, their names.
    pub fn bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        if !self.vocab.contains(id) {
            return None;
        }
        let bytes = self.vocab.bytes(id);
        let marked = match self.vocab.kind(id) {
            TokenKind::Normal | TokenKind::Unused => self.spelling != Spelling::Bytes,
            TokenKind::UserDefined => self.spelling == Spelling::MarkedThroughout,
            _ => false,
        };
        Some(if marked { unmark(bytes) } else { Cow::Borrowed(bytes) })
    }
}

impl Pieces {
    /// The bytes of token `id` without marks of spaces.
    pub fn without_marks(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let bytes = self.vocab.contains(id).then(|| self.vocab.bytes(id))?;
        Some(match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Owned(text.replace(SPACE, "").into_bytes()),
            Err(_) => Cow::Borrowed(bytes),
        })
    }
}

/// Turns U+2581 into spaces.
fn unmark(bytes: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains(SPACE) => Cow::Owned(text.replace(SPACE, " ").into_bytes()),
        _ => Cow::Borrowed(bytes),
    }
}
