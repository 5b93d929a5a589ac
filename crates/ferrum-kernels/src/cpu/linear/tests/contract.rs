//! What the contract says beside products: several outputs, bias, accumulation, gates, threads, and
//! what is refused.

use super::{Bench, Plain, Random, values};
use crate::cpu::{CpuWeight, Isa};
use crate::host::HostBuffer;
use crate::params::{Activation, GatedLinear, Linear, LinearOutput};
use crate::{Backend, Format};

fn floats(v: &[f32]) -> HostBuffer {
    HostBuffer::F32(v.to_vec())
}

#[test]
fn outputs_of_several_formats_share_an_input() {
    let formats = [
        Format::Q4_K,
        Format::F16,
        Format::Q6_K,
        Format::Q8_0,
        Format::F32,
        Format::Q5_0,
        Format::Q4_1,
        Format::Q2_K,
        Format::IQ4_XS,
        Format::MXFP4,
    ];
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let mut bench = Bench::new(isa, threads);
            for tokens in [1, 5, 26] {
                let x = Random::new(1).activations(tokens * 256);
                let plains: Vec<Plain> = (formats.iter().enumerate())
                    .map(|(i, f)| Plain::new(*f, 8 * i + 3, 256, i as u64))
                    .collect();
                let weights: Vec<_> = plains.iter().map(|p| bench.pack(p)).collect();
                let mut dsts: Vec<HostBuffer> =
                    plains.iter().map(|p| floats(&vec![f32::NAN; tokens * p.rows])).collect();
                let mut outputs: Vec<_> = (weights.iter().zip(&mut dsts))
                    .map(|(weight, dst)| LinearOutput {
                        weight,
                        bias: None,
                        dst,
                        accumulate: false,
                    })
                    .collect();
                let input = &floats(&x);
                let p = Linear { input, rows: tokens, outputs: &mut outputs };
                bench.cpu.linear(&mut bench.stream, p).unwrap();
                for ((plain, weight), dst) in plains.iter().zip(&weights).zip(dsts) {
                    let want = bench.linear(weight, plain.rows, tokens, &x);
                    assert_eq!(values(dst), want, "{isa} {threads} threads, {}", plain.format);
                }
            }
        }
    }
}

#[test]
fn bias_and_accumulation_come_last_and_the_rest_of_a_buffer_stays() {
    for isa in Isa::available() {
        let mut bench = Bench::new(isa, 2);
        for (tokens, rows) in [(1, 24), (3, 11), (25, 17)] {
            let plain = Plain::new(Format::Q4_0, rows, 96, 7);
            let weight = bench.pack(&plain);
            let mut random = Random::new(8);
            let x = random.activations(tokens * 96);
            let product = bench.linear(&weight, rows, tokens, &x);
            let bias = random.activations(rows);
            let before = random.activations(tokens * rows + 5);
            for (biased, accumulate) in [(false, true), (true, false), (true, true)] {
                let mut dst = floats(&before);
                let bias_buffer = floats(&bias);
                let p = Linear {
                    input: &floats(&x),
                    rows: tokens,
                    outputs: &mut [LinearOutput {
                        weight: &weight,
                        bias: biased.then_some(&bias_buffer),
                        dst: &mut dst,
                        accumulate,
                    }],
                };
                bench.cpu.linear(&mut bench.stream, p).unwrap();
                for (i, got) in values(dst).into_iter().enumerate() {
                    let want = match product.get(i) {
                        Some(product) => {
                            let sum = product + if biased { bias[i % rows] } else { 0.0 };
                            if accumulate { before[i] + sum } else { sum }
                        }
                        None => before[i],
                    };
                    assert_eq!(got, want, "{isa} {tokens}x{rows} {biased} {accumulate}: {i}");
                }
            }
        }
    }
}

#[test]
fn a_gated_linear_is_two_linears_and_an_activation() {
    for isa in Isa::available() {
        let mut bench = Bench::new(isa, 2);
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for (tokens, rows) in [(1, 40), (4, 13), (30, 24)] {
                let cols = 256;
                let x = Random::new(5).activations(tokens * cols);
                let gate = bench.pack(&Plain::new(Format::Q4_K, rows, cols, 1));
                let up = bench.pack(&Plain::new(Format::Q5_0, rows, cols, 2));
                let mut dst = floats(&vec![f32::NAN; tokens * rows]);
                let input = &floats(&x);
                let p = GatedLinear { input, rows: tokens, gate: &gate, up: &up, activation };
                bench.cpu.gated_linear(&mut bench.stream, &mut dst, &p).unwrap();
                let gates = bench.linear(&gate, rows, tokens, &x);
                let ups = bench.linear(&up, rows, tokens, &x);
                for ((got, g), u) in values(dst).into_iter().zip(gates).zip(ups) {
                    let g = f64::from(g);
                    let act = match activation {
                        Activation::Silu => g / (1.0 + (-g).exp()),
                        Activation::GeluTanh => {
                            let z =
                                (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g * g * g);
                            g / 2.0 * (1.0 + z.tanh())
                        }
                        Activation::Gelu | Activation::Relu => unreachable!("not asked for"),
                    };
                    let want = act * f64::from(u);
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 1e-5 * want.abs().max(1e-3), "{isa} {got}, not {want}");
                }
            }
        }
    }
}

#[test]
fn no_tokens_and_no_outputs_are_fine() {
    let mut bench = Bench::new(Isa::Portable, 2);
    let weight = bench.pack(&Plain::new(Format::Q8_0, 8, 32, 7));
    assert_eq!(bench.linear(&weight, 8, 0, &[]), []);
    let p = Linear { input: &floats(&[]), rows: 1, outputs: &mut [] };
    bench.cpu.linear(&mut bench.stream, p).unwrap();
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut bench = Bench::new(Isa::Portable, 1);
    let narrow = bench.pack(&Plain::new(Format::Q8_0, 8, 32, 7));
    let wide = bench.pack(&Plain::new(Format::Q8_0, 8, 64, 7));
    let mut refused = |weights: &[&CpuWeight],
                       input: usize,
                       rows: usize,
                       dst: usize,
                       bias: usize| {
        let bias = floats(&vec![0.0; bias]);
        let mut dsts: Vec<_> = weights.iter().map(|_| floats(&vec![0.0; dst])).collect();
        let mut outputs: Vec<_> = (weights.iter().zip(&mut dsts))
            .map(|(&weight, dst)| LinearOutput { weight, bias: Some(&bias), dst, accumulate: true })
            .collect();
        let p = Linear { input: &floats(&vec![0.0; input]), rows, outputs: &mut outputs };
        bench.cpu.linear(&mut bench.stream, p).is_err()
    };
    assert!(!refused(&[&narrow], 64, 2, 16, 8));
    assert!(refused(&[&narrow], 63, 2, 16, 8), "a short input");
    assert!(refused(&[&narrow], 64, 2, 15, 8), "a short output");
    assert!(refused(&[&narrow], 64, 2, 16, 7), "a short bias");
    assert!(refused(&[&narrow], 64, usize::MAX, 16, 8), "too many rows");
    assert!(refused(&[&narrow, &wide], 64, 1, 8, 8), "two widths");
}
