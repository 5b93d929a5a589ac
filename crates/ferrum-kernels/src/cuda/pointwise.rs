//! `activate` and `gate`: a thread a value.

use super::launch::Grid;
use super::modules::Source;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer};
use crate::params::{Activate, Activation, Gate};
use crate::{Result, checks};

const THREADS: usize = 256;

/// The number that kernels know an activation by (`activation.cuh`).
pub(super) fn number(activation: Activation) -> usize {
    match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Gelu => 2,
        Activation::Relu => 3,
    }
}

fn grid(values: usize) -> Grid {
    Grid { blocks: [values.div_ceil(THREADS), 1, 1], threads: THREADS, shared: 0 }
}

pub(super) fn activate(s: &mut CudaStream, x: &mut CudaBuffer, p: &Activate) -> Result<()> {
    let x = checks::activate(x, p)?;
    let values = p.rows * p.width;
    let launch = s.launch("activate", Source::Pointwise, "activate");
    let launch = launch.write(&x).int(values).int(number(p.activation));
    // SAFETY: `checks` has held the length against the buffer.
    unsafe { launch.run(grid(values)) }
}

pub(super) fn gate(s: &mut CudaStream, x: &mut CudaBuffer, p: &Gate<'_, Cuda>) -> Result<()> {
    let checks::GateView { x, up } = checks::gate(x, p)?;
    let values = p.rows * p.width;
    let launch = s.launch("gate", Source::Pointwise, "gate");
    let launch = launch.write(&x).read(&up).int(values).int(number(p.activation));
    // SAFETY: as above.
    unsafe { launch.run(grid(values)) }
}
