//! What the engine needs of a model: a step of tokens in, logits out.

use ferrum_kernels::{KernelError, StepCapacity, StepInput};

/// A model on its device, with its KV cache. The type of the backend ends here.
pub trait Runner: Send {
    /// Sizes that the engine plans with.
    fn limits(&self) -> &RunnerLimits;

    /// Numbers of adapters that a sequence of a step may name, from 0 on: [`StepInput::adapters`].
    fn adapters(&self) -> usize {
        1
    }

    /// Whether it has failed for good: every further step would be an error.
    fn has_ended(&self) -> bool {
        false
    }

    /// Runs one packed step. The logits are those of `step.sample_rows`, `[R, vocab]`, valid until
    /// the next step.
    fn step(&mut self, step: &StepInput) -> Result<&[f32], KernelError>;
}

/// Sizes of a [`Runner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Values in a row of logits.
    pub vocab: usize,
    /// Positions that a sequence may have.
    pub context: usize,
    /// Blocks in the KV pool.
    pub kv_blocks: usize,
    /// The largest step.
    pub capacity: StepCapacity,
}

impl RunnerLimits {
    /// Holds a step against the sizes, and the adapters that it names against their number.
    pub(crate) fn check(&self, step: &StepInput, adapters: usize) -> Result<(), KernelError> {
        step.validate(&self.capacity, self.kv_blocks, self.vocab)?;
        if let Some(len) = step.kv_lens.iter().find(|&&len| len as usize > self.context) {
            let what = format!("a sequence of {len} positions, context {}", self.context);
            return Err(KernelError::shape("step", what));
        }
        if let Some(number) = step.adapters.iter().find(|&&number| number as usize >= adapters) {
            return Err(KernelError::shape("step", format!("adapter {number} of {adapters}")));
        }
        Ok(())
    }
}
