//! [`crate::Backend::scatter_add`]: `dst[rows[r], :] += src[r, :]`

use super::Reference;
use crate::host::HostBuffer;
use crate::params::ScatterAdd;
use crate::{Result, checks};

pub(super) fn scatter_add(dst: &mut HostBuffer, p: &ScatterAdd<'_, Reference>) -> Result<()> {
    let view = checks::scatter_add(dst, p)?;
    for (src, &row) in view.src.chunks_exact(p.width).zip(view.rows) {
        let dst = &mut view.dst[row as usize * p.width..][..p.width];
        dst.iter_mut().zip(src).for_each(|(dst, src)| *dst += src);
    }
    Ok(())
}
