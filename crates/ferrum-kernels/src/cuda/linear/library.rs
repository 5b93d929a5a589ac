//! Products of dense weights by cuBLASLt: with many tokens, where numbers may be rounded.

use super::super::blas::{Algorithm, Operands, Shape};
use super::super::device::Device;
use super::super::launch::Grid;
use super::super::modules::Source;
use super::super::stream::{CudaStream, Scratch};
use super::CudaWeight;
use super::product::{Method, Output, Product};
use crate::{Format, KernelError, Result};

/// Threads of a block that scales products.
const THREADS: usize = 256;

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
    s.device.bind("linear").ok()?;
    // Elsewhere a bias comes with the scales.
    let bias = bias && !scaled(weight.format);
    s.device.blas()?.algorithm(weight.shape(tokens, bias))
}

/// Whether rows of the rounded input have scales, which the library knows nothing of.
fn scaled(format: Format) -> bool {
    format != Format::BF16
}

/// Whether the library multiplies E4M3 numbers on this card: asked for a product as large models have
/// them.
pub(in super::super) fn multiplies_e4m3(device: &Device) -> bool {
    let (format, tokens, rows, cols) = (Format::F8_E4M3, 512, 4096, 4096);
    let shape = Shape { format, tokens, rows, cols, bias: false };
    let blas = device.bind("linear").ok().and_then(|()| device.blas());
    blas.is_some_and(|blas| blas.algorithm(shape).is_some())
}

/// Queues a product whose input is there in its form.
///
/// # Safety
/// As for [`Product::run`].
pub(super) unsafe fn run(s: &mut CudaStream, p: &Product<'_>, o: &Output<'_>) -> Result<()> {
    if !scaled(o.weight.format) {
        // SAFETY: the caller's promise.
        return unsafe { multiply(s, p, o) };
    }
    let (weight, form) = (o.weight, Method::Library.form(o.weight.format));
    let values = p.count.saturating_mul(weight.rows);
    let products = s.scratch(Scratch::Unscaled, values.saturating_mul(size_of::<f32>()))?;
    // SAFETY: likewise, and there is room for the products.
    unsafe { multiply(s, p, &Output::plain(weight, &products)) }?;
    let (input, offset) = p.input.place(form);
    let launch = s.launch(p.op, Source::RoundHalves(weight.format), "scale_rows");
    let launch = launch.memory(o.dst, 0).memory(&products, 0);
    let launch = launch.memory(input, offset + form.scales_at(p.count, weight.cols));
    let launch = launch.memory_if(weight.row_scales());
    let launch = launch.memory_if(o.bias.map(|bias| (bias, 0)));
    let launch = launch.int(p.count).int(weight.rows).flag(o.accumulate);
    let blocks = [values.div_ceil(THREADS), 1, 1];
    // SAFETY: likewise.
    unsafe { launch.run(Grid { blocks, threads: THREADS, shared: 0 }) }
}

/// Queues the product itself.
///
/// # Safety
/// As for [`Product::run`].
unsafe fn multiply(s: &mut CudaStream, p: &Product<'_>, o: &Output<'_>) -> Result<()> {
    let missing = || KernelError::shape(p.op, "no algorithm of cuBLASLt");
    let shape = o.weight.shape(p.count, o.bias.is_some());
    let device = s.device.clone();
    device.bind(p.op)?;
    let blas = device.blas().ok_or_else(missing)?;
    let algorithm = blas.algorithm(shape).ok_or_else(missing)?;
    let workspace = s.scratch(Scratch::Library, algorithm.workspace)?;
    let (input, offset) = p.input.place(Method::Library.form(o.weight.format));
    let operands = Operands {
        weight: o.weight.values(),
        input: input.address() + offset as u64,
        dst: o.dst.address(),
        bias: o.bias.map_or(0, |bias| bias.address()),
        accumulate: o.accumulate,
        workspace: workspace.address(),
    };
    // SAFETY: the caller's promise; the workspace is as large as the algorithm asks for.
    unsafe { blas.multiply(p.op, &shape, &algorithm, &operands, s.raw) }?;
    s.mention([Some(o.weight.memory()), Some(input), Some(o.dst), o.bias, Some(&workspace)]);
    Ok(())
}
