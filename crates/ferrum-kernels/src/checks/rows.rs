//! Checks of the operations that work on some rows, or on rows as they are.

use super::{ensure, indices, product};
use crate::host::HostBuffer;
use crate::params::{Gate, GatherRows, ScatterAdd};
use crate::{Backend, Buffer, Result};

/// Operands of [`Backend::gather_rows`].
pub(crate) struct GatherRowsView<'a> {
    /// `[rows of the buffer, width]`
    pub src: &'a [f32],
    /// `[R]`, each below the rows of `src`.
    pub rows: &'a [i32],
    /// `[R, width]`
    pub dst: &'a mut [f32],
}

/// [`Backend::gather_rows`]
pub(crate) fn gather_rows<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &GatherRows<'a, B>,
) -> Result<GatherRowsView<'a>> {
    let op = "gather_rows";
    ensure(op, p.width > 0, || "a width of zero".into())?;
    let src = p.src.f32(op, p.src.len())?;
    let rows = p.rows.i32(op, p.count)?;
    indices(op, "row", rows, src.len() / p.width)?;
    let dst = dst.f32_mut(op, product(op, &[p.count, p.width])?)?;
    Ok(GatherRowsView { src, rows, dst })
}

/// Operands of [`Backend::scatter_add`].
pub(crate) struct ScatterAddView<'a> {
    /// `[R, width]`
    pub src: &'a [f32],
    /// `[R]`, growing, each below the rows of `dst`.
    pub rows: &'a [i32],
    /// `[rows of the buffer, width]`
    pub dst: &'a mut [f32],
}

/// [`Backend::scatter_add`]
pub(crate) fn scatter_add<'a, B: Backend<Buffer = HostBuffer>>(
    dst: &'a mut HostBuffer,
    p: &ScatterAdd<'a, B>,
) -> Result<ScatterAddView<'a>> {
    let op = "scatter_add";
    ensure(op, p.width > 0, || "a width of zero".into())?;
    let src = p.src.f32(op, product(op, &[p.count, p.width])?)?;
    let rows = p.rows.i32(op, p.count)?;
    let len = dst.len();
    indices(op, "row", rows, len / p.width)?;
    ensure(op, rows.is_sorted_by(|a, b| a < b), || "rows that do not grow".into())?;
    Ok(ScatterAddView { src, rows, dst: dst.f32_mut(op, len)? })
}

/// [`Backend::gate`]: the gates, and what they are multiplied with.
pub(crate) fn gate<'a, B: Backend<Buffer = HostBuffer>>(
    x: &'a mut HostBuffer,
    p: &Gate<'a, B>,
) -> Result<(&'a mut [f32], &'a [f32])> {
    let len = product("gate", &[p.rows, p.width])?;
    Ok((x.f32_mut("gate", len)?, p.up.f32("gate", len)?))
}
