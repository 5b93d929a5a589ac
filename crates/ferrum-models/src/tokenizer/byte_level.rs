//! The alphabet of byte-level vocabularies: each byte written as one printable character.
//!
//! Source: `bytes_to_unicode` in OpenAI's GPT-2 `encoder.py` (2019). Bytes that print in Latin-1
//! stand for themselves; the other 68 are, in order, the characters from U+0100.

/// The byte that `c` stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes that `text` stands for; `None` where a character is outside the alphabet.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}
