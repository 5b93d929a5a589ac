//! The vocabulary: the bytes, kind and score of every token, and ids by their bytes.

use std::hash::{BuildHasher, RandomState};

use super::error::TokenizerError;

/// What a token is for: `tokenizer.ggml.token_type` of the GGUF specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text (1).
    Normal,
    /// Stands for what the vocabulary cannot spell (2).
    Unknown,
    /// Structure of a conversation; never made of plain text (3).
    Control,
    /// A piece of text that is cut out before the tokenizer's own algorithm runs (4).
    UserDefined,
    /// A reserved place (5).
    Unused,
    /// One byte, spelled `<0xNN>` (6).
    Byte,
}

impl TokenKind {
    /// The kind with this number in a GGUF file.
    pub(super) fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return None,
        })
    }

    /// The number of this kind in a GGUF file.
    pub(super) fn number(self) -> i32 {
        match self {
            TokenKind::Normal => 1,
            TokenKind::Unknown => 2,
            TokenKind::Control => 3,
            TokenKind::UserDefined => 4,
            TokenKind::Unused => 5,
            TokenKind::Byte => 6,
        }
    }

    /// Whether plain text may become such a token by the tokenizer's own algorithm.
    fn is_text(self) -> bool {
        matches!(self, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused)
    }
}

/// Kinds that plain text never becomes: their texts are looked for in markup only.
pub(super) const SPECIAL: &[TokenKind] = &[TokenKind::Control, TokenKind::Unknown];

/// A token as the builder gets it.
pub(super) struct RawToken<'a> {
    /// As in the file.
    pub text: &'a str,
    /// What the token stands for, in the alphabet that the tokenizer's algorithm works in; `None`
    /// where that algorithm cannot make the token.
    pub key: Option<Vec<u8>>,
    pub kind: TokenKind,
}

/// All tokens of a model.
///
/// The bytes of all tokens lie in one allocation, and the index holds ids alone: 262,144 tokens
/// (Gemma 3) take 6 MB instead of the 30 that a map of strings takes.
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// End of each token in `bytes`; it starts where the token before ends.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    index: Index,
    longest: usize,
}

/// Marks a free place of the index.
const FREE: u32 = u32::MAX;

/// An open-addressing table of ids, at most three quarters full.
struct Index {
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Vocabulary {
    /// Builds a vocabulary; tokens without bytes are allowed and unreachable.
    pub fn new<'a>(
        tokens: impl ExactSizeIterator<Item = Result<RawToken<'a>, TokenizerError>>,
    ) -> Result<Self, TokenizerError> {
        let count = tokens.len();
        if count == 0 {
            return Err(TokenizerError::Empty);
        }
        // ids are i32 in most engines' interfaces; more tokens than that are no vocabulary
        if count > i32::MAX as usize {
            return Err(TokenizerError::TooLarge { tokens: count, bytes: 0 });
        }
        let mut vocabulary = Vocabulary {
            bytes: Vec::new(),
            ends: Vec::with_capacity(count),
            kinds: Vec::with_capacity(count),
            index: Index {
                slots: vec![FREE; (count * 4).div_ceil(3).max(count + 1).next_power_of_two()],
                hasher: RandomState::new(),
            },
            longest: 0,
        };
        for (token, id) in tokens.zip(0..) {
            vocabulary.push(id, token?)?;
        }
        Ok(vocabulary)
    }

    fn push(&mut self, id: u32, token: RawToken<'_>) -> Result<(), TokenizerError> {
        let reachable = token.kind.is_text() && token.key.is_some();
        let bytes = token.key.as_deref().unwrap_or(token.text.as_bytes());
        self.bytes.extend_from_slice(bytes);
        let end = u32::try_from(self.bytes.len()).map_err(|_| TokenizerError::TooLarge {
            tokens: self.kinds.len(),
            bytes: self.bytes.len(),
        })?;
        self.ends.push(end);
        self.kinds.push(token.kind);
        if reachable && !bytes.is_empty() {
            self.longest = self.longest.max(bytes.len());
            let slot = self.slot(bytes);
            let first = self.index.slots[slot];
            if first != FREE {
                return Err(TokenizerError::Duplicate {
                    first,
                    second: id,
                    text: token.text.to_string(),
                });
            }
            self.index.slots[slot] = id;
        }
        Ok(())
    }

    /// The place of the token with these bytes, or the free place where it would be.
    fn slot(&self, bytes: &[u8]) -> usize {
        let mask = self.index.slots.len() - 1;
        let mut slot = self.index.hasher.hash_one(bytes) as usize & mask;
        // ends, since at least half of the places are free
        while self.index.slots[slot] != FREE && self.bytes(self.index.slots[slot]) != bytes {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The token that stands for `bytes` in text.
    pub fn find(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.is_empty() || bytes.len() > self.longest {
            return None;
        }
        Some(self.index.slots[self.slot(bytes)]).filter(|id| *id != FREE)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether `id` is a token.
    pub fn contains(&self, id: u32) -> bool {
        (id as usize) < self.len()
    }

    /// The bytes of token `id`, which must exist.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        &self.bytes[start..self.ends[id] as usize]
    }

    /// The kind of token `id`, which must exist.
    pub fn kind(&self, id: u32) -> TokenKind {
        self.kinds[id as usize]
    }

    /// The most bytes of a token that [`Self::find`] may give.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// All ids of one of `kinds`.
    pub fn of_kind<'a>(&'a self, kinds: &'a [TokenKind]) -> impl Iterator<Item = u32> + 'a {
        (0..self.len() as u32).filter(|id| kinds.contains(&self.kind(*id)))
    }
}
