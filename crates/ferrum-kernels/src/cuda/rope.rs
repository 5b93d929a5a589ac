//! `rope`: a warp a head of a token.

use super::launch::{Grid, Launch};
use super::modules::Source;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer};
use crate::checks::{self, RopeInputView};
use crate::params::{Rope, RopeStyle};
use crate::{KernelError, Result};

/// Threads of a block, and so heads: eight.
const THREADS: usize = 256;
const WARPS: usize = THREADS / 32;

/// Inputs of a launch.
const INPUTS: usize = 2;

pub(super) fn rope(s: &mut CudaStream, p: Rope<'_, '_, Cuda>) -> Result<()> {
    let Rope { rows, head_dim, rotary_dim, style, eps, .. } = p;
    let view = checks::rope(p)?;
    let entry = match style {
        RopeStyle::Split => "rope_split",
        RopeStyle::Interleaved => "rope_interleaved",
    };
    for inputs in view.inputs.chunks(INPUTS) {
        let heads: usize = inputs.iter().map(|input| input.heads).sum();
        if i32::try_from(heads).is_err() {
            let what = format!("{heads} heads are more than a kernel can count");
            return Err(KernelError::shape("rope", what));
        }
        let mut launch = s.launch("rope", Source::Rope, entry);
        for i in 0..INPUTS {
            launch = input(launch, inputs.get(i));
        }
        let launch = launch.read(&view.table).read(&view.positions);
        let launch = launch.int(head_dim).int(rotary_dim).float(eps);
        let blocks = [rows, heads.div_ceil(WARPS), 1];
        // SAFETY: `checks` has held the lengths, and the positions against the table.
        unsafe { launch.run(Grid { blocks, threads: THREADS, shared: 0 }) }?;
    }
    Ok(())
}

/// `x`, `norm` and `heads` of an input; no heads where there is none.
fn input<'s>(launch: Launch<'s>, input: Option<&RopeInputView<'_, CudaBuffer>>) -> Launch<'s> {
    let x = input.map(|input| (input.x.memory, 0));
    let norm = input.and_then(|input| input.norm.as_ref()).map(|norm| (norm.memory, 0));
    launch.memory_if(x).memory_if(norm).int(input.map_or(0, |input| input.heads))
}
