//! `post_processor`: the tokens around a text.

use serde_json::Value;

use super::super::error::TokenizerError;
use super::super::special;
use super::super::vocab::Vocabulary;
use super::file::Part;
use super::{missing, unsupported};

/// The tokens that a text gets in front and behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Around {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Those between two texts, where the tokens around both are those around one.
    pub between: Option<Vec<u32>>,
}

pub(super) fn around(value: Option<&Value>, vocab: &Vocabulary) -> Result<Around, TokenizerError> {
    let mut around = Around::default();
    for part in Part::flat(value, "processors")? {
        let found = match part.kind {
            // About places in the text, which are not asked for.
            "ByteLevel" => continue,
            "TemplateProcessing" => template(&part, vocab)?,
            "BertProcessing" | "RobertaProcessing" => {
                let (cls, sep) = (pair(&part, "cls", vocab)?, pair(&part, "sep", vocab)?);
                let times = if part.kind == "BertProcessing" { 1 } else { 2 };
                Around { bos: Some(cls), eos: Some(sep), between: Some(vec![sep; times]) }
            }
            other => return Err(unsupported("post-processor", other)),
        };
        if around.bos.is_some() || around.eos.is_some() {
            return Err(unsupported("post-processor", "several that add tokens"));
        }
        around = found;
    }
    Ok(around)
}

/// `single`: tokens, the text, tokens; `pair`: tokens, a text, tokens, the other, tokens.
fn template(part: &Part<'_>, vocab: &Vocabulary) -> Result<Around, TokenizerError> {
    let one = |tokens: &[u32]| match tokens {
        [] => Ok(None),
        [id] => Ok(Some(*id)),
        _ => Err(unsupported("post-processor", "several tokens on one side of a text")),
    };
    let (bos, eos) = match runs(part.list("single")?, vocab)?.as_slice() {
        [before, after] => (one(before)?, one(after)?),
        [_] => return Err(unsupported("post-processor", "no text")),
        _ => return Err(unsupported("post-processor", "a template with several texts")),
    };
    // What joins pairs asks for it, and others never look.
    let pair = part.list("pair").and_then(|items| runs(items, vocab)).unwrap_or_default();
    let between = match pair.as_slice() {
        [before, between, after]
            if before.iter().eq(bos.as_ref()) && after.iter().eq(eos.as_ref()) =>
        {
            Some(between.clone())
        }
        _ => None,
    };
    Ok(Around { bos, eos, between })
}

/// The tokens of a template before, between and behind its texts.
fn runs(items: &[Value], vocab: &Vocabulary) -> Result<Vec<Vec<u32>>, TokenizerError> {
    /// More than any template has: each is looked up in the whole vocabulary.
    const MAX_ITEMS: usize = 16;
    if items.len() > MAX_ITEMS {
        return Err(unsupported("post-processor", "a template of many items"));
    }
    let mut runs = vec![Vec::new()];
    for item in items {
        if let Some(token) = item.get("SpecialToken") {
            let text = token.get("id").and_then(Value::as_str).unwrap_or_default();
            let id = special::by_text(vocab, text).ok_or_else(|| missing(text))?;
            runs.last_mut().into_iter().for_each(|run| run.push(id));
        } else if item.get("Sequence").is_some() {
            runs.push(Vec::new());
        } else {
            return Err(unsupported("post-processor", "an item of a template"));
        }
    }
    Ok(runs)
}

/// `["[CLS]", 101]`
fn pair(part: &Part<'_>, key: &str, vocab: &Vocabulary) -> Result<u32, TokenizerError> {
    let text = part.list(key)?.first().and_then(Value::as_str).unwrap_or_default();
    special::by_text(vocab, text).ok_or_else(|| missing(text))
}
