//! `logprobs`: a block a row.

use super::Cuda;
use super::launch::Grid;
use super::modules::Source;
use super::sample::{THREADS, vocabulary_fits};
use super::stream::CudaStream;
use crate::params::Logprobs;
use crate::{Result, checks};

pub(super) fn logprobs(s: &mut CudaStream, p: Logprobs<'_, Cuda>) -> Result<()> {
    let (rows, vocab, scale, cap) = (p.rows, p.vocab, p.scale, p.softcap.unwrap_or(0.0));
    let view = checks::logprobs(p)?;
    vocabulary_fits("logprobs", vocab)?;
    let launch = s.launch("logprobs", Source::Logprobs, "logprobs");
    let launch = launch.write(&view.tokens).write(&view.values).read(&view.logits);
    let launch = launch.read(&view.came).read(&view.ints).int(vocab).float(scale).float(cap);
    // SAFETY: `checks` has held the lengths; the kernel holds the tokens that came against the
    // vocabulary.
    unsafe { launch.run(Grid { blocks: [rows, 1, 1], threads: THREADS, shared: 0 }) }
}
