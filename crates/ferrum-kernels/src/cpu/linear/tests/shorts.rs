//! Weights whose numbers may be rounded: what is rounded is what the contract says, and no more.

use super::super::shorts::{self, Block, MAX, STEP};
use super::super::tiles;
use super::{Bench, Plain, Random, product, values};
use crate::cpu::{CpuWeight, Isa};
use crate::host::HostBuffer;
use crate::params::{Embed, ExpertGatedLinear, Linear, LinearOutput};
use crate::{Backend, Format, PackedWeight};

/// Numbers of tokens around those of the largest tile.
const TOKENS: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 31];

/// Part of the largest of 64 neighbours by which a number may be moved.
const MOVED: f64 = 1.0 / 8192.0;

impl Bench {
    fn pack_rounded(&mut self, plain: &Plain) -> CpuWeight {
        self.cpu.pack(&mut self.stream, &plain.source().rounded()).unwrap()
    }
}

/// The instruction sets that multiply integers; the others bring rounded weights to tiles.
fn integers() -> impl Iterator<Item = Isa> {
    Isa::available().into_iter().filter(|isa| tiles::kernels(*isa).is_none())
}

/// What the kernels make of numbers.
fn rounded(x: &[f32]) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.as_chunks::<STEP>().0 {
        let mut block = Block::default();
        block.round(x);
        out.extend(block.q.map(|q| f64::from(q) * f64::from(block.scale)));
    }
    out
}

/// The largest error that rounding may make of a product.
fn allowed(row: &[f32], x: &[f32]) -> f64 {
    let largest = |x: &[f32]| x.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
    let blocks = row.chunks(STEP).zip(x.chunks(STEP));
    let sum: f64 = blocks.map(|(w, x)| STEP as f64 * largest(w) * largest(x)).sum();
    sum * (2.0 * MOVED + MOVED * MOVED)
}

#[test]
fn numbers_are_rounded_to_the_nearest() {
    let mut random = Random::new(3);
    for _ in 0..1000 {
        let x: [f32; STEP] = random.activations(STEP).try_into().unwrap();
        let mut block = Block::default();
        block.round(&x);
        let largest = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert_eq!(block.scale, largest / MAX);
        for (v, q) in x.iter().zip(block.q) {
            let exact = f64::from(*v) / f64::from(block.scale);
            assert!((exact - f64::from(q)).abs() <= 0.501, "{v} is {q} times {}", block.scale);
        }
    }
    let mut block = Block::default();
    block.round(&[0.0; STEP]);
    assert_eq!((block.scale, block.q), (0.0, [0; STEP]));
    block.round(&[-f32::MAX; STEP]);
    assert_eq!(block.q, [-(MAX as i16); STEP]);
}

#[test]
fn products_are_those_of_the_rounded_numbers() {
    for isa in integers() {
        let mut bench = Bench::new(isa, 2);
        for format in [Format::F32, Format::F16, Format::BF16] {
            for (rows, steps) in [(1, 1), (8, 3), (17, 9), (40, 5), (24, 24)] {
                let cols = steps * STEP;
                let plain = Plain::new(format, rows, cols, (rows * cols) as u64);
                let weight = bench.pack_rounded(&plain);
                assert_eq!((weight.rows(), weight.cols(), weight.format()), (rows, cols, format));
                let exact = bench.pack(&plain);
                for &tokens in TOKENS {
                    let x = Random::new(tokens as u64).activations(tokens * cols);
                    let got = bench.linear(&weight, rows, tokens, &x);
                    let want = bench.linear(&exact, rows, tokens, &x);
                    for (i, (got, exact)) in got.iter().zip(want).enumerate() {
                        let (row, x) = (plain.row(i % rows), &x[i / rows * cols..][..cols]);
                        let at = format!("{isa} {format} {rows}x{cols}, {tokens} tokens: {i}");
                        let off = f64::from((got - exact).abs());
                        assert!(off <= allowed(&row, x) + 1e-6, "{at}: {got}, really {exact}");
                        // Rounding is not done at all where it does not pay.
                        if shorts::kernels(isa).is_none() {
                            assert_eq!(off, 0.0, "{at}");
                            continue;
                        }
                        let seen: Vec<f32> = rounded(&row).iter().map(|w| *w as f32).collect();
                        let (want, magnitude) = product(&seen, &rounded(x));
                        let off = (f64::from(*got) - want).abs();
                        assert!(off <= 1e-6 * magnitude, "{at}: {got}, not {want}");
                    }
                }
            }
        }
    }
}

/// Bias and what is accumulated on are added, in panels that are whole and not.
#[test]
fn bias_and_accumulation() {
    for isa in integers() {
        let mut bench = Bench::new(isa, 2);
        for (tokens, rows) in [(1, 32), (7, 24), (25, 17)] {
            let weight = bench.pack_rounded(&Plain::new(Format::F32, rows, 128, 7));
            let mut random = Random::new(8);
            let x = random.activations(tokens * 128);
            let product = bench.linear(&weight, rows, tokens, &x);
            let bias = random.activations(rows);
            let before = random.activations(tokens * rows + 5);
            for (biased, accumulate) in [(false, true), (true, false), (true, true)] {
                let mut dst = HostBuffer::F32(before.clone());
                let bias_buffer = HostBuffer::F32(bias.clone());
                let outputs = &mut [LinearOutput {
                    weight: &weight,
                    bias: biased.then_some(&bias_buffer),
                    dst: &mut dst,
                    accumulate,
                }];
                let input = &HostBuffer::F32(x.clone());
                bench
                    .cpu
                    .linear(&mut bench.stream, Linear { input, rows: tokens, outputs })
                    .unwrap();
                for (i, got) in values(dst).into_iter().enumerate() {
                    let Some(product) = product.get(i) else {
                        assert_eq!(got, before[i], "behind the results");
                        continue;
                    };
                    let start = if biased { bias[i % rows] } else { 0.0 };
                    let start = if accumulate { before[i] + start } else { start };
                    let off = (got - (start + product)).abs();
                    assert!(off <= 1e-4 + 1e-5 * start.abs(), "{isa} {tokens}x{rows}: {i}");
                }
            }
        }
    }
}

#[test]
fn a_token_is_the_same_alone_and_among_others() {
    for isa in integers() {
        let mut bench = Bench::new(isa, 2);
        let (rows, cols) = (24, 1536);
        let weight = bench.pack_rounded(&Plain::new(Format::F32, rows, cols, 11));
        let x = Random::new(12).activations(31 * cols);
        let alone: Vec<f32> =
            x.chunks(cols).flat_map(|x| bench.linear(&weight, rows, 1, x)).collect();
        for &tokens in TOKENS {
            let together = bench.linear(&weight, rows, tokens, &x[..tokens * cols]);
            let same = together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{isa}, {tokens} tokens");
        }
    }
}

#[test]
fn the_largest_sums_do_not_overflow() {
    for isa in integers() {
        let mut bench = Bench::new(isa, 1);
        for (w, x) in [(1.0f32, 3.5f32), (-1.0, 3.5), (-1.0, -3.5)] {
            let mut plain = Plain::new(Format::F32, 24, 128, 1);
            plain.data.chunks_mut(4).for_each(|value| value.copy_from_slice(&w.to_le_bytes()));
            let weight = bench.pack_rounded(&plain);
            for got in bench.linear(&weight, 24, 7, &[x; 7 * 128]) {
                assert!((got - 128.0 * w * x).abs() < 1e-3, "{isa}: {got}");
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    for isa in integers() {
        let mut bench = Bench::new(isa, 1);
        let weight = bench.pack_rounded(&Plain::new(Format::F32, 8, 64, 31));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 64];
            x[40] = bad;
            let got = bench.linear(&weight, 8, 1, &x);
            assert!(got.iter().all(|v| !v.is_finite()), "{isa} {bad}: {got:?}");
        }
    }
}

#[test]
fn a_rounded_table_has_rounded_rows() {
    for isa in integers() {
        let mut bench = Bench::new(isa, 1);
        let plain = Plain::new(Format::F32, 13, 128, 5);
        let table = &bench.pack_rounded(&plain);
        let mut dst = HostBuffer::F32(vec![f32::NAN; 128]);
        let tokens = &HostBuffer::I32(vec![11]);
        let p = Embed { table, tokens, rows: 1, scale: 1.0, accumulate: false };
        bench.cpu.embed(&mut bench.stream, &mut dst, &p).unwrap();
        for (got, want) in values(dst).iter().zip(plain.row(11)) {
            assert!((got - want).abs() <= MOVED as f32, "{isa}: {got}, not {want}");
        }
    }
}

#[test]
fn what_cannot_be_rounded_is_not() {
    let mut bench = Bench::new(Isa::Portable, 1);
    // Columns that are no whole blocks, and weights that are rounded already.
    for plain in [Plain::new(Format::F32, 5, 40, 1), Plain::new(Format::Q8_0, 5, 64, 1)] {
        let x = Random::new(2).activations(3 * plain.cols);
        let weights = [bench.pack(&plain), bench.pack_rounded(&plain)];
        let [want, got] = weights.map(|weight| bench.linear(&weight, 5, 3, &x));
        assert_eq!(got, want);
    }
    let weight = bench.pack_rounded(&Plain::new(Format::F32, 8, 64, 1));
    let p = ExpertGatedLinear {
        input: &HostBuffer::F32(vec![0.0; 64]),
        rows: 1,
        ids: &HostBuffer::I32(vec![0]),
        used: 1,
        gate: &weight,
        up: &weight,
        activation: crate::params::Activation::Silu,
    };
    let mut dst = HostBuffer::F32(vec![0.0; 8]);
    assert!(bench.cpu.expert_gated_linear(&mut bench.stream, &mut dst, &p).is_err());
}
