//! The stream of a processor: its team of threads and the workspaces that operations reuse.

use super::{Isa, arena::Arena, attention, linear, sample, team::Team};
use crate::{Result, StepInput};

/// Threads and workspace of one runner; operations run at once, in the order they are called.
pub struct CpuStream {
    /// The threads of the step that runs.
    pub(crate) team: Team,
    /// Those of the other kind of step, where it is run by another number of them.
    other: Option<Team>,
    /// Whether `team` is the one that reads prompts.
    reading: bool,
    /// Instruction set; [`super::Cpu::new`] has made sure that the processor has it.
    pub(crate) isa: Isa,
    /// Memory of the weights that it packs.
    pub(crate) arena: Arena,
    /// Scratch of the linears.
    pub(crate) linear: linear::Workspace,
    /// Scratch of attention.
    pub(crate) attention: attention::Workspace,
    /// Scratch of draws, for each thread.
    pub(crate) sample: Vec<sample::Workspace>,
}

impl CpuStream {
    /// Starts a team of `threads` threads to generate with, and another of `threads_batch` to read
    /// prompts with if that is not the same number. `isa` must be available on this processor.
    pub(super) fn new(threads: usize, threads_batch: usize, isa: Isa) -> Result<Self> {
        debug_assert!(isa.is_available(), "{isa}");
        let other = if threads == threads_batch { None } else { Some(Team::new(threads)?) };
        Ok(CpuStream {
            // Weights are packed by the team that reads prompts.
            team: Team::new(threads_batch)?,
            other,
            reading: true,
            isa,
            arena: Arena::default(),
            linear: linear::Workspace::default(),
            attention: attention::Workspace::default(),
            sample: Vec::new(),
        })
    }

    /// Takes the team for a step. One that reads a prompt has a sequence of several tokens; many
    /// sequences of one token each are still generating. The team not in use parks by itself.
    pub(super) fn step_begins(&mut self, step: &StepInput) {
        let reading = step.tokens.len() > step.kv_lens.len();
        if let Some(other) = self.other.as_mut().filter(|_| reading != self.reading) {
            std::mem::swap(&mut self.team, other);
            self.reading = reading;
        }
    }
}
