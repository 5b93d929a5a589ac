//! The stream of a processor: its team of threads and the workspaces that operations reuse.

use super::{Isa, attention, linear, team::Team};
use crate::Result;

/// Threads and workspace of one runner; operations run at once, in the order they are called.
pub struct CpuStream {
    /// The threads.
    pub(crate) team: Team,
    /// Instruction set; [`super::Cpu::new`] has made sure that the processor has it.
    pub(crate) isa: Isa,
    /// Scratch of the linears.
    pub(crate) linear: linear::Workspace,
    /// Scratch of attention.
    pub(crate) attention: attention::Workspace,
}

impl CpuStream {
    /// Starts a team of `threads` threads. `isa` must be available on this processor.
    pub(super) fn new(threads: usize, isa: Isa) -> Result<Self> {
        debug_assert!(isa.is_available(), "{isa}");
        Ok(CpuStream {
            team: Team::new(threads)?,
            isa,
            linear: linear::Workspace::default(),
            attention: attention::Workspace::default(),
        })
    }
}
