//! Lines to inputs: a backslash at a line's end, or `"""` around several lines.

const QUOTES: &str = "\"\"\"";

/// Collects the lines of one input.
#[derive(Debug, Default)]
pub struct Composer {
    text: String,
    quoted: bool,
    started: bool,
}

/// What a line did.
#[derive(Debug, PartialEq, Eq)]
pub enum Composed {
    /// The input goes on.
    More,
    /// The input is complete.
    Input(String),
}

impl Composer {
    /// Whether nothing was typed yet.
    pub fn is_empty(&self) -> bool {
        !self.started
    }

    /// Takes a line; after [`Composed::Input`] the composer is empty again.
    pub fn push(&mut self, line: &str) -> Composed {
        let mut line = line;
        if !self.started && line.trim_start().starts_with(QUOTES) {
            self.quoted = true;
            line = &line.trim_start()[QUOTES.len()..];
            // The opening quotes alone on their line add no line.
            if line.is_empty() {
                self.started = true;
                return Composed::More;
            }
        }
        self.started = true;
        if self.quoted {
            return match line.trim_end().strip_suffix(QUOTES) {
                Some(last) => {
                    self.text.push_str(last);
                    self.take()
                }
                None => self.more(line),
            };
        }
        match line.strip_suffix('\\') {
            Some(line) => self.more(line),
            None => {
                self.text.push_str(line);
                self.take()
            }
        }
    }

    fn more(&mut self, line: &str) -> Composed {
        self.text.push_str(line);
        self.text.push('\n');
        Composed::More
    }

    fn take(&mut self) -> Composed {
        let mut text = std::mem::take(self).text;
        if text.ends_with('\n') {
            text.pop(); // the closing quotes alone on their line add no line
        }
        Composed::Input(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compose(lines: &[&str]) -> Vec<String> {
        let mut composer = Composer::default();
        let mut inputs = Vec::new();
        for line in lines {
            if let Composed::Input(text) = composer.push(line) {
                assert!(composer.is_empty());
                inputs.push(text);
            }
        }
        assert!(composer.is_empty(), "an input is not complete");
        inputs
    }

    #[test]
    fn lines_are_put_together() {
        assert_eq!(compose(&["one", "two"]), ["one", "two"]);
        assert_eq!(compose(&["a\\", "b\\", "c", "d"]), ["a\nb\nc", "d"]);
        assert_eq!(compose(&["\"\"\"", "a", "", " b\\", "\"\"\"", "c"]), ["a\n\n b\\", "c"]);
        assert_eq!(compose(&["\"\"\"a", "b\"\"\""]), ["a\nb"]);
        assert_eq!(compose(&["\"\"\"a\"\"\""]), ["a"]);
        assert_eq!(compose(&["say \"\"\" please"]), ["say \"\"\" please"]);
    }
}
