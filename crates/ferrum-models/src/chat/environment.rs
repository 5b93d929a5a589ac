//! The Jinja environment that chat templates expect: that of `apply_chat_template` in Hugging
//! Face's transformers (`utils/chat_template_utils.py`), bounded in work and memory.

use super::error::ChatError;
use super::json::to_json;
use super::methods;
use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

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
    env.set_unknown_method_callback(methods::call);
    env.add_filter("tojson", to_json);
    env.add_test("iterable", is_iterable);
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

/// Python's idea of what can be iterated over, which, unlike the engine's, leaves out `none`.
fn is_iterable(value: &Value) -> bool {
    value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
}
