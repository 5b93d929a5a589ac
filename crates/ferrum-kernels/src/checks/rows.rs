//! Checks of the operations that work on some rows, or on rows as they are.

use super::{Operand, ensure, in_range, indices, product, uploaded};
use crate::draw::{
    ADJUST_FLOATS, DRAW_FLOATS, DRAW_INTS, DrawBatch, LOGPROB_ENTRIES, MOST_LOGPROBS,
};
use crate::host::HostBuffer;
use crate::params::{Gate, GatherRows, Logprobs, Sample, ScatterAdd};
use crate::{Backend, Buffer, Result};

/// Operands of [`Backend::gather_rows`].
pub(crate) struct GatherRowsView<'a, M: Operand + 'a = HostBuffer> {
    /// `[rows of the buffer, width]`
    pub src: M::Floats<'a>,
    /// `[R]`, each below the rows of `src`.
    pub rows: M::Ints<'a>,
    /// `[R, width]`
    pub dst: M::FloatsMut<'a>,
}

/// [`Backend::gather_rows`]
pub(crate) fn gather_rows<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &GatherRows<'a, B>,
) -> Result<GatherRowsView<'a, B::Buffer>> {
    let op = "gather_rows";
    ensure(op, p.width > 0, || "a width of zero".into())?;
    let src = p.src.floats(op, p.src.len())?;
    let rows = indices(op, "row", p.rows, p.count, p.src.len() / p.width)?;
    let dst = dst.floats_mut(op, product(op, &[p.count, p.width])?)?;
    Ok(GatherRowsView { src, rows, dst })
}

/// Operands of [`Backend::scatter_add`].
pub(crate) struct ScatterAddView<'a, M: Operand + 'a = HostBuffer> {
    /// `[R, width]`
    pub src: M::Floats<'a>,
    /// `[R]`, growing, each below the rows of `dst`.
    pub rows: M::Ints<'a>,
    /// `[rows of the buffer, width]`
    pub dst: M::FloatsMut<'a>,
}

/// [`Backend::scatter_add`]
pub(crate) fn scatter_add<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &ScatterAdd<'a, B>,
) -> Result<ScatterAddView<'a, B::Buffer>> {
    let op = "scatter_add";
    ensure(op, p.width > 0, || "a width of zero".into())?;
    let src = p.src.floats(op, product(op, &[p.count, p.width])?)?;
    let len = dst.len();
    let rows = indices(op, "row", p.rows, p.count, len / p.width)?;
    let growing = uploaded(op, p.rows, p.count)?.is_sorted_by(|a, b| a < b);
    ensure(op, growing, || "rows that do not grow".into())?;
    Ok(ScatterAddView { src, rows, dst: dst.floats_mut(op, len)? })
}

/// Operands of [`Backend::gate`].
pub(crate) struct GateView<'a, M: Operand + 'a = HostBuffer> {
    /// The gates, `[T, width]`.
    pub x: M::FloatsMut<'a>,
    /// What they are multiplied with, `[T, width]`.
    pub up: M::Floats<'a>,
}

/// [`Backend::gate`]
pub(crate) fn gate<'a, B: Backend<Buffer: Operand>>(
    x: &'a mut B::Buffer,
    p: &Gate<'a, B>,
) -> Result<GateView<'a, B::Buffer>> {
    let len = product("gate", &[p.rows, p.width])?;
    Ok(GateView { x: x.floats_mut("gate", len)?, up: p.up.floats("gate", len)? })
}

/// Operands of [`Backend::sample`].
pub(crate) struct SampleView<'a, M: Operand + 'a = HostBuffer> {
    /// `[R, vocab]`
    pub logits: M::Floats<'a>,
    /// `[R, DRAW_INTS]`, the numbers of masks each below their number, and the ranges of adjusted logits
    /// within them.
    pub ints: M::Ints<'a>,
    /// `[R, DRAW_FLOATS]`
    pub floats: M::Floats<'a>,
    /// `[M, words]`
    pub masks: M::Ints<'a>,
    /// `[A]`, those of a row growing, each below the vocabulary.
    pub adjust_tokens: M::Ints<'a>,
    /// `[A, ADJUST_FLOATS]`
    pub adjust_values: M::Floats<'a>,
    /// `[R]`
    pub dst: M::IntsMut<'a>,
}

/// [`Backend::sample`]
pub(crate) fn sample<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &Sample<'a, B>,
) -> Result<SampleView<'a, B::Buffer>> {
    let (op, draws) = ("sample", p.draws);
    let ints = draw_ints(op, draws, (p.rows, p.vocab), (p.scale, p.softcap))?;
    adjusted_tokens(op, draws, (p.rows, p.vocab))?;
    let words = DrawBatch::<B::Buffer>::words(p.vocab);
    Ok(SampleView {
        logits: p.logits.floats(op, product(op, &[p.rows, p.vocab])?)?,
        ints,
        floats: draws.floats.floats(op, product(op, &[p.rows, DRAW_FLOATS])?)?,
        masks: draws.masks.ints(op, product(op, &[draws.masked, words])?)?,
        adjust_tokens: draws.adjust_tokens.ints(op, draws.adjusted)?,
        adjust_values: draws
            .adjust_values
            .floats(op, product(op, &[draws.adjusted, ADJUST_FLOATS])?)?,
        dst: dst.ints_mut(op, p.rows)?,
    })
}

/// [`DrawBatch::ints`] of the first rows, with what [`Backend::sample`] and [`Backend::logprobs`] have in
/// common.
fn draw_ints<'a, M: Operand>(
    op: &'static str,
    draws: &'a DrawBatch<M>,
    (rows, vocab): (usize, usize),
    (scale, softcap): (f32, Option<f32>),
) -> Result<M::Ints<'a>> {
    // Results are told apart by their sign.
    let fits = vocab > 0 && i32::try_from(vocab).is_ok_and(|vocab| vocab < i32::MAX - 1);
    ensure(op, fits, || format!("a vocabulary of {vocab}"))?;
    let same = vocab == draws.vocab();
    ensure(op, same, || format!("draws for a vocabulary of {}, not {vocab}", draws.vocab()))?;
    ensure(op, rows <= draws.rows, || format!("{rows} rows, {} draws", draws.rows))?;
    let good = scale.is_finite() && softcap.is_none_or(|cap| cap.is_finite() && cap > 0.0);
    ensure(op, good, || format!("a factor of {scale}, a cap of {softcap:?}"))?;
    let ints = product(op, &[rows, DRAW_INTS])?;
    let (masked, most) = (draws.masked as i32, MOST_LOGPROBS as i32);
    let adjusted = i32::try_from(draws.adjusted).unwrap_or(i32::MAX);
    for row in uploaded(op, &draws.ints, ints)?.chunks_exact(DRAW_INTS) {
        let good = row[0] >= 0
            && (-1..masked).contains(&row[1])
            && row[2] >= 0
            && (-1..vocab as i32).contains(&row[4])
            && (-1..=most).contains(&row[5])
            && 0 <= row[6]
            && row[6] <= row[7]
            && row[7] <= adjusted;
        let what = || format!("a draw of {row:?} with {masked} masks, {adjusted} adjusted logits");
        ensure(op, good, what)?;
    }
    draws.ints.ints(op, ints)
}

/// [`DrawBatch::adjust_tokens`] of each row, whose range [`draw_ints`] has checked.
fn adjusted_tokens<M: Operand>(
    op: &'static str,
    draws: &DrawBatch<M>,
    (rows, vocab): (usize, usize),
) -> Result<()> {
    let tokens = uploaded(op, &draws.adjust_tokens, draws.adjusted)?;
    in_range(op, "token", tokens, vocab)?;
    for row in uploaded(op, &draws.ints, product(op, &[rows, DRAW_INTS])?)?.chunks_exact(DRAW_INTS)
    {
        let growing = tokens[row[6] as usize..row[7] as usize].is_sorted_by(|a, b| a < b);
        ensure(op, growing, || "adjusted tokens that do not grow".into())?;
    }
    Ok(())
}

/// Operands of [`Backend::logprobs`].
pub(crate) struct LogprobsView<'a, M: Operand + 'a = HostBuffer> {
    /// `[R, vocab]`
    pub logits: M::Floats<'a>,
    /// `[R]`
    pub came: M::Ints<'a>,
    /// `[R, DRAW_INTS]`
    pub ints: M::Ints<'a>,
    /// `[R, LOGPROB_ENTRIES]`
    pub tokens: M::IntsMut<'a>,
    /// `[R, LOGPROB_ENTRIES]`
    pub values: M::FloatsMut<'a>,
}

/// [`Backend::logprobs`]
pub(crate) fn logprobs<'a, B: Backend<Buffer: Operand>>(
    p: Logprobs<'a, B>,
) -> Result<LogprobsView<'a, B::Buffer>> {
    let (op, rows) = ("logprobs", p.rows);
    let ints = draw_ints(op, p.draws, (rows, p.vocab), (p.scale, p.softcap))?;
    let entries = product(op, &[rows, LOGPROB_ENTRIES])?;
    Ok(LogprobsView {
        logits: p.logits.floats(op, product(op, &[rows, p.vocab])?)?,
        came: p.came.ints(op, rows)?,
        ints,
        tokens: p.dst.tokens.ints_mut(op, entries)?,
        values: p.dst.values.floats_mut(op, entries)?,
    })
}
