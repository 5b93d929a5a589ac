//! Stop strings across token boundaries.

/// Passes text through until a stop string is complete.
///
/// Text that could be the beginning of a stop string is held back until it is known not to be.
/// The string that is complete first wins, and of several that are complete at the same character
/// the longest; so what passes does not depend on how the text is cut into pieces.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    strings: Vec<String>,
    held: String,
    stopped: bool,
}

/// What [`StopMatcher::push`] lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text that is certain to be part of the answer.
    pub text: String,
    /// The stop string that ended the answer, by its index; nothing passes after it.
    pub stop: Option<usize>,
}

impl StopMatcher {
    /// A matcher of `strings`, none of which may be empty.
    pub fn new(strings: Vec<String>) -> Self {
        debug_assert!(strings.iter().all(|s| !s.is_empty()), "an empty stop string");
        StopMatcher { strings, held: String::new(), stopped: false }
    }

    /// The stop string of this index.
    pub fn string(&self, index: usize) -> &str {
        &self.strings[index]
    }

    /// Takes the next piece of the text. After a stop, text is dropped.
    pub fn push(&mut self, text: &str) -> Passed {
        if self.stopped {
            return Passed { text: String::new(), stop: None };
        }
        self.held.push_str(text);
        if let Some((start, index)) = self.first_match() {
            self.stopped = true;
            self.held.truncate(start);
            return Passed { text: std::mem::take(&mut self.held), stop: Some(index) };
        }
        let keep = self.held.len() - self.longest_beginning();
        let held = self.held.split_off(keep);
        Passed { text: std::mem::replace(&mut self.held, held), stop: None }
    }

    /// Releases what is held back: no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and index of the stop string that is complete first.
    fn first_match(&self) -> Option<(usize, usize)> {
        let found = self.strings.iter().enumerate().filter_map(|(index, string)| {
            let start = self.held.find(string.as_str())?;
            Some((start + string.len(), start, index))
        });
        found.min().map(|(_, start, index)| (start, index))
    }

    /// Bytes at the end of the held text that could begin a stop string.
    fn longest_beginning(&self) -> usize {
        let held = self.held.as_bytes();
        let of = |string: &String| {
            let longest = (string.len() - 1).min(held.len());
            (1..=longest).rev().find(|&n| held.ends_with(&string.as_bytes()[..n]))
        };
        self.strings.iter().filter_map(of).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
