//! The `ferrum` binary.

fn main() {}
