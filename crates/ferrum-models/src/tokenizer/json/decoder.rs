//! `decoder`: how the text of tokens becomes that of an answer.
//!
//! What decoders do is known by their family, so here it is only checked that they do that.

use serde_json::Value;

use super::super::Lead;
use super::super::error::TokenizerError;
use super::super::spm::SPACE;
use super::file::{File, Part, Pattern};
use super::{Family, pre_tokenizer, unsupported};

/// What goes off the front of a text. A decoder that does something else than what the family's
/// tokens need is refused.
pub(super) fn lead(file: &File<'_>, family: Family) -> Result<Lead, TokenizerError> {
    let parts = Part::flat(file.decoder.as_ref(), "decoders")?;
    match (family, parts.as_slice()) {
        (_, []) => Err(unsupported("decoder", "null")),
        (Family::Bytes, [part]) if part.kind == "ByteLevel" => Ok(Lead::Keep),
        (Family::WordPiece, [part]) if part.kind == "WordPiece" => {
            match part.get("prefix").and_then(Value::as_str) {
                Some("##") => Ok(Lead::Keep),
                _ => Err(unsupported("decoder", "WordPiece with another prefix than ##")),
            }
        }
        (Family::Characters | Family::Unigram, parts) => {
            characters(parts, file.model.byte_fallback)
        }
        (_, [part]) => Err(unsupported("decoder", part.kind)),
        (_, parts) => Err(unsupported("decoder", sequence(parts))),
    }
}

/// Marks become spaces and byte tokens bytes, and a space in front may go.
fn characters(parts: &[Part<'_>], byte_fallback: bool) -> Result<Lead, TokenizerError> {
    let kinds: Vec<&str> = parts.iter().map(|part| part.kind).collect();
    let (bytes, lead) = match kinds.as_slice() {
        ["Replace"] | ["Replace", "Fuse"] => (false, Lead::Keep),
        ["Replace", "ByteFallback", "Fuse"] => (true, Lead::Keep),
        ["Replace", "Fuse", "Strip"] => (false, strip(&parts[2])?),
        ["Replace", "ByteFallback", "Fuse", "Strip"] => (true, strip(&parts[3])?),
        ["Metaspace"] => {
            if parts[0].text("replacement")? != SPACE {
                return Err(unsupported("decoder", "Metaspace of another mark"));
            }
            let lead = match pre_tokenizer::has_prefix(&parts[0])? {
                true => Lead::MarksOfFirst,
                false => Lead::Keep,
            };
            return match byte_fallback {
                false => Ok(lead),
                true => Err(unsupported("decoder", "Metaspace without ByteFallback")),
            };
        }
        [one] => return Err(unsupported("decoder", *one)),
        _ => return Err(unsupported("decoder", sequence(parts))),
    };
    let marks = matches!(parts[0].pattern()?, Pattern::Text(SPACE));
    if !marks || parts[0].text("content")? != " " {
        return Err(unsupported("decoder", "Replace of something else than the mark by a space"));
    }
    // With one and not the other, bytes stay as they are spelled, or what is none becomes one.
    if bytes != byte_fallback {
        return Err(unsupported("decoder", "ByteFallback unlike the model's byte_fallback"));
    }
    Ok(lead)
}

fn strip(part: &Part<'_>) -> Result<Lead, TokenizerError> {
    let counts = (part.number("start"), part.number("stop"));
    match (part.text("content")?, counts) {
        (" ", (Some(0), Some(0))) => Ok(Lead::Keep),
        (" ", (Some(1), Some(0))) => Ok(Lead::OneSpace),
        _ => Err(unsupported("decoder", "Strip of something else than a space in front")),
    }
}

fn sequence(parts: &[Part<'_>]) -> String {
    let kinds: Vec<&str> = parts.iter().map(|part| part.kind).collect();
    format!("the sequence {}", kinds.join(", "))
}
