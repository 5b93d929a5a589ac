//! The strings of an array.

use std::ops::Index;

/// Strings end to end in one allocation: a vocabulary of 262,144 tokens (Gemma 3) takes 4 MB, where
/// as many `String`s take 15.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// End of each string in `text`; it starts where the one before ends.
    ends: Vec<usize>,
}

impl Strings {
    /// None yet, with room for `count`.
    pub fn with_capacity(count: usize) -> Self {
        Strings { text: String::new(), ends: Vec::with_capacity(count) }
    }

    /// Appends a string.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// Gives back the memory that was taken for more to come.
    pub fn shrink_to_fit(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    /// All, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| &self[index])
    }

    /// Memory on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<usize>()
    }
}

impl Index<usize> for Strings {
    type Output = str;

    /// # Panics
    /// If there is no such string.
    fn index(&self, index: usize) -> &str {
        self.get(index).expect("an index below the number of strings")
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Strings::default();
        for text in strings {
            all.push(text.as_ref());
        }
        all
    }
}

impl std::fmt::Debug for Strings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_their_bounds() {
        let strings: Strings = ["", "ab", "", "\u{e9}"].into_iter().collect();
        assert_eq!(strings.len(), 4);
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "ab", "", "\u{e9}"]);
        assert_eq!((strings.get(1), strings.get(4)), (Some("ab"), None));
        assert_ne!(strings, ["a", "b", "", "\u{e9}"].into_iter().collect());
        assert!(Strings::default().is_empty());
    }
}
