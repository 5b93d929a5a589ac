//! GGUF files: metadata and tensors, memory-mapped, split files too.
