//! Takes an answer apart while it comes.

use super::{
    Delta, REASONING_MARKS, ToolFormat,
    call::{CallScanner, Shape},
    frame::Match,
};

/// What to look for in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParserOptions {
    /// How tools are called; `None`: calls are text.
    pub tools: Option<ToolFormat>,
    /// The tools that there are. A call of another is text.
    pub names: Vec<String>,
    /// Whether the answer may begin with reasoning.
    pub reasoning: bool,
    /// The prompt ends within reasoning ([`super::opens_reasoning`]).
    pub opened: bool,
    /// Gives a call only when it is complete. Then a call that breaks off in its arguments is
    /// text; else what came of it before stays a call.
    pub whole_calls: bool,
}

/// Takes an answer apart. See [`super`].
#[derive(Debug, Clone)]
pub struct OutputParser {
    options: ParserOptions,
    state: State,
    /// Text that is not told yet.
    text: String,
    /// Calls that were told.
    calls: usize,
}

#[derive(Debug, Clone)]
enum State {
    /// At the beginning, where reasoning may begin.
    Start,
    /// `fresh`: nothing of it has come, and white space is dropped.
    Reasoning {
        fresh: bool,
    },
    /// Before text. `bare`: a call may begin here without a mark. `keep`: white space is text.
    Margin {
        bare: bool,
        keep: bool,
    },
    Text,
    /// In the JSON of a call.
    Call(Box<Call>),
    /// After the JSON of a call.
    AfterCall {
        list: bool,
    },
}

#[derive(Debug, Clone)]
struct Call {
    scanner: CallScanner,
    /// Bytes of the text before the JSON and bytes of it that were read.
    read: usize,
    /// Whether its beginning was told.
    told: bool,
    /// Whether it stands in a list.
    list: bool,
}

/// Whether there is more to do with the text at hand.
#[derive(PartialEq)]
enum Flow {
    Go,
    Wait,
}

impl OutputParser {
    /// A parser of one answer.
    pub fn new(options: ParserOptions) -> Self {
        let state = match (options.opened, options.reasoning) {
            (true, _) => State::Reasoning { fresh: true },
            (false, true) => State::Start,
            (false, false) => Self::beginning(&options),
        };
        OutputParser { options, state, text: String::new(), calls: 0 }
    }

    /// The beginning of what is not reasoning.
    fn beginning(options: &ParserOptions) -> State {
        if options.tools.is_some_and(ToolFormat::bare_calls) {
            State::Margin { bare: true, keep: true }
        } else {
            State::Text
        }
    }

    /// Calls that were told so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.text.push_str(text);
        self.run(false)
    }

    /// The answer is complete: what was held back.
    pub fn finish(&mut self) -> Vec<Delta> {
        self.run(true)
    }

    fn run(&mut self, end: bool) -> Vec<Delta> {
        let mut deltas = Vec::new();
        loop {
            let flow = match std::mem::replace(&mut self.state, State::Text) {
                State::Start => self.start(end),
                State::Reasoning { fresh } => self.reasoning(fresh, end, &mut deltas),
                State::Margin { bare, keep } => self.margin(bare, keep, end),
                State::Text => self.plain(end, &mut deltas),
                State::Call(call) => self.call(*call, end, &mut deltas),
                State::AfterCall { list } => self.after_call(list, end),
            };
            if flow == Flow::Wait {
                break;
            }
        }
        merge(deltas)
    }

    fn wait(&mut self, state: State) -> Flow {
        self.state = state;
        Flow::Wait
    }

    fn go(&mut self, state: State) -> Flow {
        self.state = state;
        Flow::Go
    }

    fn start(&mut self, end: bool) -> Flow {
        let [open, _] = REASONING_MARKS;
        let trimmed = self.text.trim_start();
        if let Some(rest) = trimmed.strip_prefix(open) {
            self.text = rest.to_owned();
            return self.go(State::Reasoning { fresh: true });
        }
        if open.starts_with(trimmed) && !end {
            return self.wait(State::Start);
        }
        let state = Self::beginning(&self.options);
        self.go(state)
    }

    fn reasoning(&mut self, fresh: bool, end: bool, deltas: &mut Vec<Delta>) -> Flow {
        let [_, close] = REASONING_MARKS;
        if fresh {
            let space = self.text.len() - self.text.trim_start().len();
            self.text.drain(..space);
            if self.text.is_empty() {
                return self.wait(State::Reasoning { fresh });
            }
        }
        if let Some(at) = self.text.find(close) {
            let rest = self.text.split_off(at + close.len());
            let mut text = std::mem::replace(&mut self.text, rest);
            text.truncate(at);
            deltas.push(Delta::Reasoning(text));
            let bare = self.options.tools.is_some_and(ToolFormat::bare_calls);
            return self.go(State::Margin { bare, keep: false });
        }
        let keep = self.text.len() - if end { 0 } else { beginning(&self.text, close) };
        let held = self.text.split_off(keep);
        deltas.push(Delta::Reasoning(std::mem::replace(&mut self.text, held)));
        self.wait(State::Reasoning { fresh: fresh && keep == 0 })
    }

    fn margin(&mut self, bare: bool, keep: bool, end: bool) -> Flow {
        let space = self.text.len() - self.text.trim_start().len();
        let rest = &self.text[space..];
        if rest.is_empty() && !end {
            return self.wait(State::Margin { bare, keep });
        }
        if bare && rest.starts_with('{') {
            return self.go(State::Call(Box::new(Call::new(Shape::Whole, space, false))));
        }
        if !keep {
            self.text.drain(..space);
        }
        self.go(State::Text)
    }

    fn plain(&mut self, end: bool, deltas: &mut Vec<Delta>) -> Flow {
        let Some(tools) = self.options.tools else {
            deltas.push(Delta::Content(std::mem::take(&mut self.text)));
            return self.wait(State::Text);
        };
        let mark = tools.opening();
        let found = self.text.find(mark);
        let keep = found
            .unwrap_or_else(|| self.text.len() - if end { 0 } else { beginning(&self.text, mark) });
        let held = self.text.split_off(keep);
        deltas.push(Delta::Content(std::mem::replace(&mut self.text, held)));
        if found.is_none() {
            return self.wait(State::Text);
        }
        match tools.before(&self.text, end) {
            Match::Found(read, shape) => {
                let list = self.text[..read].trim_end().ends_with('[');
                self.go(State::Call(Box::new(Call::new(shape, read, list))))
            }
            Match::Open => self.wait(State::Text),
            Match::No => self.give_up(deltas),
        }
    }

    /// The held text does not begin a call: its first character, which is not white space, is
    /// content.
    fn give_up(&mut self, deltas: &mut Vec<Delta>) -> Flow {
        let space = self.text.len() - self.text.trim_start().len();
        let first = self.text[space..].chars().next().map_or(0, char::len_utf8);
        let rest = self.text.split_off(space + first);
        deltas.push(Delta::Content(std::mem::replace(&mut self.text, rest)));
        self.go(State::Text)
    }

    fn call(&mut self, mut call: Call, end: bool, deltas: &mut Vec<Delta>) -> Flow {
        let mut complete = false;
        while !complete {
            let Some(&byte) = self.text.as_bytes().get(call.read) else { break };
            match call.scanner.push(byte) {
                Ok(last) => complete = last,
                Err(_) => return self.broken(call, deltas),
            }
            call.read += 1;
            let known = |name: &str| self.options.names.iter().any(|known| known == name);
            if call.scanner.name().is_some_and(|name| !known(name)) {
                return self.broken(call, deltas);
            }
        }
        let tell = call.scanner.name().is_some() && call.scanner.has_arguments();
        if tell && (complete || !self.options.whole_calls) {
            self.tell(&mut call, deltas);
        }
        if complete {
            self.text.drain(..call.read);
            return self.go(State::AfterCall { list: call.list });
        }
        if end {
            return self.broken(call, deltas);
        }
        self.wait(State::Call(Box::new(call)))
    }

    /// Tells what is new of a call.
    fn tell(&mut self, call: &mut Call, deltas: &mut Vec<Delta>) {
        if !call.told {
            call.told = true;
            let name = call.scanner.name().unwrap_or_default().to_owned();
            deltas.push(Delta::Call { index: self.calls, name });
            self.calls += 1;
        }
        let json = call.scanner.take_arguments();
        deltas.push(Delta::Arguments { index: self.calls - 1, json });
    }

    /// A call that does not go on as one: text, or what follows is, if it was told already.
    fn broken(&mut self, mut call: Call, deltas: &mut Vec<Delta>) -> Flow {
        let scanner = &call.scanner;
        let known = scanner.name().is_some_and(|name| self.options.names.iter().any(|n| n == name));
        if known && scanner.has_arguments() && !self.options.whole_calls {
            self.tell(&mut call, deltas);
        }
        if !call.told {
            return self.give_up(deltas);
        }
        self.text.drain(..call.read);
        self.go(State::Text)
    }

    fn after_call(&mut self, list: bool, end: bool) -> Flow {
        let Some(tools) = self.options.tools else { return self.go(State::Text) };
        match tools.between(&self.text, list, end) {
            Match::Found(read, shape) => {
                return self.go(State::Call(Box::new(Call::new(shape, read, list))));
            }
            Match::Open => return self.wait(State::AfterCall { list }),
            Match::No => {}
        }
        match tools.after(&self.text, list, end) {
            Match::Found(read, ()) => drop(self.text.drain(..read)),
            Match::Open => return self.wait(State::AfterCall { list }),
            Match::No => {}
        }
        self.go(State::Margin { bare: false, keep: false })
    }
}

impl Call {
    fn new(shape: Shape, read: usize, list: bool) -> Self {
        Call { scanner: CallScanner::new(shape), read, told: false, list }
    }
}

/// Bytes at the end of `text` that could begin `mark`.
fn beginning(text: &str, mark: &str) -> usize {
    let longest = (mark.len() - 1).min(text.len());
    let fits = |&n: &usize| text.as_bytes().ends_with(&mark.as_bytes()[..n]);
    (1..=longest).rev().find(fits).unwrap_or(0)
}

/// Joins neighbours of a kind and drops the empty ones.
fn merge(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut merged: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (merged.last_mut(), &delta) {
            (_, Delta::Content(text) | Delta::Reasoning(text)) if text.is_empty() => continue,
            (_, Delta::Arguments { json, .. }) if json.is_empty() => continue,
            (Some(Delta::Content(last)), Delta::Content(text))
            | (Some(Delta::Reasoning(last)), Delta::Reasoning(text)) => last.push_str(text),
            (
                Some(Delta::Arguments { index, json: last }),
                Delta::Arguments { index: same, json },
            ) if index == same => {
                last.push_str(json);
            }
            _ => merged.push(delta),
        }
    }
    merged
}
