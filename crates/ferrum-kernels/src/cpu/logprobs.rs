//! Log-probabilities: a thread a row.

use super::sample::{Row, workspaces};
use super::shared::SharedSlice;
use super::{Cpu, CpuStream};
use crate::draw::{DRAW_INTS, Drawn, LOGPROB_ENTRIES, logprobs::write};
use crate::params::Logprobs;
use crate::{Result, checks};

/// [`crate::Backend::logprobs`]
pub(super) fn logprobs(s: &mut CpuStream, p: Logprobs<'_, Cpu>) -> Result<()> {
    let (rows, vocab, scale, softcap) = (p.rows, p.vocab, p.scale, p.softcap);
    let view = checks::logprobs(p)?;
    let workspaces = SharedSlice::new(workspaces(&mut s.sample, s.team.threads()));
    let (tokens, values) = (SharedSlice::new(view.tokens), SharedSlice::new(view.values));
    s.team.chunks(rows, &|thread, row| {
        let Ok(top) = usize::try_from(view.ints[row * DRAW_INTS + 5]) else { return };
        let entries = row * LOGPROB_ENTRIES..(row + 1) * LOGPROB_ENTRIES;
        // SAFETY: each thread has a workspace of its own, and each row is given to one thread.
        let (workspace, tokens, values) = unsafe {
            let workspace = workspaces.range_mut(thread..thread + 1);
            (workspace, tokens.range_mut(entries.clone()), values.range_mut(entries))
        };
        let row_values = &view.logits[row * vocab..][..vocab];
        let scored = Drawn(view.came[row]).token().and_then(|token| {
            let adjust = Default::default();
            let row = Row { values: row_values, mask: None, adjust, scale, softcap };
            row.logprobs(token, top, &mut workspace[0])
        });
        write(&scored, tokens, values);
    });
    Ok(())
}
