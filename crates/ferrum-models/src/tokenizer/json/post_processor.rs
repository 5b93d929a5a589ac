//! `post_processor`: the tokens around a text.

use serde_json::Value;

use super::super::error::TokenizerError;
use super::super::special;
use super::super::vocab::Vocabulary;
use super::file::Part;
use super::{missing, unsupported};

/// The tokens that a text gets in front and behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Around {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

pub(super) fn around(value: Option<&Value>, vocab: &Vocabulary) -> Result<Around, TokenizerError> {
    let mut around = Around::default();
    for part in Part::flat(value, "processors")? {
        let found = match part.kind {
            // About places in the text, which are not asked for.
            "ByteLevel" => continue,
            "TemplateProcessing" => template(&part, vocab)?,
            "BertProcessing" | "RobertaProcessing" => Around {
                bos: Some(pair(&part, "cls", vocab)?),
                eos: Some(pair(&part, "sep", vocab)?),
            },
            other => return Err(unsupported("post-processor", other)),
        };
        if around != Around::default() {
            return Err(unsupported("post-processor", "several that add tokens"));
        }
        around = found;
    }
    Ok(around)
}

/// `single`: tokens, the text, tokens.
fn template(part: &Part<'_>, vocab: &Vocabulary) -> Result<Around, TokenizerError> {
    let several = || unsupported("post-processor", "several tokens on one side of a text");
    let (mut around, mut after_text) = (Around::default(), false);
    for item in part.list("single")? {
        if let Some(token) = item.get("SpecialToken") {
            let text = token.get("id").and_then(Value::as_str).unwrap_or_default();
            let id = special::by_text(vocab, text).ok_or_else(|| missing(text))?;
            let place = if after_text { &mut around.eos } else { &mut around.bos };
            if place.replace(id).is_some() {
                return Err(several());
            }
        } else if item.get("Sequence").is_some() && !after_text {
            after_text = true;
        } else {
            return Err(unsupported("post-processor", "a template with several texts"));
        }
    }
    if after_text { Ok(around) } else { Err(unsupported("post-processor", "no text")) }
}

/// `["[CLS]", 101]`
fn pair(part: &Part<'_>, key: &str, vocab: &Vocabulary) -> Result<u32, TokenizerError> {
    let text = part.list(key)?.first().and_then(Value::as_str).unwrap_or_default();
    special::by_text(vocab, text).ok_or_else(|| missing(text))
}
