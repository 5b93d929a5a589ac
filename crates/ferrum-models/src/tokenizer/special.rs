//! Special tokens: which there are, and where their texts stand in a prompt.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use regex_automata::meta::Regex;

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
    /// Those of them that are looked for once the text is normalised.
    normalized: Option<Finder>,
    flags: HashMap<u32, Flags>,
    /// A letter or what goes with letters, for tokens that must be words of their own.
    word: Option<Regex>,
}

/// How the text around a token matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Flags {
    /// White space before it goes with it.
    pub left: bool,
    /// White space after it goes with it.
    pub right: bool,
    /// It counts only where no letter stands beside it.
    pub word: bool,
    /// It is looked for in the normalised text.
    pub normalized: bool,
}

impl Specials {
    /// Builds the automata over the special tokens of `vocab`; `flags` has those that differ from the
    /// default.
    pub fn new(vocab: &Vocabulary, flags: HashMap<u32, Flags>) -> Result<Self, TokenizerError> {
        let normalized = |id: &u32| flags.get(id).is_some_and(|flags| flags.normalized);
        let user_defined = &[TokenKind::UserDefined];
        let word = match flags.values().any(|flags| flags.word) {
            true => Some(Regex::new(r"\w").map_err(|e| pattern_error(&e.to_string()))?),
            false => None,
        };
        Ok(Specials {
            control: Finder::new(vocab, SPECIAL, |_| true)?,
            user_defined: Finder::new(vocab, user_defined, |id| !normalized(id))?,
            normalized: match vocab.of_kind(user_defined).any(|id| normalized(&id)) {
                true => Some(Finder::new(vocab, user_defined, normalized)?),
                false => None,
            },
            flags,
            word,
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
            for (id, found) in self.control.find(&text, run) {
                let limit = text.len();
                let Some(Range { start, end }) = self.place(&text, id, (at, limit), found) else {
                    continue;
                };
                self.divide_by(&self.user_defined, &text, at..start, &mut parts);
                parts.push(Part::Token(id));
                at = end;
            }
        }
        self.divide_by(&self.user_defined, &text, at..text.len(), &mut parts);
        (text, parts)
    }

    /// Divides a piece that is normalised by the tokens that are looked for then.
    pub fn divide_normalized(&self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        match &self.normalized {
            Some(finder) => self.divide_by(finder, text, 0..text.len(), &mut parts),
            None => push_text(0..text.len(), &mut parts),
        }
        parts
    }

    /// The place of token `id`, which was found there, with the white space that goes with it, from
    /// `within.0` on and up to `within.1`; `None` where it does not count.
    fn place(
        &self,
        text: &str,
        id: u32,
        within: (usize, usize),
        found: Range<usize>,
    ) -> Option<Range<usize>> {
        let Range { mut start, mut end } = found;
        let Flags { left, right, word, .. } = self.flags.get(&id).copied().unwrap_or_default();
        if word {
            let before = text[..start].chars().next_back();
            let after = text[end..].chars().next();
            if [before, after].into_iter().flatten().any(|c| self.is_of_word(c)) {
                return None;
            }
        }
        if left {
            start = text[..start].trim_end().len().max(within.0);
        }
        if right {
            let rest = &text[end..within.1];
            end += rest.len() - rest.trim_start().len();
        }
        Some(start..end)
    }

    fn is_of_word(&self, c: char) -> bool {
        self.word.as_ref().is_some_and(|word| word.is_match(&*c.encode_utf8(&mut [0; 4])))
    }

    /// A token found in white space that went with the one before it counts all the same, and what
    /// follows it is text again: so does the `tokenizers` package.
    fn divide_by(&self, finder: &Finder, text: &str, range: Range<usize>, parts: &mut Vec<Part>) {
        if range.start >= range.end {
            return;
        }
        let mut at = range.start;
        for (id, found) in finder.find(text, range.clone()) {
            let Some(Range { start, end }) = self.place(text, id, (at, range.end), found) else {
                continue;
            };
            push_text(at..start, parts);
            parts.push(Part::Token(id));
            at = end;
        }
        push_text(at..range.end, parts);
    }
}

fn push_text(range: Range<usize>, parts: &mut Vec<Part>) {
    if range.start < range.end {
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
    /// Over the tokens of these kinds for which `wanted` is true.
    fn new(
        vocab: &Vocabulary,
        kinds: &[TokenKind],
        wanted: impl Fn(&u32) -> bool,
    ) -> Result<Self, TokenizerError> {
        let wanted = |id: &u32| !vocab.bytes(*id).is_empty() && wanted(id);
        let ids: Vec<u32> = vocab.of_kind(kinds).filter(wanted).collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(ids.iter().map(|id| vocab.bytes(*id)))
            .map_err(|e| pattern_error(&e.to_string()))?;
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

fn pattern_error(reason: &str) -> TokenizerError {
    TokenizerError::Pattern { pattern: "special tokens".to_string(), reason: reason.to_string() }
}
