//! A decoder as one of several ranks that compute the same steps.

use std::ops::Range;

use ferrum_kernels::{Backend, Communicator, KernelError};

/// A rank's place among the others.
pub(super) struct Rank<B: Backend> {
    pub communicator: B::Communicator,
    /// Tokens whose rows of the embedding and of the output head it has.
    pub tokens: Range<usize>,
}

impl<B: Backend> Rank<B> {
    /// Numbers of rows in the rank's part of the embedding: for tokens of other ranks, that of the row
    /// of zeros behind it.
    pub fn localise(&self, tokens: &mut [i32]) {
        for token in tokens {
            let row = usize::try_from(*token).ok().filter(|token| self.tokens.contains(token));
            *token = row.map_or(self.tokens.len(), |token| token - self.tokens.start) as i32;
        }
    }

    /// Adds up what the ranks have computed of the first `len` values.
    pub fn sum(
        &mut self,
        b: &B,
        s: &mut B::Stream,
        x: &mut B::Buffer,
        len: usize,
    ) -> Result<(), KernelError> {
        b.all_reduce(s, &mut self.communicator, x, len)
    }
}

/// Whether the rank adds what it computes to the residual stream: one of the ranks does, and the
/// others' results stand alone, so that the sum over all has the stream in it once.
pub(super) fn carries_stream<B: Backend>(rank: Option<&Rank<B>>) -> bool {
    rank.is_none_or(|rank| rank.communicator.rank() == 0)
}
