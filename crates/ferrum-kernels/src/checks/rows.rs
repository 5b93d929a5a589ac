//! Checks of the operations that work on some rows, or on rows as they are.

use super::{Operand, ensure, indices, product, uploaded};
use crate::draw::{DRAW_FLOATS, DRAW_INTS, DrawBatch};
use crate::host::HostBuffer;
use crate::params::{Gate, GatherRows, Sample, ScatterAdd};
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
    /// `[R, DRAW_INTS]`, the numbers of masks each below their number.
    pub ints: M::Ints<'a>,
    /// `[R, DRAW_FLOATS]`
    pub floats: M::Floats<'a>,
    /// `[M, words]`
    pub masks: M::Ints<'a>,
    /// `[R]`
    pub dst: M::IntsMut<'a>,
}

/// [`Backend::sample`]
pub(crate) fn sample<'a, B: Backend<Buffer: Operand>>(
    dst: &'a mut B::Buffer,
    p: &Sample<'a, B>,
) -> Result<SampleView<'a, B::Buffer>> {
    let (op, draws) = ("sample", p.draws);
    // Results are told apart by their sign.
    let fits = p.vocab > 0 && i32::try_from(p.vocab).is_ok_and(|vocab| vocab < i32::MAX - 1);
    ensure(op, fits, || format!("a vocabulary of {}", p.vocab))?;
    let same = p.vocab == draws.vocab();
    ensure(op, same, || format!("draws for a vocabulary of {}, not {}", draws.vocab(), p.vocab))?;
    ensure(op, p.rows <= draws.rows, || format!("{} rows, {} draws", p.rows, draws.rows))?;
    let softcap = p.softcap.unwrap_or(1.0);
    let good = p.scale.is_finite() && softcap.is_finite() && softcap > 0.0;
    ensure(op, good, || format!("a factor of {}, a cap of {:?}", p.scale, p.softcap))?;
    let ints = product(op, &[p.rows, DRAW_INTS])?;
    let masked = draws.masked as i32;
    for row in uploaded(op, &draws.ints, ints)?.chunks_exact(DRAW_INTS) {
        let good = row[0] >= 0 && (-1..masked).contains(&row[1]) && row[2] >= 0;
        ensure(op, good, || format!("a draw of {row:?} with {masked} masks"))?;
    }
    let words = DrawBatch::<B::Buffer>::words(p.vocab);
    Ok(SampleView {
        logits: p.logits.floats(op, product(op, &[p.rows, p.vocab])?)?,
        ints: draws.ints.ints(op, ints)?,
        floats: draws.floats.floats(op, product(op, &[p.rows, DRAW_FLOATS])?)?,
        masks: draws.masks.ints(op, product(op, &[draws.masked, words])?)?,
        dst: dst.ints_mut(op, p.rows)?,
    })
}
