//! Unit tests of the GGUF reader: one hand-made file for each refusal.
