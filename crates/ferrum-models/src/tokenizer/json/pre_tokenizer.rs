//! `pre_tokenizer`: how text is cut into words.

use regex_automata::meta::Regex;
use serde_json::Value;

use super::super::error::TokenizerError;
use super::super::normalize::Step;
use super::super::pretokenize::{Behavior, PreTokenizer, Stage};
use super::super::spm::SPACE;
use super::file::{Part, Pattern};
use super::unsupported;

/// What the package counts as punctuation.
const PUNCTUATION: &str = r"[\p{P}$+<=>^`|~]";

/// The stages of cutting. What a pre-tokenizer puts in front of a text is added to `steps`.
pub(super) fn read(
    value: Option<&Value>,
    steps: &mut Vec<Step>,
) -> Result<PreTokenizer, TokenizerError> {
    let (mut stages, mut spelled) = (Vec::new(), false);
    let parts = Part::flat(value, "pretokenizers")?;
    if let [words, marks] = parts.as_slice()
        && (words.kind, marks.kind) == ("WhitespaceSplit", "Metaspace")
    {
        return marked_words(marks, steps);
    }
    for (i, part) in parts.iter().enumerate() {
        // Once there are words, something in front of each would be another thing.
        let in_front = |what: &'static str| match i {
            0 => Ok(()),
            _ => Err(unsupported("pre-tokenizer", format!("{what} that is not the first"))),
        };
        // ByteLevel spells bytes in other characters, which the next would see.
        if std::mem::replace(&mut spelled, part.kind == "ByteLevel") {
            return Err(unsupported("pre-tokenizer", format!("{} after ByteLevel", part.kind)));
        }
        let cut = |pattern, behavior| Stage::of_pattern(pattern, behavior, false);
        match part.kind {
            "ByteLevel" => {
                if part.flag("add_prefix_space", true)? {
                    in_front("ByteLevel with a space in front")?;
                    steps.push(Step::Begin { with: " ".into(), first_only: false });
                }
                if part.flag("use_regex", true)? {
                    stages.push(Stage::gpt2()?);
                }
            }
            "Split" => stages.push(split(part)?),
            "Digits" => {
                let single = part.flag("individual_digits", false)?;
                stages.push(cut(if single { r"\p{N}" } else { r"\p{N}+" }, Behavior::Isolated)?);
            }
            "Punctuation" => {
                let name = part.get("behavior").and_then(Value::as_str).unwrap_or("Isolated");
                stages.push(cut(PUNCTUATION, behavior(name)?)?);
            }
            "Whitespace" => {
                stages.push(Stage::whitespace()?);
            }
            "WhitespaceSplit" => stages.push(cut(r"\s", Behavior::Removed)?),
            "Metaspace" => {
                in_front("Metaspace")?;
                stages.extend(metaspace(part, steps)?);
            }
            other => return Err(unsupported("pre-tokenizer", other)),
        }
    }
    Ok(PreTokenizer::of_stages(stages))
}

fn split(part: &Part<'_>) -> Result<Stage, TokenizerError> {
    let (behavior, invert) = (behavior(part.text("behavior")?)?, part.flag("invert", false)?);
    match part.pattern()? {
        Pattern::Regex(pattern) => Stage::of_pattern(pattern, behavior, invert),
        Pattern::Text("") => Err(unsupported("pre-tokenizer", "Split at nothing")),
        Pattern::Text(text) => Stage::of_text(text, behavior, invert),
    }
}

fn behavior(name: &str) -> Result<Behavior, TokenizerError> {
    Ok(match name {
        "Isolated" => Behavior::Isolated,
        "Removed" => Behavior::Removed,
        "Contiguous" => Behavior::Contiguous,
        "MergedWithPrevious" => Behavior::WithPrevious,
        "MergedWithNext" => Behavior::WithNext,
        other => return Err(unsupported("behavior of a split", other)),
    })
}

/// Spaces become marks, and words begin with them.
fn metaspace(part: &Part<'_>, steps: &mut Vec<Step>) -> Result<Option<Stage>, TokenizerError> {
    if part.get("replacement").and_then(Value::as_str) != Some(SPACE) {
        return Err(unsupported("Metaspace's", "replacement"));
    }
    steps.push(Step::Replace { from: " ".into(), to: SPACE.into() });
    if has_prefix(part)? {
        let first_only = part.get("prepend_scheme").and_then(Value::as_str) == Some("first");
        steps.push(Step::Begin { with: SPACE.into(), first_only });
    }
    match part.flag("split", true)? {
        true => Ok(Some(Stage::of_pattern(SPACE, Behavior::WithNext, false)?)),
        false => Ok(None),
    }
}

/// Words between white space, each of which gets a mark in front unless it begins with one: the same as
/// putting marks in the place of the white space.
fn marked_words(part: &Part<'_>, steps: &mut Vec<Step>) -> Result<PreTokenizer, TokenizerError> {
    let mut own = Vec::new();
    let stage = metaspace(part, &mut own)?;
    let (Some(stage), Some(Step::Begin { with, first_only: false })) = (stage, own.pop()) else {
        let kind = "Metaspace after WhitespaceSplit that does not mark every word";
        return Err(unsupported("pre-tokenizer", kind));
    };
    let pattern = format!(r"\s+{SPACE}?");
    let from = Regex::new(&pattern)
        .map_err(|e| TokenizerError::Pattern { pattern, reason: e.to_string() })?;
    steps.push(Step::Strip { left: true, right: true });
    steps.push(Step::ReplacePattern { from, to: with.clone() });
    steps.push(Step::Begin { with, first_only: false });
    Ok(PreTokenizer::of_stages(vec![stage]))
}

/// Whether a Metaspace puts a mark in front of a text.
pub(super) fn has_prefix(part: &Part<'_>) -> Result<bool, TokenizerError> {
    match part.get("prepend_scheme").and_then(Value::as_str) {
        Some("always" | "first") => Ok(true),
        Some("never") => Ok(false),
        Some(other) => Err(unsupported("Metaspace's prepend_scheme", other)),
        None => part.flag("add_prefix_space", true),
    }
}
