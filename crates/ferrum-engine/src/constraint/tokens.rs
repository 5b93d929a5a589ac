//! The vocabulary as constraints see it.

use ferrum_models::tokenizer::{TokenKind, Tokenizer};

/// What a token is in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spelling {
    /// These bytes of text.
    Text(Vec<u8>),
    /// Not text; grammars can name it.
    Control(String),
    /// Nothing that may come in an answer.
    None,
}

/// All tokens of a vocabulary, by id, and those that end an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenTable {
    /// What each token is.
    pub tokens: Vec<Spelling>,
    /// Tokens that end an answer.
    pub end_of_generation: Vec<u32>,
}

impl From<&Tokenizer> for TokenTable {
    fn from(tokenizer: &Tokenizer) -> Self {
        let spelling = |id| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            match tokenizer.kind(id) {
                Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte) => {
                    Spelling::Text(bytes.into_owned())
                }
                Some(TokenKind::Control) => {
                    Spelling::Control(String::from_utf8_lossy(&bytes).into_owned())
                }
                Some(TokenKind::Unknown | TokenKind::Unused) | None => Spelling::None,
            }
        };
        TokenTable {
            tokens: (0..tokenizer.vocab_size() as u32).map(spelling).collect(),
            end_of_generation: tokenizer.end_of_generation().to_vec(),
        }
    }
}
