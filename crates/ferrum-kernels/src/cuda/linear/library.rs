//! Products of dense weights by cuBLASLt: with many tokens, where numbers may be rounded.

use super::super::blas::{Algorithm, Operands, Shape};
use super::super::stream::{CudaStream, Scratch};
use super::CudaWeight;
use super::product::{Method, Output, Product};
use crate::{KernelError, Result};

impl CudaWeight {
    /// The product with so many tokens, as the library is told it.
    fn shape(&self, tokens: usize, bias: bool) -> Shape {
        let cols = self.groups() * super::layout::GROUP;
        Shape { format: self.format, tokens, rows: self.rows, cols, bias }
    }
}

/// How the library computes a product; `None` if it is not there, or cannot.
pub(super) fn algorithm(
    s: &CudaStream,
    weight: &CudaWeight,
    tokens: usize,
    bias: bool,
) -> Option<Algorithm> {
    s.device.blas()?.algorithm(weight.shape(tokens, bias))
}

/// Queues a product whose input is there in its form, with `scalars` behind it.
///
/// # Safety
/// As for [`Product::run`].
pub(super) unsafe fn run(s: &mut CudaStream, p: &Product<'_>, o: &Output<'_>) -> Result<()> {
    let weight = o.weight;
    let missing = || KernelError::shape(p.op, "no algorithm of cuBLASLt");
    let shape = weight.shape(p.count, o.bias.is_some());
    let algorithm = algorithm(s, weight, p.count, shape.bias).ok_or_else(missing)?;
    let workspace = s.scratch(Scratch::Library, algorithm.workspace)?;
    let form = Method::Library.form(weight.format);
    let (input, offset) = p.input.place(form);
    let scalars = input.address() + (offset + form.scalars_at(p.count, weight.cols)) as u64;
    // What `round` in `cuda/round_halves.cu` leaves: the factor of the product, 1 and 0.
    let number = size_of::<f32>() as u64;
    let of_dst = scalars + if o.accumulate { number } else { 2 * number };
    let operands = Operands {
        weight: weight.values(),
        input: input.address() + offset as u64,
        dst: o.dst.address(),
        bias: o.bias.map_or(0, |bias| bias.address()),
        factors: [scalars, of_dst],
        workspace: workspace.address(),
    };
    s.device.bind(p.op)?;
    let device = s.device.clone();
    let blas = device.blas().ok_or_else(missing)?;
    // SAFETY: the caller's promise; the workspace is as large as the algorithm asks for.
    unsafe { blas.multiply(p.op, &shape, &algorithm, &operands, s.raw) }?;
    s.mention([Some(weight.memory()), Some(input), Some(o.dst), o.bias, Some(&workspace)]);
    Ok(())
}
