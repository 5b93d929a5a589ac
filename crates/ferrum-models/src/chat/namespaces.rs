//! Refuses templates in which a namespace could hold itself.
//!
//! Namespaces are the only values of a template that can change, so only they can form a cycle,
//! and the engine would follow it without end when it prints or compares such a value. Real
//! templates use a namespace through its attributes, or hand it to a macro that does; with that as
//! a rule, no namespace is ever the value of anything but variables of one name.

use std::collections::HashMap;

use super::error::ChatError;

/// Checks that each use of `namespace` is `set NAME = namespace(…)`, and each use of such a name
/// either `NAME.attribute` or an argument for a macro's parameter of the same name.
pub(super) fn check(source: &str) -> Result<(), ChatError> {
    let tags = tags(source);
    let macros = macros(&tags);
    let names: Vec<&str> = tags
        .iter()
        .flat_map(|tag| tag.windows(4))
        .filter(|w| w[0] == "set" && w[2] == "=" && w[3] == "namespace")
        .map(|w| w[1])
        .collect();
    // within a macro with a parameter of this name, it means something else
    let mut shadowed = false;
    for tag in &tags {
        match macro_of(tag) {
            Some((_, parameters)) => shadowed = parameters.contains(&"namespace"),
            None => shadowed &= tag.first() != Some(&"endmacro"),
        }
        for (i, token) in tag.iter().enumerate() {
            let place = Place { tag, i };
            let fine = if *token == "namespace" {
                shadowed || (place.is_assigned() && place.next(1) == "(")
            } else if names.contains(token) {
                place.next(1) == "."
                    || (place.before(1) == "set" && place.next(2) == "namespace")
                    || place.parameter(&macros) == Some(*token)
            } else {
                true
            };
            if !(fine || place.is_name_of_other()) {
                return Err(ChatError::Namespace { name: token.to_string() });
            }
        }
    }
    Ok(())
}

/// Parameters of macros by the macro's name.
type Macros<'a> = HashMap<&'a str, Vec<&'a str>>;

/// The macros whose names mean nothing else: not defined twice, and never used but to call them.
fn macros<'a>(tags: &[Vec<&'a str>]) -> Macros<'a> {
    let mut macros = Macros::new();
    let mut ambiguous = Vec::new();
    for (name, parameters) in tags.iter().filter_map(|tag| macro_of(tag)) {
        if macros.insert(name, parameters).is_some() {
            ambiguous.push(name);
        }
    }
    let pairs = tags
        .iter()
        .flat_map(|tag| (0..tag.len()).map(|i| (tag[i], tag.get(i + 1).copied().unwrap_or(""))));
    ambiguous.extend(pairs.filter(|(_, next)| *next != "(").map(|(token, _)| token));
    for name in ambiguous {
        macros.remove(name);
    }
    macros
}

/// Name and parameters, if `tag` begins a macro.
fn macro_of<'a>(tag: &[&'a str]) -> Option<(&'a str, Vec<&'a str>)> {
    let start = tag.iter().position(|token| *token == "macro").filter(|at| *at == 0)?;
    let name = *tag.get(start + 1)?;
    let place = |i: usize| Place { tag, i };
    let parameters = (start + 3..tag.len())
        .filter(|i| place(*i).depth() == 1 && matches!(place(*i).before(1), "(" | ","))
        .map(|i| tag[i])
        .collect();
    Some((name, parameters))
}

/// A token of a tag.
struct Place<'a, 'b> {
    tag: &'b [&'a str],
    i: usize,
}

impl<'a> Place<'a, '_> {
    /// The token `n` places before.
    fn before(&self, n: usize) -> &'a str {
        self.i.checked_sub(n).map_or("", |at| self.tag[at])
    }

    /// The token `n` places after.
    fn next(&self, n: usize) -> &'a str {
        self.tag.get(self.i + n).copied().unwrap_or("")
    }

    /// Whether it is the value of `set NAME =`.
    fn is_assigned(&self) -> bool {
        self.before(1) == "=" && self.before(3) == "set"
    }

    /// Whether it names an attribute, an argument or a parameter.
    fn is_name_of_other(&self) -> bool {
        let parameter = macro_of(self.tag).is_some() && self.depth() == 1;
        let first = matches!(self.before(1), "(" | ",");
        self.before(1) == "." || (first && (parameter || self.next(1) == "="))
    }

    /// Brackets that are open here.
    fn depth(&self) -> usize {
        self.tag[..self.i].iter().fold(0, |depth: usize, token| match *token {
            "(" | "[" | "{" => depth + 1,
            ")" | "]" | "}" => depth.saturating_sub(1),
            _ => depth,
        })
    }

    /// The parameter of one of `macros` that it is the whole argument for.
    fn parameter(&self, macros: &Macros<'a>) -> Option<&'a str> {
        if !matches!(self.before(1), "(" | ",") || !matches!(self.next(1), ")" | ",") {
            return None;
        }
        let (mut depth, mut index) = (0, 0);
        for at in (0..self.i).rev() {
            match self.tag[at] {
                ")" | "]" | "}" => depth += 1,
                "(" if depth == 0 => {
                    let name = at.checked_sub(1).map(|at| self.tag[at])?;
                    return macros.get(name)?.get(index).copied();
                }
                "[" | "{" if depth == 0 => return None,
                "(" | "[" | "{" => depth -= 1,
                "," if depth == 0 => index += 1,
                _ => {}
            }
        }
        None
    }
}

/// The tokens of each tag of `source`; strings are left out.
fn tags(source: &str) -> Vec<Vec<&str>> {
    let mut tags = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        rest = &rest[start + 1..];
        let Some(kind) = rest.chars().next() else { break };
        match kind {
            '#' => rest = after(rest, "#}"),
            '{' | '%' => {
                let (tag, end) = tokens(&rest[1..]);
                rest = &rest[1 + end..];
                if tag.first() == Some(&"raw") {
                    rest = after(rest, "endraw");
                }
                tags.push(tag);
            }
            _ => {}
        }
    }
    tags
}

/// What follows the first `mark` in `text`.
fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.find(mark).map_or("", |at| &text[at + mark.len()..])
}

/// The tokens of a tag, and the length of `text` up to its end.
fn tokens(text: &str) -> (Vec<&str>, usize) {
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    // white space control
    let mut at = text.starts_with(['-', '+']).into();
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if depth == 0 && (rest.starts_with("}}") || rest.starts_with("%}")) {
            return (tokens, at + 2);
        }
        let len = match c {
            '"' | '\'' => string_length(rest, c),
            c if c.is_alphanumeric() || c == '_' => {
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
            }
            c => c.len_utf8(),
        };
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !(c.is_whitespace() || matches!(c, '"' | '\'')) {
            tokens.push(&rest[..len]);
        }
        at += len;
    }
    (tokens, text.len())
}

/// The length of the string literal that `text` begins with.
fn string_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}
