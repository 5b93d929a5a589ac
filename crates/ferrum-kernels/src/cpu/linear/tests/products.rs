//! Products of every format with one and many tokens.

use super::{Bench, Plain, Random, product, rounded};
use crate::{Format, cpu::Isa};

/// Numbers of tokens on both sides of every border of the kernels.
const TOKENS: [usize; 10] = [1, 2, 3, 4, 7, 8, 23, 24, 31, 33];

/// Error of a sum in single precision, relative to the sum of magnitudes.
const ROUNDING: f64 = 1e-6;

/// (rows, blocks of columns), with rows that fill groups and panels and that do not, and more
/// columns than a panel holds.
fn shapes(format: Format) -> Vec<(usize, usize)> {
    match format.block_len() {
        1 => vec![(1, 1), (9, 7), (40, 100), (17, 577)],
        32 => vec![(1, 1), (8, 3), (17, 18), (40, 5), (24, 70)],
        _ => vec![(1, 1), (8, 2), (17, 3), (24, 10)],
    }
}

fn check(isa: Isa, format: Format) {
    let mut bench = Bench::new(isa, 2);
    for (rows, blocks) in shapes(format) {
        let cols = blocks * format.block_len();
        let plain = Plain::new(format, rows, cols, (rows * cols) as u64);
        let weight = bench.pack(&plain);
        let dequantized: Vec<Vec<f32>> = (0..rows).map(|r| plain.row(r)).collect();
        for tokens in TOKENS {
            let x = Random::new(tokens as u64).activations(tokens * cols);
            let got = bench.linear(&weight, rows, tokens, &x);
            for (t, x) in x.chunks(cols).enumerate() {
                let exact: Vec<f64> = x.iter().copied().map(f64::from).collect();
                let seen = if plain.is_quantized() { rounded(x) } else { exact.clone() };
                for (r, row) in dequantized.iter().enumerate() {
                    let got = f64::from(got[t * rows + r]);
                    let at = format!("{isa} {format} {rows}x{cols}, {tokens} tokens: [{t}, {r}]");
                    let (want, magnitude) = product(row, &seen);
                    let error = (got - want).abs();
                    assert!(error <= ROUNDING * magnitude, "{at}: {got}, not {want}");
                    // And the quantisation of the activations is not far off.
                    let (want, _) = product(row, &exact);
                    let error = (got - want).abs();
                    assert!(error <= 0.1 * magnitude, "{at}: {got}, really {want}");
                }
            }
        }
    }
}

/// A token's result is the same, bit for bit, alone and among others.
fn alone_as_among_others(isa: Isa, format: Format) {
    let mut bench = Bench::new(isa, 2);
    let (rows, cols) = (24, 2304);
    let weight = bench.pack(&Plain::new(format, rows, cols, 11));
    let x = Random::new(12).activations(33 * cols);
    let alone: Vec<f32> = x.chunks(cols).flat_map(|x| bench.linear(&weight, rows, 1, x)).collect();
    for tokens in TOKENS {
        let together = bench.linear(&weight, rows, tokens, &x[..tokens * cols]);
        let same = together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{isa} {format}, {tokens} tokens");
    }
}

macro_rules! every_format {
    ($($test:ident: $format:ident),*) => {
        $(#[test]
        fn $test() {
            for isa in Isa::available() {
                check(isa, Format::$format);
                alone_as_among_others(isa, Format::$format);
            }
        })*

        #[test]
        fn no_format_is_forgotten() {
            assert_eq!([$(Format::$format),*].len(), Format::ALL.len());
        }
    };
}

every_format!(
    f32: F32, f16: F16, bf16: BF16, q4_0: Q4_0, q4_1: Q4_1, q5_0: Q5_0, q5_1: Q5_1, q8_0: Q8_0,
    q2_k: Q2_K, q3_k: Q3_K, q4_k: Q4_K, q5_k: Q5_K, q6_k: Q6_K, iq4_nl: IQ4_NL, iq4_xs: IQ4_XS,
    mxfp4: MXFP4, q4_z: Q4_Z
);

/// Every quant and every activation at its largest, so that sums reach what lanes can hold.
#[test]
fn extremes_do_not_overflow() {
    for isa in Isa::available() {
        let mut bench = Bench::new(isa, 1);
        for format in Format::ALL {
            for (byte, sign) in [(0xff, 1.0), (0xff, -1.0), (0x00, 1.0), (0x80, -1.0), (0x7f, 1.0)]
            {
                let cols = 512;
                let mut plain = Plain::new(format, 8, cols, 3);
                let scales = Plain::new(format, 8, cols, 4).data;
                if plain.is_quantized() {
                    plain.data.fill(byte);
                    let blocks = plain.data.chunks_mut(format.block_bytes());
                    for (block, scales) in blocks.zip(scales.chunks(format.block_bytes())) {
                        for at in super::halves(format) {
                            block[*at..][..2].copy_from_slice(&scales[*at..][..2]);
                        }
                        if format == Format::MXFP4 {
                            block[0] = 127;
                        }
                    }
                }
                let weight = bench.pack(&plain);
                for tokens in [1, 25] {
                    let x = vec![3.5 * sign; tokens * cols];
                    let got = bench.linear(&weight, 8, tokens, &x);
                    let seen: Vec<f64> = vec![3.5 * f64::from(sign); cols];
                    for (i, got) in got.iter().enumerate() {
                        let (want, magnitude) = product(&plain.row(i % 8), &seen);
                        let error = (f64::from(*got) - want).abs();
                        assert!(
                            error <= 1e-5 * magnitude,
                            "{isa} {format} {byte:#x}, {tokens} tokens: {got}, not {want}"
                        );
                    }
                }
            }
        }
    }
}

/// Integer sums are exact, so instruction sets differ by the fused multiply-add alone.
#[test]
fn instruction_sets_agree() {
    let (rows, cols, tokens) = (40, 512, 25);
    for format in Format::ALL {
        let plain = Plain::new(format, rows, cols, 21);
        let x = Random::new(22).activations(tokens * cols);
        let results: Vec<Vec<f32>> = Isa::available()
            .into_iter()
            .map(|isa| {
                let mut bench = Bench::new(isa, 1);
                let weight = bench.pack(&plain);
                bench.linear(&weight, rows, tokens, &x)
            })
            .collect();
        let largest = results[0].iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        for other in &results[1..] {
            for (a, b) in results[0].iter().zip(other) {
                assert!((a - b).abs() <= 1e-5 * largest, "{format}: {a} and {b}");
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    for isa in Isa::available() {
        let mut bench = Bench::new(isa, 1);
        for format in Format::ALL {
            let weight = bench.pack(&Plain::new(format, 8, 512, 31));
            let mut x = vec![1.0; 512];
            x[300] = f32::NAN;
            let got = bench.linear(&weight, 8, 1, &x);
            assert!(got.iter().all(|v| v.is_nan()), "{isa} {format}: {got:?}");
        }
    }
}

/// Exponents of MXFP4 from the smallest, whose scales are subnormal, to the largest.
#[test]
fn every_exponent_of_mxfp4() {
    for isa in Isa::available() {
        let mut bench = Bench::new(isa, 1);
        let mut plain = Plain::new(Format::MXFP4, 256, 32, 41);
        for (e, block) in plain.data.chunks_mut(17).enumerate() {
            // One weight, of value 1.
            block.fill(0);
            (block[0], block[1]) = (e as u8, 2);
        }
        let weight = bench.pack(&plain);
        let mut x = vec![0.0; 32];
        x[0] = 1.0;
        let got = bench.linear(&weight, 256, 1, &x);
        // Twice the largest scale is too much for a single.
        for (e, got) in got.iter().enumerate().take(255) {
            let want = plain.row(e)[0];
            assert!((got - want).abs() <= 1e-6 * want, "{isa} {e}: {got:e}, not {want:e}");
        }
    }
}
