//! Special tokens: which there are, and where their texts stand in a prompt.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use super::Segment;
use super::error::TokenizerError;
use super::vocab::{SPECIAL, TokenKind, Vocabulary};

/// Texts of tokens that end an answer, whatever the metadata says: converters give one EOS token,
/// but models have several ways to stop. The list is that of llama.cpp (`llama-vocab.cpp`).
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // the parts of a repository in fill-in-the-middle training: what follows is another file
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Texts of fill-in-the-middle tokens, which some conversions leave as normal tokens.
const FILL_TEXTS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
];

/// Whether a token of this text is a control token whatever its type in the file.
pub(super) fn is_control_text(text: &str) -> bool {
    END_TEXTS.contains(&text) || FILL_TEXTS.contains(&text)
}

/// The tokens that end an answer: those of `named` (EOS, EOT, …) and those known by their text.
pub(super) fn end_of_generation(vocab: &Vocabulary, named: impl Iterator<Item = u32>) -> Vec<u32> {
    let ends = |id: &u32| END_TEXTS.iter().any(|text| text.as_bytes() == vocab.bytes(*id));
    let mut ids: Vec<u32> = vocab.of_kind(&[TokenKind::Control]).filter(ends).collect();
    ids.extend(named);
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The token of this text, in the order of what it can be: special, or any other.
pub(super) fn by_text(vocab: &Vocabulary, text: &str) -> Option<u32> {
    let all = [TokenKind::Control, TokenKind::Unknown, TokenKind::UserDefined, TokenKind::Normal];
    let is_it = |id: &u32| vocab.bytes(*id) == text.as_bytes();
    all.iter().find_map(|kind| vocab.of_kind(std::slice::from_ref(kind)).find(is_it))
}

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// A token whose text stood in the prompt.
    Token(u32),
    /// Text for the tokenizer's own algorithm.
    Text(Range<usize>),
}

/// Finds the texts of special tokens.
pub(super) struct Specials {
    /// Control and unknown tokens: in markup only.
    control: Finder,
    /// User-defined tokens: in all text.
    user_defined: Finder,
    strips: HashMap<u32, Strip>,
}

/// The white space beside a token that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Strip {
    pub left: bool,
    pub right: bool,
}

impl Specials {
    /// Builds the automata over the special tokens of `vocab`. Those in `strips` take white space with
    /// them.
    pub fn new(vocab: &Vocabulary, strips: HashMap<u32, Strip>) -> Result<Self, TokenizerError> {
        Ok(Specials {
            strips,
            control: Finder::new(vocab, SPECIAL)?,
            user_defined: Finder::new(vocab, &[TokenKind::UserDefined])?,
        })
    }

    /// Divides `segments` into special tokens and text; ranges refer to the text that is given
    /// back, the concatenation of all segments.
    ///
    /// The text of a control token counts where all of it is markup. What is then left is cut at
    /// user-defined tokens without regard to segments, so that dividing a text into segments does
    /// not change its tokens.
    pub fn divide<'a>(&self, segments: &[Segment<'a>]) -> (Cow<'a, str>, Vec<Part>) {
        let (text, markup) = join(segments);
        let mut parts = Vec::new();
        let mut at = 0;
        for run in markup {
            for (id, range) in self.control.find(&text, run) {
                if range.start < at {
                    continue; // white space that went with the token before
                }
                let Range { start, end } = self.stripped(&text, id, at..range.start, range.end);
                self.divide_plain(&text, at..start, &mut parts);
                parts.push(Part::Token(id));
                at = end;
            }
        }
        self.divide_plain(&text, at..text.len(), &mut parts);
        (text, parts)
    }

    /// The place of token `id`, which stands between the text `before` and that from `end`, with the
    /// white space that goes with it.
    fn stripped(&self, text: &str, id: u32, before: Range<usize>, end: usize) -> Range<usize> {
        let Strip { left, right } = self.strips.get(&id).copied().unwrap_or_default();
        let kept = text[before.clone()].trim_end().len();
        let space = text[end..].len() - text[end..].trim_start().len();
        let start = if left { before.start + kept } else { before.end };
        start..if right { end + space } else { end }
    }

    fn divide_plain(&self, text: &str, range: Range<usize>, parts: &mut Vec<Part>) {
        let mut at = range.start;
        for (id, found) in self.user_defined.find(text, range.clone()) {
            if found.start < at {
                continue;
            }
            let whole = &text[..range.end];
            let Range { start, end } = self.stripped(whole, id, at..found.start, found.end);
            push_text(at..start, parts);
            parts.push(Part::Token(id));
            at = end;
        }
        push_text(at..range.end, parts);
    }
}

fn push_text(range: Range<usize>, parts: &mut Vec<Part>) {
    if !range.is_empty() {
        parts.push(Part::Text(range));
    }
}

/// The text of all segments and the ranges of it that are markup, neighbours merged.
fn join<'a>(segments: &[Segment<'a>]) -> (Cow<'a, str>, Vec<Range<usize>>) {
    let mut text = Cow::Borrowed("");
    let mut markup: Vec<Range<usize>> = Vec::new();
    for segment in segments {
        let start = text.len();
        let (Segment::Markup(part) | Segment::Text(part)) = *segment;
        text += part;
        if let Segment::Markup(_) = segment {
            match markup.last_mut() {
                Some(last) if last.end == start => last.end = text.len(),
                _ => markup.push(start..text.len()),
            }
        }
    }
    (text, markup)
}

/// Finds the texts of some tokens: leftmost first, of several there the longest.
struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Finder {
    fn new(vocab: &Vocabulary, kinds: &[TokenKind]) -> Result<Self, TokenizerError> {
        let ids: Vec<u32> =
            vocab.of_kind(kinds).filter(|id| !vocab.bytes(*id).is_empty()).collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(ids.iter().map(|id| vocab.bytes(*id)))
            .map_err(|e| TokenizerError::Pattern {
                pattern: "special tokens".to_string(),
                reason: e.to_string(),
            })?;
        Ok(Finder { automaton, ids })
    }

    fn find<'a>(
        &'a self,
        text: &'a str,
        range: Range<usize>,
    ) -> impl Iterator<Item = (u32, Range<usize>)> + 'a {
        let start = range.start;
        self.automaton
            .find_iter(&text[range])
            .map(move |m| (self.ids[m.pattern()], start + m.start()..start + m.end()))
    }
}
