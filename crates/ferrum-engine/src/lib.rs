//! Requests to tokens.
