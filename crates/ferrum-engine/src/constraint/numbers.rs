//! Numbers that every JSON parser reads.
//!
//! JSON's own grammar allows `1e999`, which parsers refuse or turn into infinity. Within JSON, an
//! answer's numbers therefore have at most 200 digits before the point and two in the exponent.

use std::sync::Arc;

use super::TokenMask;

const MAX_DIGITS: u32 = 200;
const MAX_EXPONENT_DIGITS: u32 = 2;

/// The tokens that could make a number too long.
#[derive(Debug)]
pub(super) struct NumberTokens {
    bytes: Vec<u8>,
    /// End of each token in `bytes`.
    ends: Vec<usize>,
    /// Tokens with a digit and without a quotation mark: harmless within strings.
    plain: Vec<u32>,
    /// Tokens with both.
    quoted: Vec<u32>,
}

impl NumberTokens {
    /// Looks through `words`, by token.
    pub(super) fn new(words: &[Vec<u8>]) -> Self {
        let mut tokens =
            NumberTokens { bytes: Vec::new(), ends: Vec::new(), plain: vec![], quoted: vec![] };
        for (token, word) in (0..).zip(words) {
            tokens.bytes.extend_from_slice(word);
            tokens.ends.push(tokens.bytes.len());
            if word.iter().any(u8::is_ascii_digit) {
                let quoted = word.contains(&b'"');
                if quoted { &mut tokens.quoted } else { &mut tokens.plain }.push(token);
            }
        }
        tokens
    }

    fn bytes(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let start = if token == 0 { 0 } else { self.ends[token - 1] };
        &self.bytes[start..self.ends[token]]
    }
}

/// Where in JSON the answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Between,
    Text,
    Escape,
    /// So many digits before the point.
    Integer(u32),
    Fraction,
    /// After `e`, with so many digits.
    Exponent(u32),
}

impl Place {
    fn after(self, byte: u8) -> Place {
        use Place::{Between, Escape, Exponent, Fraction, Integer, Text};
        match (self, byte) {
            (Text, b'\\') => Escape,
            (Text, b'"') => Between,
            (Text | Escape, _) => Text,
            (_, b'"') => Text,
            (Integer(n), b'0'..=b'9') => Integer(n + 1),
            (Integer(_), b'.') => Fraction,
            (Integer(_) | Fraction, b'e' | b'E') => Exponent(0),
            (Fraction, b'0'..=b'9') => Fraction,
            (Exponent(0), b'+' | b'-') => Exponent(0),
            (Exponent(n), b'0'..=b'9') => Exponent(n + 1),
            (_, b'0'..=b'9') => Integer(1),
            _ => Between,
        }
    }

    fn too_long(self) -> bool {
        match self {
            Place::Integer(n) => n > MAX_DIGITS,
            Place::Exponent(n) => n > MAX_EXPONENT_DIGITS,
            _ => false,
        }
    }
}

/// Follows an answer of JSON.
#[derive(Debug, Clone)]
pub(super) struct NumberGuard {
    tokens: Arc<NumberTokens>,
    place: Place,
}

impl NumberGuard {
    pub(super) fn new(tokens: Arc<NumberTokens>) -> Self {
        NumberGuard { tokens, place: Place::Between }
    }

    /// Takes the tokens out of `mask` that make a number too long, and returns them.
    pub(super) fn restrict(&self, mask: &mut TokenMask) -> Vec<u32> {
        let NumberTokens { plain, quoted, .. } = self.tokens.as_ref();
        let in_text = matches!(self.place, Place::Text | Place::Escape);
        let plain = if in_text { &[] } else { plain.as_slice() };
        let too_long = |token: u32| {
            let mut place = self.place;
            self.tokens.bytes(token).iter().any(|&byte| {
                place = place.after(byte);
                place.too_long()
            })
        };
        let removed: Vec<u32> = plain
            .iter()
            .chain(quoted)
            .copied()
            .filter(|&token| mask.allows(token) && too_long(token))
            .collect();
        removed.iter().for_each(|&token| mask.remove(token));
        removed
    }

    /// Takes note of the token that came.
    pub(super) fn commit(&mut self, token: u32) {
        if (token as usize) < self.tokens.ends.len() {
            let bytes = self.tokens.bytes(token);
            self.place = bytes.iter().fold(self.place, |place, &byte| place.after(byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    fn too_long(text: &str) -> bool {
        let mut place = Place::Between;
        text.bytes().any(|byte| {
            place = place.after(byte);
            place.too_long()
        })
    }

    #[test]
    fn long_numbers_are_found_and_only_these() {
        let digits = "1".repeat(200);
        for text in ["1e99", "-1.5E-07", "[1,2e10,3]", r#"{"1e999":"1e999\"1e999"}"#, &digits] {
            assert!(!too_long(text), "{text}");
        }
        let nested = format!("[-{digits}0]");
        for text in ["1e999", "-1.5E-007", r#"{"a":"","b":1e100"#, r#""\\",1e100"#, &nested] {
            assert!(too_long(text), "{text}");
        }
    }
}
