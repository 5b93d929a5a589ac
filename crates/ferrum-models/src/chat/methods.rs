//! Methods of Python's strings, lists and dictionaries, as templates call them.
//!
//! The engine's own implementation is used. Its budget covers what a method returns only once that
//! is there, so those that can make much of little are checked first.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// The longest text that a method may make, in bytes.
const MAX_TEXT: usize = 1 << 24;

/// Calls `value.method(args)`.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if value.kind() == ValueKind::String {
        let text = value.as_str().unwrap_or_default();
        let length = match method {
            "replace" => replaced_length(text, args),
            "join" => joined_length(text, args)?,
            "format" => formatted_length(text),
            _ => text.len(),
        };
        if length > MAX_TEXT {
            let what = format!("the text that {method} makes is too long");
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
    }
    unknown_method_callback(state, value, method, args)
}

/// At most so long is `text.replace(old, new)`.
fn replaced_length(text: &str, args: &[Value]) -> usize {
    let [Some(old), Some(new)] = [0, 1].map(|i| args.get(i).and_then(Value::as_str)) else {
        return text.len();
    };
    // an empty text is found before each character and at the end
    let count = if old.is_empty() { text.len() + 1 } else { text.len() / old.len() };
    count.saturating_mul(new.len()).saturating_add(text.len())
}

/// At least so long is what separates the items of `text.join(items)`.
fn joined_length(text: &str, args: &[Value]) -> Result<usize, Error> {
    let Some(items) = args.first() else { return Ok(0) };
    let count = match items.len() {
        Some(count) => count,
        None => items.try_iter()?.count(),
    };
    Ok(count.saturating_mul(text.len()))
}

/// The widths that the format `text` asks for, taken together.
fn formatted_length(text: &str) -> usize {
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.fold(0, |sum, digits| sum.saturating_add(digits.parse().unwrap_or(usize::MAX)))
}
