//! The fast backend for processors: one file per operation.
