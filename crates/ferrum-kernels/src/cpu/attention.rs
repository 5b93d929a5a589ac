//! Causal attention over the paged KV cache.

use super::{Cpu, CpuStream};
use crate::Result;
use crate::host::HostBuffer;
use crate::params::Attention;

/// Scratch of attention, kept between steps.
#[derive(Default)]
pub(crate) struct Workspace;

/// [`crate::Backend::attention`].
pub(super) fn attention(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &Attention<'_, Cpu>,
) -> Result<()> {
    let _ = (s, dst, p);
    todo!()
}
