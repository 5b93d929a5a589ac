//! Linear layers: weights in planes, and products with few tokens and with many.
//!
//! A weight is taken apart when it is packed, so that kernels read each of its fields aligned
//! ([`layout`]). Activations are brought into the form that the weights ask for once for all outputs
//! ([`input`]). Up to eight tokens are multiplied by kernels that take as long as reading the weight
//! does, more by tensor cores ([`product`]); with very many, dense weights by cuBLASLt where that is
//! installed and inputs may be rounded ([`library`]).
//!
//! A token's results do not depend on the tokens beside it, except that those of different kernels
//! may differ by rounding: those for up to 8 tokens, up to 64, and more.

mod embed;
mod experts;
mod input;
mod layout;
mod library;
mod product;
mod weight;

pub(super) use embed::embed;
pub(super) use experts::{expert_combine, expert_gated_linear};
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
use product::{Method, Product, Weights};

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
    for (output, method) in outputs.iter_mut().zip(methods) {
        let dst = output.dst.floats_mut(OP, rows * output.weight.rows)?;
        let bias = output.bias.map(|bias| bias.floats(OP, output.weight.rows)).transpose()?;
        let product = Product {
            op: OP,
            weights: Weights::One(output.weight),
            method,
            input: &input,
            count: rows,
            slots: None,
            dst: dst.memory,
            bias: bias.as_ref().map(|bias| bias.memory),
            accumulate: output.accumulate,
        };
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
    let product = |input| Product {
        op: OP,
        weights: Weights::One(gate),
        method: methods[0],
        input,
        count: p.rows,
        slots: None,
        dst: view.dst.memory,
        bias: None,
        accumulate: false,
    };
    let input = |columns: Option<_>, forms: &[_], s: &mut _| {
        Input::new(s, OP, &view.input, shape, columns, forms)
    };
    if gate.columns() == up.columns() {
        let input = input(gate.column_memory(), &forms, s)?;
        // SAFETY: as above.
        return unsafe { gated(s, product(&input), gate, up, methods[1], number(p.activation)) };
    }
    let values = p.rows * gate.rows;
    let ups = s.scratch(Scratch::Products, values.saturating_mul(size_of::<f32>()))?;
    // The form of one input takes the place of the other's, once that has been multiplied.
    let of_gate = input(gate.column_memory(), &forms[..1], s)?;
    // SAFETY: as above; there is room for the other products.
    unsafe { product(&of_gate).run(s)? }
    let of_up = input(up.column_memory(), &forms[1..], s)?;
    let (weights, method) = (Weights::One(up), methods[1]);
    // SAFETY: likewise.
    unsafe {
        Product { weights, method, dst: &ups, ..product(&of_up) }.run(s)?;
        join_gates(s, OP, view.dst.memory, &ups, values, number(p.activation))
    }
}

/// Two products and what becomes of them, in one kernel of ours where the formats agree. `product` is that
/// of the gate.
///
/// # Safety
/// As for [`Product::run`].
unsafe fn gated(
    s: &mut CudaStream,
    product: Product<'_>,
    gate: &CudaWeight,
    up: &CudaWeight,
    method: Method,
    activation: usize,
) -> Result<()> {
    if gate.format == up.format && product.method == method && method != Method::Library {
        let weights = Weights::Gated(gate, up, activation);
        // SAFETY: the caller's promise.
        return unsafe { Product { weights, ..product }.run(s) };
    }
    let (op, dst, values) = (product.op, product.dst, product.count * gate.rows);
    let ups = s.scratch(Scratch::Products, values.saturating_mul(size_of::<f32>()))?;
    // SAFETY: the caller's promise; there is room for the other products.
    unsafe {
        product.run(s)?;
        Product { weights: Weights::One(up), method, dst: &ups, ..product }.run(s)?;
        join_gates(s, op, dst, &ups, values, activation)
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
