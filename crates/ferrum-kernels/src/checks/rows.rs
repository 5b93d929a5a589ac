//! Checks of the operations that work on some rows, or on rows as they are.

use super::{Operand, ensure, indices, product, uploaded};
use crate::host::HostBuffer;
use crate::params::{Gate, GatherRows, ScatterAdd};
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
