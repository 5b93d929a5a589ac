//! Rotary position embedding.

use super::{Cpu, CpuStream};
use crate::Result;
use crate::host::HostBuffer;
use crate::params::Rope;

/// [`crate::Backend::rope`].
pub(super) fn rope(s: &mut CpuStream, x: &mut HostBuffer, p: &Rope<'_, Cpu>) -> Result<()> {
    let _ = (s, x, p);
    todo!()
}
