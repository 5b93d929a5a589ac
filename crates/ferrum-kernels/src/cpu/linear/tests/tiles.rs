//! Products in tiles of bfloat16: those of AMX where the processor has it, and the plain ones, which
//! show on every processor that tiles are cut and put together rightly.

use super::super::tiled;
use super::super::tiles::{MIN_TOKENS, TileKernels, kernels, plain};
use super::{Bench, Plain, Random, product, values};
use crate::cpu::{CpuWeight, Isa};
use crate::host::HostBuffer;
use crate::params::{Activation, GatedLinear, Linear, LinearOutput};
use crate::{Backend, Format, PackedWeight};
use half::bf16;

/// Error of a sum in single precision, relative to the sum of magnitudes.
const ROUNDING: f64 = 2e-6;

/// Error of weights and activations that are both rounded to bfloat16, likewise.
const BFLOAT16: f64 = 1.0 / 128.0;

/// Numbers of tokens that fill tiles, pairs of them and whole sweeps, and that do not.
const TOKENS: [usize; 6] = [1, 16, 33, 64, 100, 530];

/// What multiplies tiles, beside the instruction set that weights are packed for.
fn implementations() -> Vec<(Isa, &'static TileKernels)> {
    let plain = [(Isa::Portable, &plain::KERNELS)];
    let real = Isa::available().into_iter().filter_map(|isa| Some((isa, kernels(isa)?)));
    plain.into_iter().chain(real).collect()
}

fn to_bf16(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(bf16::from_f32(*x).to_f32())).collect()
}

impl Bench {
    /// One output, added to what is there.
    fn tiled(
        &mut self,
        kernels: &'static TileKernels,
        weight: &CpuWeight,
        x: &[f32],
        dst: Vec<f32>,
    ) -> Vec<f32> {
        let mut dst = HostBuffer::F32(dst);
        let outputs = &mut [LinearOutput { weight, bias: None, dst: &mut dst, accumulate: true }];
        let tokens = x.len() / weight.cols();
        tiled::linear(&mut self.stream, kernels, (tokens, x), outputs).unwrap();
        values(dst)
    }
}

fn check(format: Format) {
    for (isa, kernels) in implementations() {
        let mut bench = Bench::new(isa, 2);
        // Rows that fill pairs of panels and that do not, and parts of the columns.
        for (rows, cols) in [(1, 256), (24, 768), (40, 1024), (64, 512)] {
            let plain = Plain::new(format, rows, cols, (rows * cols) as u64);
            let weight = bench.pack(&plain);
            let dequantized: Vec<Vec<f32>> = (0..rows).map(|r| plain.row(r)).collect();
            for tokens in TOKENS {
                if tokens > 100 && (isa == Isa::Portable || rows > 24) {
                    continue;
                }
                let x = Random::new(tokens as u64).activations(tokens * cols);
                let got = bench.tiled(kernels, &weight, &x, vec![0.5; tokens * rows]);
                for (t, x) in x.chunks(cols).enumerate() {
                    let exact: Vec<f64> = x.iter().copied().map(f64::from).collect();
                    let seen = to_bf16(x);
                    for (r, row) in dequantized.iter().enumerate() {
                        let got = f64::from(got[t * rows + r]) - 0.5;
                        let at =
                            format!("{isa} {format} {rows}x{cols}, {tokens} tokens: [{t}, {r}]");
                        let row16: Vec<f32> = to_bf16(row).iter().map(|w| *w as f32).collect();
                        let (want, magnitude) = product(&row16, &seen);
                        // A weight in the middle of two numbers may be rounded to either.
                        let bound = ROUNDING * magnitude + 1e-3 * magnitude / (cols as f64);
                        assert!((got - want).abs() <= bound + 1e-6, "{at}: {got}, not {want}");
                        let (want, magnitude) = product(row, &exact);
                        let error = (got - want).abs();
                        assert!(error <= BFLOAT16 * magnitude + 1e-6, "{at}: {got}, really {want}");
                    }
                }
            }
        }
    }
}

/// Weights of single numbers that may be rounded are brought to tiles as well.
#[test]
fn rounded_numbers() {
    for (isa, kernels) in implementations() {
        let mut bench = Bench::new(isa, 2);
        for (rows, cols) in [(9, 64), (40, 384), (17, 576), (32, 1536)] {
            let plain = Plain::new(Format::F32, rows, cols, 17);
            let source = plain.source().rounded();
            let weight = bench.cpu.pack(&mut bench.stream, &source).unwrap();
            let x = Random::new(18).activations(35 * cols);
            let got = bench.tiled(kernels, &weight, &x, vec![0.0; 35 * rows]);
            for (t, x) in x.chunks(cols).enumerate() {
                let exact: Vec<f64> = x.iter().copied().map(f64::from).collect();
                for r in 0..rows {
                    let (want, magnitude) = product(&plain.row(r), &exact);
                    let got = got[t * rows + r];
                    let error = (f64::from(got) - want).abs();
                    assert!(
                        error <= BFLOAT16 * magnitude,
                        "{isa} {rows}x{cols}: {got}, not {want}"
                    );
                }
            }
            let alone = bench.tiled(kernels, &weight, &x[..cols], vec![0.0; rows]);
            assert_eq!(alone, got[..rows], "{isa} {rows}x{cols}");
        }
    }
}

/// From [`MIN_TOKENS`] on, a token's result is the same, bit for bit, however many there are.
fn few_as_many(format: Format) {
    for (isa, kernels) in implementations() {
        let mut bench = Bench::new(isa, 2);
        let (rows, cols) = (48, 1280);
        let weight = bench.pack(&Plain::new(format, rows, cols, 11));
        let x = Random::new(12).activations(130 * cols);
        let all = bench.tiled(kernels, &weight, &x, vec![0.0; 130 * rows]);
        for tokens in [MIN_TOKENS, 65, 97] {
            let some = bench.tiled(kernels, &weight, &x[..tokens * cols], vec![0.0; tokens * rows]);
            let same = some.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{isa} {format}, {tokens} tokens");
        }
    }
}

macro_rules! every_block_format {
    ($($test:ident: $format:ident),*) => {
        $(#[test]
        fn $test() {
            check(Format::$format);
            few_as_many(Format::$format);
        })*

        #[test]
        fn no_format_is_forgotten() {
            let blocks = Format::ALL.into_iter().filter(|format| format.block_len() > 1).count();
            assert_eq!([$(Format::$format),*].len(), blocks);
        }
    };
}

every_block_format!(
    q4_0: Q4_0, q4_1: Q4_1, q5_0: Q5_0, q5_1: Q5_1, q8_0: Q8_0, q2_k: Q2_K, q3_k: Q3_K, q4_k: Q4_K,
    q5_k: Q5_K, q6_k: Q6_K, iq4_nl: IQ4_NL, iq4_xs: IQ4_XS, mxfp4: MXFP4, q4_z: Q4_Z
);

/// The operations of the contract take tiles where they pay, and mean the same there.
#[test]
fn the_operations_agree_with_those_of_few_tokens() {
    for isa in Isa::available().into_iter().filter(|isa| kernels(*isa).is_some()) {
        let mut bench = Bench::new(isa, 2);
        let (rows, cols, tokens) = (72, 512, MIN_TOKENS + 5);
        let [gate, up] = [Format::Q4_K, Format::Q6_K].map(|format| {
            let plain = Plain::new(format, rows, cols, 5);
            bench.pack(&plain)
        });
        let mut random = Random::new(6);
        let x: Vec<f32> = (0..tokens * cols).map(|_| random.unit()).collect();
        let bias = HostBuffer::F32((0..rows).map(|r| r as f32).collect());
        let mut run = |first: usize, count: usize| {
            let input = HostBuffer::F32(x[first * cols..(first + count) * cols].to_vec());
            let mut results = [(); 3].map(|()| HostBuffer::F32(vec![1.0; count * rows]));
            let [one, two, gated] = &mut results;
            let outputs = &mut [
                LinearOutput { weight: &gate, bias: Some(&bias), dst: one, accumulate: true },
                LinearOutput { weight: &up, bias: None, dst: two, accumulate: false },
            ];
            let p = Linear { input: &input, rows: count, outputs };
            bench.cpu.linear(&mut bench.stream, p).unwrap();
            let p = GatedLinear {
                gate: &gate,
                up: &up,
                input: &input,
                rows: count,
                activation: Activation::Silu,
            };
            bench.cpu.gated_linear(&mut bench.stream, gated, &p).unwrap();
            results.map(values)
        };
        let many = run(0, tokens);
        for t in 0..tokens {
            for (one, many) in run(t, 1).iter().zip(&many) {
                let largest = one.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                for (a, b) in one.iter().zip(&many[t * rows..]) {
                    assert!((a - b).abs() <= 0.03 * largest, "{isa}: {a} and {b}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    for (isa, kernels) in implementations() {
        let mut bench = Bench::new(isa, 1);
        let weight = bench.pack(&Plain::new(Format::Q4_K, 8, 512, 31));
        let mut x = vec![1.0; 2 * 512];
        x[300] = f32::NAN;
        let got = bench.tiled(kernels, &weight, &x, vec![0.0; 16]);
        assert!(got[..8].iter().all(|v| v.is_nan()), "{isa}: {got:?}");
        assert!(got[8..].iter().all(|v| v.is_finite()), "{isa}: {got:?}");
    }
}
