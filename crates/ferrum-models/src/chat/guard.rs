//! Keeps text of users text: what looks like a control token in a message does not become one.
//!
//! A template mixes its own text with that of the messages, and only the result can be tokenised
//! (merges go across the borders). So each place of a message where a control token's text stands,
//! or where the template's neighbouring text could complete one, gets a *mark*: a private-use
//! character that occurs nowhere else in this render. Marks stand inside the look-alike or at the
//! inner side of the white space around the message, so that `trim`, `split`, `startswith` and the
//! like do to marked text what they do to the plain one. After rendering, a mark tells that its
//! neighbour is text; the marks are taken out, and the prompt becomes segments in which no control
//! token of a message is all markup.
//!
//! That the marks changed nothing else is checked: the render without them must give the same
//! text. A template that looks at control tokens within messages fails that check and is refused
//! ([`ChatError::Ambiguous`]). Messages without look-alikes, nearly all, need no marks.

use aho_corasick::AhoCorasick;

use super::error::ChatError;
use super::message::Origin;
use crate::tokenizer::Segment;

/// A piece of a rendered prompt; see [`Segment`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedSegment {
    /// Written by the template.
    Markup(String),
    /// Written by someone else.
    Text(String),
}

impl OwnedSegment {
    /// The segment for the tokenizer.
    pub fn as_segment(&self) -> Segment<'_> {
        match self {
            OwnedSegment::Markup(text) => Segment::Markup(text),
            OwnedSegment::Text(text) => Segment::Text(text),
        }
    }

    /// The text, whoever wrote it.
    pub fn text(&self) -> &str {
        let (OwnedSegment::Markup(text) | OwnedSegment::Text(text)) = self;
        text
    }
}

/// The texts of control tokens, for finding whole ones and parts at the ends of a message.
pub(super) struct Guard {
    whole: AhoCorasick,
    /// Sorted.
    texts: Vec<String>,
    /// Sorted; each text backwards.
    backwards: Vec<String>,
    /// Characters of the longest.
    longest: usize,
}

/// The two marks of one render.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// The character before it is text.
    after: char,
    /// The character that follows is text.
    before: char,
}

/// Private-use characters (planes 15 and 16), which Unicode gives no meaning: no white space, no
/// case, no escape in JSON.
const PRIVATE: std::ops::RangeInclusive<u32> = 0xF0000..=0xFFFFD;

impl Marks {
    /// Two private characters that do not occur in `texts`.
    pub fn unused_in<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, ChatError> {
        let start = *PRIVATE.start();
        let mut used = vec![false; PRIVATE.count()];
        for c in texts.flat_map(str::chars) {
            if PRIVATE.contains(&(c as u32)) {
                used[(c as u32 - start) as usize] = true;
            }
        }
        let mut free = used
            .iter()
            .zip(start..)
            .filter(|(used, _)| !**used)
            .filter_map(|(_, code)| char::from_u32(code));
        match (free.next(), free.next()) {
            (Some(after), Some(before)) => Ok(Marks { after, before }),
            _ => Err(ChatError::NoMark),
        }
    }

    /// `text` without marks.
    pub fn remove(self, text: &str) -> String {
        text.replace([self.after, self.before], "")
    }

    /// Divides a marked render.
    pub fn segments(self, marked: &str) -> Vec<OwnedSegment> {
        let mut segments = Segments::default();
        let mut chars = marked.chars().peekable();
        let mut is_text = false;
        while let Some(c) = chars.next() {
            if c == self.before {
                is_text = true;
            } else if c != self.after {
                let text = is_text || chars.peek() == Some(&self.after);
                segments.push(c, text);
                is_text = false;
            }
        }
        segments.done
    }
}

#[derive(Default)]
struct Segments {
    done: Vec<OwnedSegment>,
}

impl Segments {
    fn push(&mut self, c: char, is_text: bool) {
        match (self.done.last_mut(), is_text) {
            (Some(OwnedSegment::Markup(text)), false) | (Some(OwnedSegment::Text(text)), true) => {
                text.push(c);
            }
            (_, false) => self.done.push(OwnedSegment::Markup(c.to_string())),
            (_, true) => self.done.push(OwnedSegment::Text(c.to_string())),
        }
    }
}

impl Guard {
    /// A guard against the tokens with these texts.
    pub fn new(mut texts: Vec<String>) -> Result<Self, ChatError> {
        texts.retain(|text| !text.is_empty());
        texts.sort_unstable();
        texts.dedup();
        let mut backwards: Vec<String> =
            texts.iter().map(|text| text.chars().rev().collect()).collect();
        backwards.sort_unstable();
        let whole = AhoCorasick::new(&texts).map_err(|e| ChatError::Tokens(e.to_string()))?;
        let longest = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        Ok(Guard { whole, texts, backwards, longest })
    }

    /// Whether `text` needs marks.
    pub fn concerns(&self, origin: Origin, text: &str) -> bool {
        let core = text.trim();
        let at_ends = || origin == Origin::Prose && (self.opens(core) || self.closes(core));
        !core.is_empty() && (self.whole.is_match(core) || at_ends())
    }

    /// `text` with marks where a control token stands and, in prose, where the text around it
    /// could complete one. Data gets no marks at its ends, since templates compare it.
    pub fn mark(&self, origin: Origin, text: &str, marks: Marks) -> String {
        if !self.concerns(origin, text) {
            return text.to_string();
        }
        let core = text.trim();
        let mut marked = String::with_capacity(text.len() + 16);
        marked.push_str(&text[..text.len() - text.trim_start().len()]);
        if origin == Origin::Prose && self.closes(core) {
            marked.push(marks.before);
        }
        let mut starts: Vec<usize> =
            self.whole.find_overlapping_iter(core).map(|found| found.start()).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut at = 0;
        for start in starts {
            let inside = start + core[start..].chars().next().map_or(0, char::len_utf8);
            marked.push_str(&core[at..inside]);
            marked.push(marks.after);
            at = inside;
        }
        marked.push_str(&core[at..]);
        if origin == Origin::Prose && self.opens(core) {
            marked.push(marks.after);
        }
        marked.push_str(&text[text.trim_end().len()..]);
        marked
    }

    /// Whether a token could begin in `core` and go on after it.
    fn opens(&self, core: &str) -> bool {
        let ends = core.char_indices().rev().take(self.longest).map(|(at, _)| &core[at..]);
        has_prefix(&self.texts, ends) || self.is_inside(core)
    }

    /// Whether a token could begin before `core` and go on in it.
    fn closes(&self, core: &str) -> bool {
        let first: Vec<char> = core.chars().take(self.longest).collect();
        let reversed: String = first.into_iter().rev().collect();
        let starts = reversed.char_indices().map(|(at, _)| &reversed[at..]);
        has_prefix(&self.backwards, starts) || self.is_inside(core)
    }

    /// Whether `core` lies within a token.
    fn is_inside(&self, core: &str) -> bool {
        core.chars().count() < self.longest && self.texts.iter().any(|text| text.contains(core))
    }
}

/// Whether one of `sorted` is longer than one of `parts` and begins with it.
fn has_prefix<'a>(sorted: &[String], mut parts: impl Iterator<Item = &'a str>) -> bool {
    parts.any(|part| {
        let first = sorted.partition_point(|text| text.as_str() <= part);
        sorted.get(first).is_some_and(|text| text.starts_with(part))
    })
}
