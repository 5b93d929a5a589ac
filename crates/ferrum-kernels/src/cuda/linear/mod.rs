//! Linear layers: weights in planes, and products with few tokens and with many.
//!
//! A weight is taken apart when it is packed, so that kernels read each of its fields aligned
//! ([`layout`]). Activations are brought into the form that the weights ask for once for all outputs
//! ([`input`]). Up to eight tokens are multiplied by kernels that take as long as reading the weight
//! does, more by tensor cores ([`product`]); with very many, dense weights by cuBLASLt where that is
//! installed and inputs may be rounded ([`library`]).
//!
//! A token's results do not depend on the tokens beside it, except that those of different kernels
//! may differ by rounding: those for up to 8 tokens, up to 64, and more; of cuBLASLt's, those for one
//! number of tokens and another.

mod embed;
mod experts;
mod input;
mod layout;
mod library;
mod product;
mod weight;

pub(super) use embed::embed;
pub(super) use experts::{expert_combine, expert_gated_linear};
pub(super) use library::multiplies_e4m3;
pub use weight::CudaWeight;
pub(super) use weight::{pack, packed_bytes};

use std::sync::Arc;

use super::buffer::Part;
use super::launch::Grid;
use super::memory::Memory;
use super::modules::Source;
use super::pointwise::number;
use super::stream::{CudaStream, Scratch};
use super::{Cuda, CudaBuffer};
use crate::checks::Operand;
use crate::params::{GatedLinear, Linear, LinearOutput};
use crate::{PackedWeight, Result, checks};
use input::Input;
use product::{Method, Output, Product};

/// [`crate::Backend::linear`]
pub(super) fn linear(s: &mut CudaStream, p: Linear<'_, '_, Cuda>) -> Result<()> {
    const OP: &str = "linear";
    checks::linear(&p)?;
    let Some(first) = p.outputs.first() else { return Ok(()) };
    let cols = first.weight.cols;
    let floats = p.input.floats(OP, p.rows * cols)?;
    for outputs in p.outputs.chunk_by_mut(|a, b| a.weight.columns() == b.weight.columns()) {
        outputs_of(s, &floats, [p.rows, cols], outputs)?;
    }
    Ok(())
}

/// Outputs that want their input in the same order.
fn outputs_of(
    s: &mut CudaStream,
    floats: &Part<'_>,
    [rows, cols]: [usize; 2],
    outputs: &mut [LinearOutput<'_, Cuda>],
) -> Result<()> {
    const OP: &str = "linear";
    let method = |o: &LinearOutput<'_, Cuda>| Method::of(s, o.weight, rows, o.bias.is_some());
    let methods: Vec<_> = outputs.iter().map(method).collect();
    let pairs = outputs.iter().zip(&methods);
    let forms: Vec<_> = pairs.map(|(output, method)| method.form(output.weight.format)).collect();
    let columns = outputs.first().and_then(|output| output.weight.column_memory());
    let input = Input::new(s, OP, floats, [rows, cols], columns, &forms)?;
    let mut parts = Vec::with_capacity(outputs.len());
    for (o, method) in outputs.iter_mut().zip(methods) {
        let dst = o.dst.floats_mut(OP, rows * o.weight.rows)?.memory;
        let bias = o.bias.map(|bias| bias.floats(OP, o.weight.rows)).transpose()?;
        let bias = bias.map(|bias| bias.memory);
        parts.push((method, Output { weight: o.weight, dst, bias, accumulate: o.accumulate }));
    }
    // Kernels for few tokens make several outputs at once, so that a card is not idle between them.
    let together = |a: &(Method, Output<'_>), b: &(Method, Output<'_>)| {
        a.0 == b.0 && a.1.weight.format == b.1.weight.format
    };
    let parts = parts.chunk_by(together);
    for parts in parts.flat_map(|parts| parts.chunks(parts[0].0.outputs())) {
        let (method, outputs) = (parts[0].0, parts.iter().map(|part| part.1).collect::<Vec<_>>());
        let (outputs, input) = (&*outputs, &input);
        let product =
            Product { op: OP, outputs, gated: None, method, input, count: rows, slots: None };
        // SAFETY: `checks` has held the lengths against the buffers.
        unsafe { product.run(s)? }
    }
    Ok(())
}

/// [`crate::Backend::gated_linear`]
pub(super) fn gated_linear(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &GatedLinear<'_, Cuda>,
) -> Result<()> {
    const OP: &str = "gated_linear";
    let view = checks::gated_linear(dst, p)?;
    let (gate, up, shape) = (p.gate, p.up, [p.rows, p.gate.cols]);
    let methods = [gate, up].map(|weight| Method::of(s, weight, p.rows, false));
    let forms = [methods[0].form(gate.format), methods[1].form(up.format)];
    let (dst, count) = (view.dst.memory, p.rows);
    let of_gate = [Output::plain(gate, dst)];
    let product = |input| {
        let (outputs, method) = (&of_gate, methods[0]);
        Product { op: OP, outputs, gated: None, method, input, count, slots: None }
    };
    let input = |columns: Option<_>, forms: &[_], s: &mut _| {
        Input::new(s, OP, &view.input, shape, columns, forms)
    };
    if gate.columns() == up.columns() {
        let input = input(gate.column_memory(), &forms, s)?;
        // SAFETY: as above.
        return unsafe { gated(s, product(&input), up, methods[1], number(p.activation)) };
    }
    let values = p.rows * gate.rows;
    let ups = s.scratch(Scratch::Products, values.saturating_mul(size_of::<f32>()))?;
    // The form of one input takes the place of the other's, once that has been multiplied.
    let arranged = input(gate.column_memory(), &forms[..1], s)?;
    // SAFETY: as above; there is room for the other products.
    unsafe { product(&arranged).run(s)? }
    let arranged = input(up.column_memory(), &forms[1..], s)?;
    let (outputs, method) = (&[Output::plain(up, &ups)], methods[1]);
    // SAFETY: likewise.
    unsafe {
        Product { outputs, method, ..product(&arranged) }.run(s)?;
        join_gates(s, OP, dst, &ups, values, number(p.activation))
    }
}

/// A gated linear: one kernel of ours where the formats agree, or two products and what becomes of them.
/// `product` is that of the gate, and its output where the result goes.
///
/// # Safety
/// As for [`Product::run`].
unsafe fn gated(
    s: &mut CudaStream,
    product: Product<'_>,
    up: &CudaWeight,
    method: Method,
    activation: usize,
) -> Result<()> {
    let Some(&gate) = product.outputs.first() else { return Ok(()) };
    if gate.weight.format == up.format && product.method == method && method != Method::Library {
        let outputs = &[gate, Output::plain(up, gate.dst)];
        // SAFETY: the caller's promise.
        return unsafe { Product { outputs, gated: Some(activation), ..product }.run(s) };
    }
    let values = product.count * gate.weight.rows;
    let ups = s.scratch(Scratch::Products, values.saturating_mul(size_of::<f32>()))?;
    // SAFETY: the caller's promise; there is room for the other products.
    unsafe {
        product.run(s)?;
        Product { outputs: &[Output::plain(up, &ups)], method, ..product }.run(s)?;
        join_gates(s, product.op, gate.dst, &ups, values, activation)
    }
}

/// `gates[i] = act(gates[i]) · ups[i]`
///
/// # Safety
/// Both must have so many values.
unsafe fn join_gates(
    s: &mut CudaStream,
    op: &'static str,
    gates: &Arc<Memory>,
    ups: &Arc<Memory>,
    values: usize,
    activation: usize,
) -> Result<()> {
    const THREADS: usize = 256;
    let launch = s.launch(op, Source::Pointwise, "gate");
    let launch = launch.memory(gates, 0).memory(ups, 0).int(values).int(activation);
    let grid = Grid { blocks: [values.div_ceil(THREADS), 1, 1], threads: THREADS, shared: 0 };
    // SAFETY: the caller's promise.
    unsafe { launch.run(grid) }
}
