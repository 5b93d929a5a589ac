//! Unit tests of folders.
