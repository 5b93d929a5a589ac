//! Inputs in the order in which a weight has its columns (GPTQ with act-order).

use super::super::shared::SharedSlice;
use super::super::{CpuStream, split_rows};
use crate::Result;
use crate::host::grow;

/// Calls `f` with the rows of `floats` so that value `j` is the one that column `j` is multiplied with;
/// without an order, with the rows as they are.
pub(super) fn arranged(
    s: &mut CpuStream,
    floats: &[f32],
    columns: Option<&[u32]>,
    f: impl FnOnce(&mut CpuStream, &[f32]) -> Result<()>,
) -> Result<()> {
    let Some(columns) = columns else { return f(s, floats) };
    let mut arranged = std::mem::take(&mut s.linear.arranged);
    grow(&mut arranged, floats.len())?;
    let width = columns.len();
    let to = SharedSlice::new(&mut arranged);
    split_rows(&mut s.team, floats.len() / width, width, &|rows| {
        let values = rows.start * width..rows.end * width;
        // SAFETY: ranges of rows are disjoint.
        let to = unsafe { to.range_mut(values.clone()) };
        for (to, from) in to.chunks_exact_mut(width).zip(floats[values].chunks_exact(width)) {
            to.iter_mut().zip(columns).for_each(|(to, &column)| *to = from[column as usize]);
        }
    });
    let result = f(s, &arranged[..floats.len()]);
    s.linear.arranged = arranged;
    result
}
