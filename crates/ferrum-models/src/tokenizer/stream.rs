//! Text of tokens as they come: whole characters only.

use std::borrow::Cow;
use std::sync::Arc;

use super::decode::Pieces;

/// Makes text of tokens one by one. A character whose bytes are spread over several tokens comes
/// out with the last of them; control tokens have no text.
pub struct StreamDecoder {
    pieces: Arc<Pieces>,
    characters: Characters,
    /// Control tokens that have text.
    shown: Vec<u32>,
}

impl StreamDecoder {
    pub(super) fn new(pieces: Arc<Pieces>) -> Self {
        StreamDecoder { pieces, characters: Characters::default(), shown: Vec::new() }
    }

    /// Gives the control tokens `ids` their names as text.
    pub fn showing(mut self, ids: &[u32]) -> Self {
        self.shown = ids.to_vec();
        self
    }

    /// The text that token `id` completes, which may be empty. Ids outside the vocabulary have no
    /// text.
    pub fn push(&mut self, id: u32) -> String {
        let mut text = String::new();
        let shown = self.shown.contains(&id);
        let bytes = if shown { self.pieces.bytes(id) } else { self.pieces.text_bytes(id) };
        if let Some(bytes) = bytes {
            self.characters.push(&bytes, &mut text);
        }
        text
    }

    /// What is left: U+FFFD where the last character is incomplete.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.characters.finish(&mut text);
        text
    }
}

/// Puts bytes together to characters. What is not UTF-8 becomes U+FFFD, as in
/// [`String::from_utf8_lossy`].
#[derive(Default)]
pub(super) struct Characters {
    /// The beginning of a character.
    pending: Vec<u8>,
}

impl Characters {
    /// Appends to `text` the characters that `bytes` completes.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        let joined: Cow<'_, [u8]> = if self.pending.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            self.pending.extend_from_slice(bytes);
            Cow::Owned(std::mem::take(&mut self.pending))
        };
        let mut chunks = joined.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && is_incomplete(invalid) {
                self.pending = invalid.to_vec();
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    /// Ends the text.
    pub fn finish(&mut self, text: &mut String) {
        if !std::mem::take(&mut self.pending).is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Whether more bytes could make a character of `bytes`.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}
