//! Steps that are recorded: those that only decode, of a shape that comes again.

use std::borrow::Cow;
use std::collections::HashMap;

use ferrum_kernels::draw::{Draw, RowDraw};
use ferrum_kernels::{Backend, KV_BLOCK_SIZE, KernelError, StepInput, StepShape};

use super::DecoderRunner;
use super::sampling::Wanted;
use crate::runner::Runner;

/// Tokens of the steps that warm up: one that decodes, and prompts that kernels for more than a few tokens
/// take, and those for many.
const WARM_UP_TOKENS: [usize; 3] = [1, 16, 65];

/// Kinds that are kept, those used last; a device has a few hundred kilobytes for each.
const MOST: usize = 256;

/// What a recording depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    shape: StepShape,
    /// What is made of its logits.
    wanted: Wanted,
}

/// Recorded steps by their kinds.
pub(super) struct Recordings<B: Backend> {
    /// `None` once something could not be recorded. A kind that has run has an entry.
    kept: Option<HashMap<Kind, Kept<B::Recording>>>,
    /// Counts uses.
    clock: u64,
}

/// What is kept of a kind.
struct Kept<R> {
    /// `None` where it has run once.
    recording: Option<R>,
    /// The clock at its last use.
    used: u64,
}

impl<B: Backend> Default for Recordings<B> {
    fn default() -> Self {
        Recordings { kept: Some(HashMap::new()), clock: 0 }
    }
}

impl<B: Backend> Recordings<B> {
    /// Whether steps of this shape are recorded: those with one token for each sequence.
    fn wants(&self, shape: &StepShape) -> bool {
        self.kept.is_some() && shape.tokens == shape.seqs
    }

    /// Blocks of a sequence for which a step with so many is recorded: few different ones, so that
    /// shapes come again. `most` is the capacity.
    fn blocks(blocks: usize, most: usize) -> usize {
        blocks.next_power_of_two().min(most).max(blocks)
    }

    /// What was recorded of a step of this kind.
    fn get(&mut self, kind: &Kind) -> Option<&B::Recording> {
        self.clock += 1;
        let kept = self.kept.as_mut()?.get_mut(kind)?;
        kept.used = self.clock;
        kept.recording.as_ref()
    }

    /// Whether a step of this kind has run, so that all scratch memory is there.
    fn has_run(&self, kind: &Kind) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.contains_key(kind))
    }

    /// Notes that a step of this kind has run. Where there are too many, it takes the place of the one
    /// that was not used for longest.
    fn ran(&mut self, kind: Kind) {
        let Some(kept) = &mut self.kept else { return };
        if kept.len() >= MOST {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(&kind, _)| kind);
            oldest.and_then(|kind| kept.remove(&kind));
        }
        kept.insert(kind, Kept { recording: None, used: self.clock });
    }

    /// Keeps what was recorded.
    fn keep(&mut self, kind: Kind, recording: B::Recording) -> &B::Recording {
        let kept = self.kept.get_or_insert_default().entry(kind);
        let kept = kept.or_insert(Kept { recording: None, used: self.clock });
        kept.recording.insert(recording)
    }

    /// Records nothing any more: the backend cannot, or something went wrong.
    fn give_up(&mut self) {
        self.kept = None;
    }
}

impl<B: Backend> DecoderRunner<B> {
    /// Runs a step that decodes and some that read a prompt, so that no request waits for kernels, and
    /// what the device cannot do shows now. What they leave in the cache is overwritten before it is
    /// read.
    pub(super) fn warm_up(&mut self) -> Result<(), KernelError> {
        let limits = self.limits;
        let most = limits.capacity.tokens.min(limits.context).min(limits.kv_blocks * KV_BLOCK_SIZE);
        let mut lengths = WARM_UP_TOKENS.map(|tokens| tokens.min(most)).to_vec();
        lengths.dedup();
        for tokens in lengths {
            let blocks = tokens.div_ceil(KV_BLOCK_SIZE);
            let step = StepInput {
                tokens: vec![0; tokens],
                positions: (0..tokens as i32).collect(),
                query_starts: vec![0, tokens as i32],
                kv_lens: vec![tokens as i32],
                block_tables: (0..blocks as i32).collect(),
                blocks_per_seq: blocks,
                sample_rows: (0..limits.capacity.samples.min(1) as i32).collect(),
                adapters: Vec::new(),
            };
            self.step(&step)?;
            // A step that decodes in all ways, as each has recordings of its own.
            let draw = Draw { temperature: 1.0, ..Draw::GREEDY };
            if tokens == 1 && self.draws() && !step.sample_rows.is_empty() {
                for logprobs in [None, Some(0)] {
                    let draw = RowDraw { draw, logprobs, ..RowDraw::default() };
                    self.sample(&step, &[Some(draw)])?;
                }
            }
        }
        Ok(())
    }

    /// The step, or one that is the same but for room in its block tables, if it will be recorded.
    pub(super) fn widened<'a>(&self, step: &'a StepInput) -> Cow<'a, StepInput> {
        let (shape, most) = (step.shape(), self.limits.capacity.blocks_per_seq);
        let blocks = Recordings::<B>::blocks(shape.blocks_per_seq, most);
        if blocks == shape.blocks_per_seq || !self.recordings.wants(&shape) {
            return Cow::Borrowed(step);
        }
        Cow::Owned(step.with_blocks_per_seq(blocks))
    }

    /// Computes the logits of the step that was uploaded, and what is drawn from them: anew, or by what
    /// was recorded of a step of the same kind.
    pub(super) fn run(&mut self) -> Result<(), KernelError> {
        let kind = Kind { shape: self.batch.shape, wanted: self.wanted() };
        // What an adapter computes depends on more than the shape.
        if self.adapters.is_some() || !self.recordings.wants(&kind.shape) {
            return self.compute();
        }
        if let Some(recording) = self.recordings.get(&kind) {
            return self.backend.replay(&mut self.stream, recording);
        }
        if self.recordings.has_run(&kind) {
            match self.record() {
                Ok(Some(recording)) => {
                    let recording = self.recordings.keep(kind, recording);
                    return self.backend.replay(&mut self.stream, recording);
                }
                // The other ranks replay theirs.
                Err(error) if self.rank.is_some() => return Err(error),
                // What is really wrong shows below, if anything is.
                Ok(None) | Err(_) => self.recordings.give_up(),
            }
        }
        self.compute()?;
        self.recordings.ran(kind);
        Ok(())
    }

    /// Records the step that was uploaded, where the backend can.
    fn record(&mut self) -> Result<Option<B::Recording>, KernelError> {
        if !self.backend.begin_recording(&mut self.stream)? {
            return Ok(None);
        }
        let computed = self.compute();
        let recording = self.backend.end_recording(&mut self.stream);
        computed.and(recording.map(Some))
    }
}

#[cfg(test)]
mod tests {
    use ferrum_kernels::reference::Reference;

    use super::*;

    fn kind(tokens: usize) -> Kind {
        let shape = StepShape { tokens, seqs: tokens, blocks_per_seq: 1, samples: tokens };
        Kind { shape, wanted: Wanted::default() }
    }

    #[test]
    fn the_kind_that_was_not_used_for_longest_goes() {
        let mut recordings = Recordings::<Reference>::default();
        for tokens in 1..=MOST {
            recordings.get(&kind(tokens));
            recordings.ran(kind(tokens));
        }
        // The first is used again, so that the second is the oldest.
        recordings.get(&kind(1));
        recordings.ran(kind(MOST + 1));
        let gone: Vec<usize> =
            (1..=MOST + 1).filter(|&tokens| !recordings.has_run(&kind(tokens))).collect();
        assert_eq!(gone, [2]);
    }
}
