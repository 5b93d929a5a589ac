//! A checkpoint of which a tensor cannot be read after some times.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrum_models::checkpoint::{Layout, Tensor};
use ferrum_models::gguf::Metadata;
use ferrum_models::tokenizer::{Tokenizer, TokenizerError};
use ferrum_models::{Checkpoint, ModelError};

/// Another checkpoint, until a tensor has been read so many times.
pub struct Failing<'a> {
    file: &'a dyn Checkpoint,
    tensor: &'static str,
    left: AtomicUsize,
}

impl<'a> Failing<'a> {
    pub fn new(file: &'a dyn Checkpoint, tensor: &'static str, times: usize) -> Self {
        Failing { file, tensor, left: AtomicUsize::new(times) }
    }

    fn count(&self, name: &str) -> Result<(), ModelError> {
        let take = |left: usize| left.checked_sub(1);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        if name == self.tensor && self.left.fetch_update(success, failure, take).is_err() {
            return Err(ModelError::Options(format!("{name} cannot be read")));
        }
        Ok(())
    }
}

impl Checkpoint for Failing<'_> {
    fn metadata(&self) -> &Metadata {
        self.file.metadata()
    }

    fn layout(&self) -> Layout {
        self.file.layout()
    }

    fn names(&self) -> Vec<&str> {
        self.file.names()
    }

    fn find(&self, name: &str) -> Option<Tensor<'_>> {
        self.file.find(name)
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, ModelError> {
        self.count(name)?;
        self.file.read(name)
    }

    fn read_rows<'a>(
        &'a self,
        name: &str,
        rows: Range<usize>,
        readers: usize,
        memory: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ModelError> {
        self.count(name)?;
        self.file.read_rows(name, rows, readers, memory)
    }

    fn give_back(&self, name: &str, range: Range<usize>) {
        self.file.give_back(name, range);
    }

    fn file_bytes(&self) -> u64 {
        self.file.file_bytes()
    }

    fn vocabulary_bytes(&self) -> usize {
        self.file.vocabulary_bytes()
    }

    fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        self.file.tokenizer()
    }
}
