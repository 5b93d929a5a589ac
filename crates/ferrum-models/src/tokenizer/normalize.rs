//! What is done to text before it is cut into words.

use std::borrow::Cow;

use super::charsmap::Charsmap;
use regex_automata::meta::Regex;
use unicode_normalization::{UnicodeNormalization, is_nfc, is_nfd, is_nfkc, is_nfkd};

/// Steps, one after the other.
#[derive(Default)]
pub(super) struct Normalizer {
    pub steps: Vec<Step>,
}

/// A change of a text. Those that put something in front leave an empty text as it is.
pub(super) enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    /// Puts a text in front.
    Prepend(String),
    /// Puts a text in front where it does not begin so; of a prompt with several parts perhaps only
    /// in front of the first.
    Begin {
        with: String,
        first_only: bool,
    },
    /// Replaces a text wherever it stands.
    Replace {
        from: String,
        to: String,
    },
    /// Replaces what is in a table.
    Table(Charsmap),
    /// Replaces the matches of a pattern.
    ReplacePattern {
        from: Regex,
        to: String,
    },
    /// Takes white space off both ends.
    Strip {
        left: bool,
        right: bool,
    },
}

impl Normalizer {
    /// The text that is cut. `first` says that `text` begins the prompt.
    pub fn apply<'a>(&self, text: &'a str, first: bool) -> Cow<'a, str> {
        self.steps.iter().fold(Cow::Borrowed(text), |text, step| step.apply(text, first))
    }
}

impl Step {
    fn apply<'a>(&self, text: Cow<'a, str>, first: bool) -> Cow<'a, str> {
        match self {
            Step::Nfc if !is_nfc(&text) => text.nfc().collect(),
            Step::Nfd if !is_nfd(&text) => text.nfd().collect(),
            Step::Nfkc if !is_nfkc(&text) => text.nfkc().collect(),
            Step::Nfkd if !is_nfkd(&text) => text.nfkd().collect(),
            Step::Nfc | Step::Nfd | Step::Nfkc | Step::Nfkd => text,
            Step::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Step::Prepend(with) if !text.is_empty() => Cow::Owned(format!("{with}{text}")),
            Step::Begin { with, first_only }
                if !text.is_empty() && !text.starts_with(with) && (first || !first_only) =>
            {
                Cow::Owned(format!("{with}{text}"))
            }
            Step::Prepend(_) | Step::Begin { .. } => text,
            Step::Replace { from, to } if text.contains(from) => {
                Cow::Owned(text.replace(from.as_str(), to))
            }
            Step::Replace { .. } => text,
            Step::Table(table) => Cow::Owned(table.apply(&text)),
            Step::ReplacePattern { from, to } => replace(from, &text, to),
            Step::Strip { left, right } => {
                let start = if *left { text.trim_start() } else { &text };
                Cow::Owned(if *right { start.trim_end() } else { start }.to_string())
            }
        }
    }
}

fn replace<'a>(from: &Regex, text: &str, to: &str) -> Cow<'a, str> {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for found in from.find_iter(text) {
        out.push_str(&text[at..found.start()]);
        out.push_str(to);
        at = found.end();
    }
    out.push_str(&text[at..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_change_text_in_order() {
        let mark = |first_only| Step::Begin { with: "_".into(), first_only };
        let normalizer = Normalizer {
            steps: vec![
                Step::Strip { left: true, right: false },
                Step::Nfc,
                Step::Replace { from: " ".into(), to: "_".into() },
                mark(true),
            ],
        };
        assert_eq!(normalizer.apply(" e\u{301} b ", true), "_\u{e9}_b_");
        assert_eq!(normalizer.apply("b", false), "b");
        assert_eq!(normalizer.apply("_b", true), "_b");
        assert_eq!(normalizer.apply("", true), "");
        let always = Normalizer { steps: vec![mark(false), Step::Prepend("<".into())] };
        assert_eq!(always.apply("b", false), "<_b");
        let from = Regex::new("a+").unwrap();
        let pattern = Normalizer { steps: vec![Step::ReplacePattern { from, to: "$0".into() }] };
        assert_eq!(pattern.apply("baab", true), "b$0b");
    }
}
