//! HTTP and JSON: the OpenAI API and its neighbours, in front of the engine.
//!
//! [`output`] makes tool calls and reasoning of the text that a model writes.

pub mod output;
pub mod web;
