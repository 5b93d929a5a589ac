//! GBNF, the grammars of llama.cpp (its `grammars/README.md` is the description), to Lark.
//!
//! GBNF knows characters only, while Lark cuts a text into terminals, the longest first. So that
//! nothing is lost in between, each terminal of the result is one character.

use std::collections::HashMap;
use std::fmt::Write;

use super::ConstraintError;
use super::compiler::MAX_NESTING;

/// Copies that a repetition may demand.
const MAX_REPETITION: u32 = 2000;

/// The rule that is the answer.
const ROOT: &str = "root";

type Result<T> = std::result::Result<T, ConstraintError>;

/// The Lark grammar of a GBNF grammar.
pub fn to_lark(gbnf: &str) -> Result<String> {
    let mut parser = Parser { rest: gbnf, line: 1, nesting: 0, rules: HashMap::new() };
    let mut lark = String::new();
    parser.skip_space(true);
    while !parser.rest.is_empty() {
        parser.rule(&mut lark)?;
        parser.skip_space(true);
    }
    let missing = parser.rules.iter().filter(|(_, rule)| !rule.defined);
    if let Some((name, _)) = missing.min_by_key(|(_, rule)| rule.number) {
        return Err(invalid(format!("there is no rule `{name}`")));
    }
    match parser.rules.get(ROOT) {
        Some(root) => Ok(format!("start: r{}\n{lark}", root.number)),
        None => Err(invalid(format!("there is no rule `{ROOT}`"))),
    }
}

/// What is left to read.
struct Parser<'a> {
    rest: &'a str,
    line: usize,
    nesting: usize,
    /// Those that were named so far; they get numbers, as Lark has other rules for names.
    rules: HashMap<&'a str, Rule>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    number: usize,
    defined: bool,
}

impl<'a> Parser<'a> {
    /// `name ::= alternatives`
    fn rule(&mut self, out: &mut String) -> Result<()> {
        let Some(name) = self.name() else { return Err(self.unexpected("the name of a rule")) };
        let number = self.named(name).number;
        let rule = self.rules.get_mut(name).filter(|rule| !rule.defined);
        match rule {
            Some(rule) => rule.defined = true,
            None => return Err(self.error(format!("a second rule `{name}`"))),
        }
        self.skip_space(false);
        if !self.take("::=") {
            return Err(self.unexpected("`::=`"));
        }
        self.skip_space(true);
        let _ = write!(out, "r{number}: ");
        self.alternatives(out)?;
        out.push('\n');
        // A comment was skipped with the space before it.
        match self.rest.is_empty() || self.rest.starts_with(['\n', '\r']) {
            true => Ok(()),
            false => Err(self.unexpected("the end of the rule")),
        }
    }

    fn alternatives(&mut self, out: &mut String) -> Result<()> {
        self.sequence(out)?;
        while self.take("|") {
            self.skip_space(true);
            out.push_str("| ");
            self.sequence(out)?;
        }
        Ok(())
    }

    /// Items up to what ends the alternative; none is the empty text.
    fn sequence(&mut self, out: &mut String) -> Result<()> {
        let begin = out.len();
        while self.item(out)? {
            self.skip_space(self.nesting > 0);
            self.repeated(out)?;
            out.push(' ');
        }
        if out.len() == begin {
            out.push_str("\"\" ");
        }
        Ok(())
    }

    /// One item, or none where none begins.
    fn item(&mut self, out: &mut String) -> Result<bool> {
        match self.rest.chars().next() {
            Some('"') => self.literal(out)?,
            Some('[') => self.class(out)?,
            Some('.') => {
                self.advance(1);
                out.push_str(r"/[\x{0}-\x{10ffff}]/");
            }
            Some('(') => self.group(out)?,
            Some('<') => self.token(out)?,
            Some('!') => return Err(self.error("`!` before a token is not supported".into())),
            _ => match self.name() {
                Some(name) => {
                    let _ = write!(out, "r{}", self.named(name).number);
                }
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    fn group(&mut self, out: &mut String) -> Result<()> {
        self.advance(1);
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.error(format!("more than {MAX_NESTING} brackets within brackets")));
        }
        self.skip_space(true);
        out.push('(');
        self.alternatives(out)?;
        out.push(')');
        self.nesting -= 1;
        if self.take(")") { Ok(()) } else { Err(self.unexpected("`)`")) }
    }

    /// `*`, `+`, `?`, `{m}`, `{m,}` or `{m,n}` behind an item.
    fn repeated(&mut self, out: &mut String) -> Result<()> {
        let Some(suffix) = self.repetition()? else { return Ok(()) };
        out.push_str(&suffix);
        self.skip_space(self.nesting > 0);
        match self.repetition()? {
            None => Ok(()),
            Some(_) => Err(self.error("a repetition of a repetition; use brackets".into())),
        }
    }

    fn repetition(&mut self) -> Result<Option<String>> {
        for sign in ["*", "+", "?"] {
            if self.take(sign) {
                return Ok(Some(sign.into()));
            }
        }
        if !self.take("{") {
            return Ok(None);
        }
        let least = self.number()?;
        let most = match self.take(",") {
            false => Some(least),
            true if self.rest.trim_start().starts_with('}') => None,
            true => Some(self.number()?),
        };
        self.skip_space(true);
        if !self.take("}") {
            return Err(self.unexpected("`}`"));
        }
        if most.is_some_and(|most| most < least) {
            return Err(self.error("a repetition whose most is below its least".into()));
        }
        let most = most.map(|n| n.to_string()).unwrap_or_default();
        Ok(Some(format!("{{{least},{most}}}")))
    }

    fn number(&mut self) -> Result<u32> {
        self.skip_space(true);
        let digits = self.take_while(|c| c.is_ascii_digit());
        let number = digits.parse().ok().filter(|&n| n <= MAX_REPETITION);
        self.skip_space(true);
        number.ok_or_else(|| self.unexpected(&format!("a number up to {MAX_REPETITION}")))
    }

    fn literal(&mut self, out: &mut String) -> Result<()> {
        self.advance(1);
        out.push('(');
        let begin = out.len();
        while !self.take("\"") {
            let char = self.char("a closing `\"`")?;
            let _ = write!(out, r"/\x{{{:x}}}/ ", char as u32);
        }
        if out.len() == begin {
            out.push_str("\"\"");
        }
        out.push(')');
        Ok(())
    }

    /// `[a-z]` or `[^a-z]`.
    fn class(&mut self, out: &mut String) -> Result<()> {
        self.advance(1);
        out.push_str(if self.take("^") { "/[^" } else { "/[" });
        let mut any = false;
        while !self.take("]") {
            let first = self.char("a closing `]`")?;
            let mut last = first;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.advance(1);
                last = self.char("the end of a range")?;
            }
            if last < first {
                return Err(self.error(format!("the range {first:?} to {last:?} is empty")));
            }
            let _ = write!(out, r"\x{{{:x}}}-\x{{{:x}}}", first as u32, last as u32);
            any = true;
        }
        out.push_str("]/");
        if any { Ok(()) } else { Err(self.error("an empty `[]`".into())) }
    }

    /// `<[5]>`, a token by its number, or `<name>`, one by its text, as Lark has them too.
    fn token(&mut self, out: &mut String) -> Result<()> {
        let end = self.rest.find('>').map_or(0, |at| at + 1);
        let text = &self.rest[..end];
        let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or_default();
        let number = inner.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '|' | '-' | '/');
        let good = match number {
            Some(digits) => digits.parse::<u32>().is_ok(),
            None => !inner.is_empty() && inner.len() <= 64 && inner.chars().all(letter),
        };
        if !good {
            return Err(self.error("a token is written `<[5]>` or `<name>`".into()));
        }
        out.push_str(text);
        self.advance(end);
        Ok(())
    }

    /// A character of a literal or class, escaped or not.
    fn char(&mut self, expected: &str) -> Result<char> {
        let char = self.rest.chars().next().filter(|&c| c != '\n' && c != '\r');
        let Some(char) = char else { return Err(self.unexpected(expected)) };
        self.advance(char.len_utf8());
        if char != '\\' {
            return Ok(char);
        }
        let Some(kind) = self.rest.chars().next() else { return Err(self.unexpected(expected)) };
        self.advance(kind.len_utf8());
        let digits = match kind {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '\\' | '"' | '[' | ']' | '-' | '^' => return Ok(kind),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => return Err(self.error(format!("the escape `\\{other}` is not known"))),
        };
        let hex = self.rest.get(..digits).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
        let char = hex.and_then(|h| u32::from_str_radix(h, 16).ok()).and_then(char::from_u32);
        let Some(char) = char else {
            return Err(self.error(format!("`\\{kind}` wants {digits} digits of a character")));
        };
        self.advance(digits);
        Ok(char)
    }

    fn name(&mut self) -> Option<&'a str> {
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        (!name.is_empty()).then_some(name)
    }

    fn named(&mut self, name: &'a str) -> Rule {
        let number = self.rules.len();
        *self.rules.entry(name).or_insert(Rule { number, defined: false })
    }

    /// Skips spaces and comments, and the ends of lines if `lines`.
    fn skip_space(&mut self, lines: bool) {
        loop {
            match self.rest.chars().next() {
                Some(' ' | '\t') => self.advance(1),
                Some('\n' | '\r') if lines => self.advance(1),
                Some('#') => {
                    self.take_while(|c| c != '\n');
                }
                _ => return,
            }
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest.starts_with(text);
        if found {
            self.advance(text.len());
        }
        found
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let text = self.rest;
        let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
        self.advance(end);
        &text[..end]
    }

    fn advance(&mut self, bytes: usize) {
        let (read, rest) = self.rest.split_at(bytes);
        self.line += read.matches('\n').count();
        self.rest = rest;
    }

    fn unexpected(&self, expected: &str) -> ConstraintError {
        let found = match self.rest.chars().next() {
            Some(char) => format!("{char:?}"),
            None => "the end".into(),
        };
        self.error(format!("expected {expected}, not {found}"))
    }

    fn error(&self, what: String) -> ConstraintError {
        invalid(format!("line {}: {what}", self.line))
    }
}

fn invalid(reason: String) -> ConstraintError {
    ConstraintError::Invalid { reason }
}
