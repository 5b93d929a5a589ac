//! `tojson` as transformers defines it: Python's `json.dumps` with `ensure_ascii=False` unless
//! asked otherwise, and nothing escaped for HTML.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Nested deeper than any schema; keeps a hostile template from overflowing the stack.
const MAX_DEPTH: usize = 128;

/// More than any template uses; keeps nested values from growing without bound.
const MAX_INDENT: usize = 16;

/// The filter: `value|tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(
    value: &Value,
    ascii: Option<bool>,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = match options.get::<Option<Value>>("indent")?.or(indent) {
        Some(indent) if !indent.is_none() => Some(usize::try_from(indent)?),
        _ => None,
    };
    if indent.is_some_and(|width| width > MAX_INDENT) {
        return Err(invalid("indent is too large"));
    }
    let separators = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let pair = pair.try_iter()?.map(|item| item.to_string()).collect::<Vec<_>>();
            <[String; 2]>::try_from(pair).map_err(|_| invalid("separators must be two strings"))?
        }
        _ => [if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()],
    };
    let mut writer = Writer {
        out: String::new(),
        ascii: options.get::<Option<bool>>("ensure_ascii")?.or(ascii).unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        separators,
    };
    options.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

struct Writer {
    out: String,
    ascii: bool,
    sort: bool,
    indent: Option<usize>,
    /// Between items, and between a key and its value.
    separators: [String; 2],
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::BadSerialization, "nested too deeply"));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Undefined => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            other => {
                let what = format!("a value of type {other} is not JSON");
                return Err(Error::new(ErrorKind::BadSerialization, what));
            }
        }
        Ok(())
    }

    fn sequence(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut first = true;
        for item in value.try_iter()? {
            self.begin_item(first, depth + 1);
            first = false;
            self.value(&item, depth + 1)?;
        }
        self.end(']', first, depth);
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('{');
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort {
            keys.sort();
        }
        for (i, key) in keys.iter().enumerate() {
            self.begin_item(i == 0, depth + 1);
            self.string(key.as_str().unwrap_or(&key.to_string()));
            self.out.push_str(&self.separators[1]);
            self.value(&value.get_item(key)?, depth + 1)?;
        }
        self.end('}', keys.is_empty(), depth);
        Ok(())
    }

    fn begin_item(&mut self, first: bool, depth: usize) {
        if !first {
            self.out.push_str(&self.separators[0]);
        }
        self.line(depth);
    }

    fn end(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    /// Begins a line, where the output has lines.
    fn line(&mut self, depth: usize) {
        if let Some(width) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', width * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}
