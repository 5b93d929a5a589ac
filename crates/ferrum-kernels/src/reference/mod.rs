//! The oracle: plain `f32` Rust, one file per operation, slow and obviously right.
