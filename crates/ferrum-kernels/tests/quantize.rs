//! Quantisers held against the plain dequantisation: errors, odd blocks, refusals.

use ferrum_kernels::weight::{LARGEST, dequantize_row, quantize_row};
use ferrum_kernels::{Format, KernelError};

/// Formats that are written, with the relative root mean square error of normally distributed values:
/// little above what is measured.
const FORMATS: [(Format, f64); 15] = [
    (Format::F32, 0.0),
    (Format::F16, 0.000_3),
    (Format::BF16, 0.002),
    (Format::Q8_0, 0.006),
    (Format::Q6_K, 0.019),
    (Format::Q5_K, 0.037),
    (Format::Q5_1, 0.036),
    (Format::Q5_0, 0.042),
    (Format::Q4_K, 0.073),
    (Format::Q4_1, 0.073),
    (Format::Q4_0, 0.085),
    (Format::IQ4_NL, 0.08),
    (Format::IQ4_XS, 0.08),
    (Format::Q3_K, 0.16),
    (Format::Q2_K, 0.28),
];

/// Values of a row: some blocks of any format.
const LEN: usize = 2048;

/// Approximately normal values of standard deviation one.
fn normals(seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..LEN).map(|_| (0..12).map(|_| uniform()).sum()).collect()
}

fn through(format: Format, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0xa5; format.row_bytes(x.len()).unwrap()];
    quantize_row(format, x, &mut bytes).unwrap();
    let mut back = vec![f32::NAN; x.len()];
    dequantize_row(format, &bytes, &mut back).unwrap();
    back
}

/// Root mean square of the difference over that of `x`.
fn error(x: &[f32], back: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let sum: f64 = x.iter().map(|v| square(f64::from(*v))).sum();
    let off: f64 = x.iter().zip(back).map(|(a, b)| square(f64::from(a - b))).sum();
    (off / sum).sqrt()
}

#[test]
fn errors_of_normal_values_are_small_at_every_scale() {
    for (format, bound) in FORMATS {
        for (seed, scale) in [(1, 1.0f32), (2, 0.02), (3, 1e-3), (4, 300.0)] {
            let x: Vec<f32> = normals(seed).iter().map(|v| v * scale).collect();
            let error = error(&x, &through(format, &x));
            println!("{format} at {scale}: {error:.5}");
            assert!(error <= bound, "{format} at {scale}: {error:.5}");
        }
    }
}

#[test]
fn better_formats_have_smaller_errors() {
    let x = normals(9);
    let errors: Vec<f64> =
        [Format::Q8_0, Format::Q6_K, Format::Q5_K, Format::Q4_K, Format::Q3_K, Format::Q2_K]
            .map(|format| error(&x, &through(format, &x)))
            .to_vec();
    assert!(errors.is_sorted(), "{errors:?}");
}

#[test]
fn zeros_stay_zeros() {
    for (format, _) in FORMATS {
        assert_eq!(through(format, &[0.0; LEN]), [0.0; LEN], "{format}");
        // Beside other blocks too.
        let mut x = normals(5);
        x[512..1024].fill(0.0);
        assert!(through(format, &x)[512..1024].iter().all(|v| *v == 0.0), "{format}");
    }
}

#[test]
fn constant_blocks_are_nearly_exact() {
    for (format, _) in FORMATS {
        for value in [1.0f32, -1.0, 0.013, -0.7, 1000.0, -60000.0, LARGEST] {
            let back = through(format, &[value; LEN]);
            let worst = back.iter().map(|v| (v / value - 1.0).abs()).fold(0.0, f32::max);
            assert!(worst < 0.01, "{format}: {value} off by {worst}");
        }
    }
}

#[test]
fn values_of_one_sign_and_outliers() {
    for (format, bound) in FORMATS {
        let positive: Vec<f32> = normals(6).iter().map(|v| v.abs()).collect();
        let negative: Vec<f32> = positive.iter().map(|v| -v).collect();
        for x in [positive, negative] {
            let error = error(&x, &through(format, &x));
            assert!(error <= 1.3 * bound, "{format}, one sign: {error:.5}");
        }
        // One value far from the others is kept, whatever becomes of these.
        for outlier in [50.0f32, -50.0] {
            let mut x = normals(7);
            x[300] = outlier;
            let back = through(format, &x);
            let off = (back[300] / outlier - 1.0).abs();
            assert!(off < 0.1, "{format}: {outlier} became {}", back[300]);
            assert!(back.iter().all(|v| v.abs() < 60.0), "{format}");
        }
    }
}

#[test]
fn values_too_small_for_half_precision_do_no_harm() {
    for (format, _) in FORMATS {
        for tiny in [1e-7f32, 3e-8, 1e-20, f32::MIN_POSITIVE, f32::from_bits(1)] {
            let x: Vec<f32> = normals(8).iter().map(|v| v * tiny).collect();
            let back = through(format, &x);
            assert!(back.iter().all(|v| v.is_finite() && v.abs() < 1e-6), "{format} at {tiny:e}");
        }
    }
}

/// What the formats were defined with: the extreme value has the extreme code, and nothing is searched.
fn plain_error(format: Format, x: &[f32]) -> f64 {
    let mut off = 0.0;
    for x in x.chunks(32) {
        let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (v.min(l), v.max(h)));
        let largest = if -low > high { low } else { high };
        let (d, m, most) = match format {
            Format::Q4_0 => (largest / -8.0, 0.0, (-8.0, 7.0)),
            Format::Q5_0 => (largest / -16.0, 0.0, (-16.0, 15.0)),
            Format::Q4_1 => ((high - low) / 15.0, low, (0.0, 15.0)),
            _ => ((high - low) / 31.0, low, (0.0, 31.0)),
        };
        for v in x {
            let q = ((v - m) / d).round().clamp(most.0, most.1);
            off += f64::from(d * q + m - v).powi(2);
        }
    }
    off
}

#[test]
fn the_search_beats_plain_rounding() {
    for format in [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1] {
        let x = normals(11);
        let (mut ours, mut plain) = (0.0, 0.0);
        for x in x.chunks(32) {
            let back = through(format, x);
            let off: f64 = x.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            // Errors of large values count for more, at the cost of small ones.
            assert!(off <= 1.4 * plain_error(format, x), "{format}: {off}");
            ours += off;
            plain += plain_error(format, x);
        }
        println!("{format}: {:.3} of plain rounding", ours / plain);
        assert!(ours < 0.95 * plain, "{format}: {ours} of {plain}");
    }
}

#[test]
fn what_cannot_be_stored_is_refused() {
    for (format, _) in FORMATS {
        let mut bytes = vec![0; format.row_bytes(256).unwrap()];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 256];
            x[77] = bad;
            let e = quantize_row(format, &x, &mut bytes).unwrap_err();
            assert!(e.to_string().contains(&format.to_string()), "{format}: {e}");
        }
        let wide = matches!(format, Format::F32 | Format::BF16);
        let large = quantize_row(format, &[2.0 * LARGEST; 256], &mut bytes);
        assert_eq!(large.is_ok(), wide, "{format}");
        let e = quantize_row(format, &[1.0; 512], &mut bytes).unwrap_err();
        assert!(matches!(e, KernelError::WeightSize { .. }), "{format}: {e}");
        assert!(quantize_row(format, &[], &mut []).is_ok());
    }
    for format in [Format::MXFP4, Format::Q4_Z] {
        let mut bytes = vec![0; format.row_bytes(256).unwrap()];
        assert!(quantize_row(format, &[1.0; 256], &mut bytes).is_err());
    }
}

#[test]
fn the_largest_numbers_stay_finite() {
    for x in [[f32::MAX; 256], [f32::MIN; 256]] {
        for format in [Format::F32, Format::BF16] {
            assert!(through(format, &x).iter().all(|v| v.is_finite()), "{format}");
        }
    }
}
