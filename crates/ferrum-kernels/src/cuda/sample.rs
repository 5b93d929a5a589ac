//! `sample`: a block a row.

use super::launch::Grid;
use super::modules::Source;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer};
use crate::params::Sample;
use crate::{KernelError, Result, checks};

/// So many weights add up without overflow.
const MOST_TOKENS: usize = 1 << 22;

/// Threads of a block, as the kernel has them.
pub(super) const THREADS: usize = 1024;

/// Refuses vocabularies whose weights could overflow.
pub(super) fn vocabulary_fits(op: &'static str, vocab: usize) -> Result<()> {
    if vocab > MOST_TOKENS {
        let what = format!("a vocabulary of {vocab}, more than {MOST_TOKENS}");
        return Err(KernelError::shape(op, what));
    }
    Ok(())
}

pub(super) fn sample(s: &mut CudaStream, dst: &mut CudaBuffer, p: &Sample<'_, Cuda>) -> Result<()> {
    let view = checks::sample(dst, p)?;
    vocabulary_fits("sample", p.vocab)?;
    let launch = s.launch("sample", Source::Sample, "sample");
    let launch = launch.write(&view.dst).read(&view.logits).read(&view.ints).read(&view.floats);
    let launch = launch.read(&view.masks).read(&view.adjust_tokens).read(&view.adjust_values);
    let launch = launch.int(p.vocab).float(p.scale).float(p.softcap.unwrap_or(0.0));
    // SAFETY: `checks` has held the lengths, the numbers of masks against their rows, and the ranges of
    // adjusted logits against those.
    unsafe { launch.run(Grid { blocks: [p.rows, 1, 1], threads: THREADS, shared: 0 }) }
}
