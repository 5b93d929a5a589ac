//! What the engine needs of a model: a step of tokens in, logits or drawn tokens out.

use ferrum_kernels::draw::{Drawn, RowDraw, Scored};
use ferrum_kernels::{KernelError, StepCapacity, StepInput};

/// A model on its device, with its KV cache. The type of the backend ends here.
pub trait Runner: Send {
    /// Sizes that the engine plans with.
    fn limits(&self) -> &RunnerLimits;

    /// Numbers of adapters that a sequence of a step may name, from 0 on: [`StepInput::adapters`].
    fn adapters(&self) -> usize {
        1
    }

    /// Why it has failed for good, if it has: every further step would be an error.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Runs one packed step. The logits are those of `step.sample_rows`, `[R, vocab]`, valid until
    /// the next step.
    fn step(&mut self, step: &StepInput) -> Result<&[f32], KernelError>;

    /// Whether [`Runner::sample`] draws tokens.
    fn draws(&self) -> bool {
        false
    }

    /// Logits that the draws of a step may adjust, all rows together: [`RowDraw::adjust`].
    fn adjusted(&self) -> usize {
        0
    }

    /// Runs one packed step and draws tokens on the device, for each row of `step.sample_rows` for
    /// which `draws`, `[R]`, says how. Of the other rows, the logits are wanted. With no draws at all,
    /// it is [`Runner::step`].
    ///
    /// A runner that does not draw gives the logits of all rows.
    fn sample(
        &mut self,
        step: &StepInput,
        draws: &[Option<RowDraw<'_>>],
    ) -> Result<Sampled<'_>, KernelError> {
        let _ = draws;
        Ok(Sampled { logits: self.step(step)?, drawn: &[], scored: &[] })
    }
}

/// What a step gives, valid until the next one.
#[derive(Debug, Clone, Copy)]
pub struct Sampled<'a> {
    /// Logits of the first rows, `[n, vocab]`: up to the last one whose logits are wanted.
    pub logits: &'a [f32],
    /// What was drawn from each row, `[R]`, or nothing where there was no draw. Of a row without a
    /// draw it means nothing.
    pub drawn: &'a [Drawn],
    /// Log-probabilities of each row for which a draw wants them, `[R]`, or nothing where none does.
    pub scored: &'a [Option<Scored>],
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
