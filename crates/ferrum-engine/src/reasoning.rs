//! The reasoning that an answer begins with: its tokens are counted, and where they are bounded, the
//! tokens that end it are put in place of what the model would go on with.

/// How an answer may reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReasoningSpec {
    /// Tokens of reasoning, at most, if they are bounded; those that end it come on top.
    pub tokens: Option<usize>,
    /// Whether the prompt ends within reasoning.
    pub opened: bool,
    /// The text by which reasoning begins, at the beginning of an answer, unless it is opened.
    pub begin: String,
    /// The text by which it ends.
    pub end: String,
    /// The tokens that end it.
    pub close: Vec<u32>,
}

/// Tokens that a character may still take after the limit, so that it is not cut.
const CHARACTER: usize = 3;

/// One answer's reasoning as it goes on.
#[derive(Debug, Clone)]
pub(crate) struct Reasoning {
    spec: ReasoningSpec,
    state: State,
    /// What may be a part of the mark that is looked for.
    tail: String,
    /// Tokens since reasoning began.
    used: usize,
    /// Whether the last token completed a character.
    whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space has come, or a part of the mark.
    Before,
    Within,
    /// This many of the tokens that end it have come.
    Closing(usize),
    /// It is over, or never was.
    Over,
}

impl Reasoning {
    pub(crate) fn new(spec: ReasoningSpec) -> Self {
        let state = if spec.opened { State::Within } else { State::Before };
        Reasoning { spec, state, tail: String::new(), used: 0, whole: true }
    }

    /// Tokens of reasoning that have come.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// The token that must come next, if reasoning has to end.
    pub(crate) fn forced(&self) -> Option<u32> {
        let Reasoning { spec, used, .. } = self;
        let over = spec.tokens.is_some_and(|most| {
            *used >= most && (self.whole || *used >= most.saturating_add(CHARACTER))
        });
        match self.state {
            State::Within if over => spec.close.first().copied(),
            State::Closing(done) => spec.close.get(done).copied(),
            _ => None,
        }
    }

    /// Whether one of the next `tokens` tokens may be forced.
    pub(crate) fn may_force(&self, tokens: usize) -> bool {
        let later = self.spec.tokens.is_some() && self.state != State::Over;
        self.forced().is_some() || (tokens > 1 && later)
    }

    /// The token that should have been forced cannot come: the model goes on.
    pub(crate) fn barred(&mut self) {
        if let State::Closing(_) = self.state {
            let ended = self.tail.contains(&self.spec.end);
            self.state = if ended { State::Over } else { State::Within };
        }
    }

    /// Takes note of the token that came with this text, and whether it was forced.
    pub(crate) fn take(&mut self, text: &str, forced: bool) {
        self.whole = !text.is_empty();
        match self.state {
            State::Over => {}
            State::Closing(done) => self.closing(done + 1, text),
            State::Within if forced => self.closing(1, text),
            State::Within => {
                self.used += 1;
                self.tail.push_str(text);
                match self.tail.contains(&self.spec.end) {
                    true => self.state = State::Over,
                    false => self.forget(),
                }
            }
            State::Before => {
                self.tail.push_str(text);
                let so_far = self.tail.trim_start();
                if let Some(rest) = so_far.strip_prefix(self.spec.begin.as_str()) {
                    self.tail = rest.to_string();
                    self.state = State::Within;
                } else if !self.spec.begin.starts_with(so_far) {
                    self.state = State::Over;
                }
            }
        }
    }

    /// So many of the tokens that end it have come, the last one with this text.
    fn closing(&mut self, done: usize, text: &str) {
        self.tail.push_str(text);
        self.state = if done < self.spec.close.len() { State::Closing(done) } else { State::Over };
    }

    /// Keeps of the text what may be the beginning of the mark.
    fn forget(&mut self) {
        let mut cut = self.tail.len().saturating_sub(self.spec.end.len());
        while !self.tail.is_char_boundary(cut) {
            cut -= 1;
        }
        self.tail.drain(..cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(tokens: usize, opened: bool) -> Reasoning {
        let (begin, end) = ("<think>".to_string(), "</think>".to_string());
        Reasoning::new(ReasoningSpec {
            tokens: Some(tokens),
            opened,
            begin,
            end,
            close: vec![7, 8],
        })
    }

    /// What is forced while the model says these pieces.
    fn run(mut reasoning: Reasoning, pieces: &[&str]) -> Vec<Option<u32>> {
        let mut out = Vec::new();
        for piece in pieces {
            let forced = reasoning.forced();
            reasoning.take(if forced.is_some() { "." } else { piece }, forced.is_some());
            out.push(forced);
        }
        out
    }

    #[test]
    fn reasoning_ends_when_its_tokens_are_used_up() {
        let none = None;
        let words = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(run(limit(2, true), &words), [none, none, Some(7), Some(8), none, none]);
        assert_eq!(run(limit(0, true), &words[..3]), [Some(7), Some(8), none]);
        // The mark that begins it is no part of it.
        let begun = ["\n<th", "ink>", "b", "c", "d", "e"];
        assert_eq!(run(limit(1, false), &begun), [none, none, none, Some(7), Some(8), none]);
    }

    #[test]
    fn what_does_not_reason_or_has_ended_is_left_alone() {
        let long = vec!["word"; 20];
        assert!(run(limit(2, false), &long).iter().all(Option::is_none));
        let ended: Vec<&str> = ["a</", "think", ">"].into_iter().chain(long).collect();
        assert!(run(limit(4, true), &ended).iter().all(Option::is_none));
    }

    #[test]
    fn characters_are_not_cut() {
        let none = None;
        // Two tokens without text are the first bytes of one character.
        let pieces = ["a", "", "", "é", "b", "c"];
        assert_eq!(run(limit(2, true), &pieces), [none, none, none, none, Some(7), Some(8)]);
        let never = ["", "", "", "", "", "", ""];
        let forced = run(limit(1, true), &never);
        assert_eq!(forced[4..6], [Some(7), Some(8)]);
    }

    #[test]
    fn what_the_grammar_bars_is_not_insisted_on() {
        let mut reasoning = limit(0, true);
        assert_eq!(reasoning.forced(), Some(7));
        reasoning.barred();
        assert_eq!(reasoning.forced(), Some(7), "it is tried again at the next token");
        for (text, then) in [("\n", Some(7)), ("</think>", None)] {
            reasoning.take(text, true);
            assert_eq!(reasoning.forced(), Some(8));
            reasoning.barred();
            assert_eq!(reasoning.forced(), then, "after the mark, the rest is no matter");
        }
    }
}
