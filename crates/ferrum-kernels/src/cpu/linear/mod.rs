//! Linear layers over packed weights (placeholder signatures; helper `cpulinear` owns this folder).

use super::{Cpu, CpuStream};
use crate::host::HostBuffer;
use crate::params::{Embed, GatedLinear, Linear};
use crate::{Format, PackedWeight, Result, WeightSource};

/// A packed weight.
pub struct CpuWeight;

impl PackedWeight for CpuWeight {
    fn format(&self) -> Format {
        todo!()
    }
    fn rows(&self) -> usize {
        todo!()
    }
    fn cols(&self) -> usize {
        todo!()
    }
    fn resident_bytes(&self) -> usize {
        todo!()
    }
}

/// Scratch of the linears, kept between steps.
#[derive(Default)]
pub(crate) struct Workspace;

/// Whether weights of this format and number of input features can be packed.
pub(super) fn supported(_format: Format, _cols: usize) -> Result<()> {
    todo!()
}

/// [`crate::Backend::pack`]; the stream has the team and the instruction set.
pub(super) fn pack(_s: &mut CpuStream, _source: &WeightSource<'_>) -> Result<CpuWeight> {
    todo!()
}

/// [`crate::Backend::packed_bytes`].
pub(super) fn packed_bytes(_format: Format, _rows: usize, _cols: usize) -> usize {
    todo!()
}

/// [`crate::Backend::embed`].
pub(super) fn embed(_s: &mut CpuStream, _dst: &mut HostBuffer, _p: &Embed<'_, Cpu>) -> Result<()> {
    todo!()
}

/// [`crate::Backend::linear`].
pub(super) fn linear(_s: &mut CpuStream, _p: Linear<'_, '_, Cpu>) -> Result<()> {
    todo!()
}

/// [`crate::Backend::gated_linear`].
pub(super) fn gated_linear(
    _s: &mut CpuStream,
    _dst: &mut HostBuffer,
    _p: &GatedLinear<'_, Cpu>,
) -> Result<()> {
    todo!()
}
