//! One file per architecture: GGUF metadata to a [`crate::decoder::DecoderSpec`].
