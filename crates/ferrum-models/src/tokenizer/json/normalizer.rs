//! `normalizer`: what is done to text first.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::super::charsmap::Charsmap;
use super::super::error::TokenizerError;
use super::super::normalize::Step;
use super::super::oniguruma;
use super::super::wordpiece::Normalization;
use super::file::{Part, Pattern};
use super::unsupported;

/// Steps of a normalizer, and how many times longer they may make a text, all together.
const MAX_STEPS: usize = 64;
const MAX_GROWTH: f64 = 128.0;

/// The steps of a tokenizer that is not BERT's.
pub(super) fn steps(value: Option<&Value>) -> Result<Vec<Step>, TokenizerError> {
    let steps: Vec<Step> =
        Part::flat(value, "normalizers")?.iter().map(step).collect::<Result<_, _>>()?;
    // A text may grow with each step: what a small file makes of it stays within bounds.
    let growth: f64 = steps.iter().map(growth).product();
    if steps.len() > MAX_STEPS || growth > MAX_GROWTH {
        return Err(unsupported("normalizer", "Sequence that makes texts many times longer"));
    }
    Ok(steps)
}

/// How many times longer a step makes a text, at most.
fn growth(step: &Step) -> f64 {
    match step {
        Step::Replace { from, to } => (to.len() as f64 / from.len() as f64).max(1.0),
        // An entry and a match may be a single byte.
        Step::Table(table) => (table.longest() as f64).max(1.0),
        Step::ReplacePattern { to, .. } => (to.len() as f64).max(1.0),
        _ => 1.0,
    }
}

fn step(part: &Part<'_>) -> Result<Step, TokenizerError> {
    Ok(match part.kind {
        "NFC" => Step::Nfc,
        "NFD" => Step::Nfd,
        "NFKC" => Step::Nfkc,
        "NFKD" => Step::Nfkd,
        "Lowercase" => Step::Lowercase,
        "Precompiled" => Step::Table(charsmap(part)?),
        "Prepend" => Step::Prepend(part.text("prepend")?.to_string()),
        "Strip" => Step::Strip {
            left: part.flag("strip_left", true)?,
            right: part.flag("strip_right", true)?,
        },
        "Replace" => {
            let to = part.text("content")?.to_string();
            match part.pattern()? {
                Pattern::Text("") => return Err(unsupported("normalizer", "Replace of nothing")),
                Pattern::Text(from) => Step::Replace { from: from.to_string(), to },
                Pattern::Regex(pattern) => {
                    let from = oniguruma::compile(&[pattern])?;
                    // The package itself fails on some texts then.
                    if from.is_match("") {
                        return Err(unsupported("normalizer", "Replace of what may be nothing"));
                    }
                    Step::ReplacePattern { from, to }
                }
            }
        }
        other => return Err(unsupported("normalizer", other)),
    })
}

/// The table of a `Precompiled`.
fn charsmap(part: &Part<'_>) -> Result<Charsmap, TokenizerError> {
    let key = "precompiled_charsmap";
    let bytes = BASE64.decode(part.text(key)?).ok();
    bytes.and_then(|bytes| Charsmap::new(&bytes)).ok_or_else(|| part.invalid(key))
}

/// BERT's own normalizer.
pub(super) fn bert(value: Option<&Value>) -> Result<Normalization, TokenizerError> {
    let parts = Part::flat(value, "normalizers")?;
    let [part] = parts.as_slice() else {
        let kind = parts.get(1).map_or("null", |part| part.kind);
        return Err(unsupported("normalizer", kind));
    };
    if part.kind != "BertNormalizer" {
        return Err(unsupported("normalizer", part.kind));
    }
    for key in ["clean_text", "handle_chinese_chars"] {
        if !part.flag(key, true)? {
            return Err(unsupported("BertNormalizer without", key));
        }
    }
    let lowercase = part.flag("lowercase", true)?;
    Ok(Normalization { lowercase, strip_accents: part.flag("strip_accents", lowercase)? })
}
