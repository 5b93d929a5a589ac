//! Refuses templates in which a namespace could hold itself.
//!
//! Namespaces are the only values of a template that can change, so only they can form a cycle,
//! and the engine would follow it without end when it prints or compares such a value. Real
//! templates use a namespace through its attributes alone; with that as a rule, no namespace is
//! ever the value of anything but its own variable.

use super::error::ChatError;

/// Checks that each use of `namespace` is `set NAME = namespace(…)`, and each use of such a name
/// `NAME.attribute`.
pub(super) fn check(source: &str) -> Result<(), ChatError> {
    let tags = tags(source);
    let names: Vec<&str> = tags
        .iter()
        .flat_map(|tag| tag.windows(4))
        .filter(|w| w[0] == "set" && w[2] == "=" && w[3] == "namespace")
        .map(|w| w[1])
        .collect();
    for tag in &tags {
        for (i, token) in tag.iter().enumerate() {
            let before = |n: usize| i.checked_sub(n).map_or("", |at| tag[at]);
            let after = |n: usize| tag.get(i + n).copied().unwrap_or("");
            let attribute = before(1) == ".";
            let argument = after(1) == "=" && matches!(before(1), "(" | ",");
            let fine = if *token == "namespace" {
                before(1) == "=" && before(3) == "set" && after(1) == "("
            } else if names.contains(token) {
                after(1) == "." || (before(1) == "set" && after(2) == "namespace")
            } else {
                true
            };
            if !(fine || attribute || argument) {
                return Err(ChatError::Namespace { name: token.to_string() });
            }
        }
    }
    Ok(())
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
                if tag.iter().find(|token| !matches!(**token, "-" | "+")) == Some(&"raw") {
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
    let mut at = 0;
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
