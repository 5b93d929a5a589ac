//! Answers that follow a grammar: JSON of a schema, a regular expression, a Lark grammar.
//!
//! A [`Grammar`] is plain data and hostile input. [`ConstraintCompiler`], one per vocabulary,
//! holds it against [`schema`] and the limits and gives a [`Constraint`] for requests to share.
//! Each answer follows it in a [`ConstraintState`], which says before each token which ones may
//! come ([`TokenMask`]). The parsing is llguidance's; what it would pass over in silence is
//! refused here.

mod compiler;
mod error;
mod gbnf;
mod numbers;
pub mod schema;
mod state;
mod tokens;

use serde_json::Value;

pub use compiler::{CompileLimits, ConstraintCompiler};
pub use error::{ConstraintError, ConstraintFailure};
pub use state::{Constraint, ConstraintState, TokenMask};
pub use tokens::{Spelling, TokenTable};

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts (drafts 7, 2019-09 and 2020-12; see [`schema`]). Properties
    /// come in the schema's order.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole, in the syntax of the `regex` crate.
    Regex(String),
    /// Text of a grammar in llguidance's variant of Lark, whose rule `start` is the answer.
    /// `<[5]>` is token 5.
    Lark(String),
    /// Text of a grammar in GBNF, llama.cpp's notation, whose rule `root` is the answer.
    Gbnf(String),
    /// One of these texts.
    OneOf(Vec<String>),
    /// A Lark grammar of our own making whose rules name further grammars as `@name`. The parts
    /// are hostile input; the frame around them is not, and has no part of theirs but the names of
    /// tools.
    Framed {
        /// The frame.
        lark: String,
        /// Names and grammars, none of which is framed itself.
        parts: Vec<(String, Grammar)>,
    },
}
