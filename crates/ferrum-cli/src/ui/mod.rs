//! What the user sees besides the answer.

pub mod interrupt;
pub mod progress;
pub mod table;
pub mod text;
