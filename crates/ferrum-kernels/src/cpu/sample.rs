//! Drawing tokens: a thread a row.

use super::shared::SharedSlice;
use super::{Cpu, CpuStream};
use crate::draw::{
    Adjustment, Candidates, DRAW_FLOATS, DRAW_INTS, Draw, DrawBatch, Drawn, Scored,
    apply_adjustments, apply_mask, logprobs,
};
use crate::host::HostBuffer;
use crate::params::Sample;
use crate::{Result, checks};

/// What a thread draws with, kept so that a step allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    logits: Vec<f32>,
    mask: Vec<u32>,
    candidates: Candidates,
}

/// A row of values, and what becomes of them.
pub(super) struct Row<'a> {
    pub(super) values: &'a [f32],
    pub(super) mask: Option<&'a [i32]>,
    /// Adjusted logits: tokens and the numbers behind them, as in [`DrawBatch`].
    pub(super) adjust: (&'a [i32], &'a [f32]),
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
}

/// [`crate::Backend::sample`]
pub(super) fn sample(s: &mut CpuStream, dst: &mut HostBuffer, p: &Sample<'_, Cpu>) -> Result<()> {
    let view = checks::sample(dst, p)?;
    let words = DrawBatch::<HostBuffer>::words(p.vocab);
    let workspaces = SharedSlice::new(workspaces(&mut s.sample, s.team.threads()));
    let dst = SharedSlice::new(view.dst);
    s.team.chunks(p.rows, &|thread, row| {
        let (ints, floats) = (&view.ints[row * DRAW_INTS..], &view.floats[row * DRAW_FLOATS..]);
        let mask = usize::try_from(ints[1]).ok().map(|mask| &view.masks[mask * words..][..words]);
        let adjust = Adjustment::arrays_of_row(ints, view.adjust_tokens, view.adjust_values);
        let values = &view.logits[row * p.vocab..][..p.vocab];
        let (scale, softcap) = (p.scale, p.softcap);
        // SAFETY: each thread has a workspace of its own, and each row is given to one thread.
        let (workspace, dst) =
            unsafe { (workspaces.range_mut(thread..thread + 1), dst.range_mut(row..row + 1)) };
        let row = Row { values, mask, adjust, scale, softcap };
        dst[0] = match ints[4] {
            known @ 0.. => known,
            _ => row.draw(&Draw::of_arrays(ints, floats), &mut workspace[0]).0,
        };
    });
    Ok(())
}

/// One for each of so many threads.
pub(super) fn workspaces(all: &mut Vec<Workspace>, threads: usize) -> &mut [Workspace] {
    if all.len() < threads {
        all.resize_with(threads, Workspace::default);
    }
    all
}

impl<'a> Row<'a> {
    fn draw(&self, draw: &Draw, workspace: &mut Workspace) -> Drawn {
        let Workspace { logits, mask, candidates } = workspace;
        if let Some(bits) = self.mask {
            mask.clear();
            mask.extend(bits.iter().map(|word| word.cast_unsigned()));
        }
        let logits = self.logits(mask, logits);
        Drawn::new(candidates.choose(logits, draw, 1.0))
    }

    /// The logits: the values themselves, where nothing becomes of them.
    fn logits<'w>(&self, mask: &[u32], logits: &'w mut Vec<f32>) -> &'w [f32]
    where
        'a: 'w,
    {
        let (tokens, changes) = self.adjust;
        let transformed = self.scale != 1.0 || self.softcap.is_some();
        if self.mask.is_none() && tokens.is_empty() && !transformed {
            return self.values;
        }
        logits.clear();
        // The same arithmetic as where whole rows are wanted.
        logits.extend(self.values.iter().map(|value| self.scale * value));
        if let Some(cap) = self.softcap {
            logits.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
        }
        apply_adjustments(Adjustment::of_arrays(tokens, changes), logits);
        if self.mask.is_some() {
            apply_mask(mask, logits);
        }
        logits
    }

    /// Log-probabilities of a token and of the `top` likeliest ones, without mask and adjustments.
    pub(super) fn logprobs(&self, token: u32, top: usize, workspace: &mut Workspace) -> Scored {
        let row = Row { mask: None, adjust: Default::default(), ..*self };
        logprobs(row.logits(&[], &mut workspace.logits), token, top)
    }
}
