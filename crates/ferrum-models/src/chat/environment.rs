//! The Jinja environment that chat templates expect: that of `apply_chat_template` in Hugging
//! Face's transformers (`utils/chat_template_utils.py`), bounded in work and memory.

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io;

use super::error::ChatError;

/// The name that the one template of an environment has.
pub(super) const NAME: &str = "chat template";

/// The template has called `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// An environment that holds the template `source`.
pub(super) fn environment(source: String) -> Result<Environment<'static>, ChatError> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| ChatError::Syntax(e.to_string()))?);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", to_json);
    env.add_function("raise_exception", raise_exception);
    env.add_template_owned(NAME, source).map_err(|e| ChatError::Syntax(describe(&e)))?;
    Ok(env)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

/// `strftime_now`: the date and time `now` by a format of C's `strftime`.
pub(super) fn strftime_now(now: DateTime) -> Value {
    Value::from_function(move |format: String| {
        jiff::fmt::strtime::format(&format, now)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
    })
}

/// What an error of the engine means.
pub(super) fn explain(error: &Error) -> ChatError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref::<Raised>() {
            return ChatError::Refused(message.clone());
        }
        if let Some(inner) = cause.downcast_ref::<Error>()
            && inner.kind() == ErrorKind::OutOfFuel
        {
            return ChatError::OutOfFuel;
        }
        source = cause.source();
    }
    ChatError::Failed(describe(error))
}

/// `error` and its causes in one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.replace('\n', " ")
}

/// `tojson` as transformers defines it: Python's `json.dumps` with `ensure_ascii=False` and
/// nothing escaped for HTML.
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    // the other options of json.dumps: their defaults are what is done here
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) if !indent.is_none() => {
            let width = usize::try_from(indent)?;
            if width > MAX_INDENT {
                return Err(Error::new(ErrorKind::InvalidOperation, "indent is too large"));
            }
            let spaces = " ".repeat(width);
            let format = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, format))
        }
        _ => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    String::from_utf8(out)
        .map(Value::from)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// More than any template uses; keeps nested values from growing without bound.
const MAX_INDENT: usize = 16;

/// One line with a space after `,` and `:`, as Python writes JSON.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}
