//! `linear` and `gated_linear` with weights of single numbers that may be rounded, with as many tokens
//! as a library of dense products is asked for.
//!
//! The bound. An input may be rounded to the type of its weight, each value by at most `u = 2⁻¹¹` (F16),
//! `2⁻⁸` (BF16) or `2⁻⁴` (E4M3) of itself: an output by at most `u·Σ|w·x|`, and with a variance of at most
//! `u²/3·Σ(w·x)²`, of which 8 standard deviations are allowed. To this comes [`F32_ERROR`].
//!
//! The smallest E4M3 numbers are multiples of 2⁻⁹, so that where a token's largest value lies between 2⁷
//! and 2⁸ its small ones are off by up to 2⁻¹⁰, which is 2⁻¹⁷ of the largest.

use ferrum_kernels::params::{Activation, GatedLinear};
use ferrum_kernels::{Backend, Format};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::{Report, Subject, oracle};
use crate::linear::{F32_ERROR, Inputs, Output, run};

/// Around the tiles of products, and more than kernels for few tokens take.
const ROWS: [usize; 4] = [65, 70, 128, 131];

/// Weights of 16 bits.
const HALVES: [Format; 2] = [Format::F16, Format::BF16];

fn pack<B: Backend>(s: &mut Subject<B>, w: &WeightBytes) -> B::Weight {
    s.backend.pack(&mut s.stream, &w.source().rounded()).expect("packed")
}

/// The error that each output `[rows, n]` may have.
fn bounds(w: &WeightBytes, x: &[f32]) -> Vec<f64> {
    let (unit, least) = match w.format {
        Format::F16 => (f64::powi(2.0, -11), 0.0),
        Format::F8_E4M3 => (f64::powi(2.0, -4), f64::powi(2.0, -17)),
        _ => (f64::powi(2.0, -8), 0.0),
    };
    let values = w.values();
    let mut all = Vec::new();
    for x in x.chunks(w.cols) {
        let least = least * x.iter().fold(0.0, |most, x| f64::max(most, f64::from(*x).abs()));
        for w in values.chunks(w.cols) {
            let product = |(w, x): (&f32, &f32)| (f64::from(*w) * f64::from(*x)).abs();
            let error = |(w, x): (&f32, &f32)| {
                f64::from(*w).abs() * (unit * f64::from(*x).abs()).max(least)
            };
            let magnitude: f64 = w.iter().zip(x).map(product).sum();
            let most: f64 = w.iter().zip(x).map(error).sum();
            let squares: f64 = w.iter().zip(x).map(error).map(|v| v * v).sum();
            let likely = 8.0 * (squares / 3.0).sqrt();
            all.push(likely.min(most) + F32_ERROR * magnitude);
        }
    }
    all
}

/// The products `[rows, n]`.
fn sums(w: &WeightBytes, x: &[f32]) -> Vec<f64> {
    let dot = |w: &[f32], x: &[f32]| -> f64 {
        w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum()
    };
    let values = w.values();
    let row = |x| values.chunks(w.cols).map(move |w| dot(w, x)).collect::<Vec<_>>();
    x.chunks(w.cols).flat_map(row).collect()
}

/// Both formats, with and without bias and accumulation, values that F16 cannot hold among them.
pub fn dense_linear_of_many_tokens<B: Backend>(subjects: &mut [Subject<B>]) {
    many_tokens(subjects, &HALVES, &[(1, 1), (17, 33), (130, 96), (16, 576)], &ROWS);
}

/// So many output and input features and tokens.
pub fn many_tokens<B: Backend>(
    subjects: &mut [Subject<B>],
    formats: &[Format],
    shapes: &[(usize, usize)],
    tokens: &[usize],
) {
    let mut report = Report::new();
    let mut rng = Rng::new(71);
    let kinds = [Inputs::Normal, Inputs::Outliers, Inputs::Alternating(1e6), Inputs::Constant(0.0)];
    let mut turn = 0;
    for &format in formats {
        for &(n, cols) in shapes {
            for &rows in tokens {
                turn += 1;
                let kind = kinds[turn % kinds.len()];
                let x = kind.make(&mut rng, rows * cols);
                let output = Output {
                    weight: WeightBytes::new(&mut rng, format, n, cols, Pattern::Random),
                    bias: (turn % 2 == 0).then(|| rng.normals(n, 1.0)),
                    before: rng.normals(rows * n, 1.0),
                    accumulate: turn % 3 == 0,
                };
                let outputs = [output.clone(), Output { accumulate: false, ..output }];
                check(&mut report, subjects, &(format, rows, n, cols, kind), rows, &x, &outputs);
            }
        }
    }
    report.finish();
}

fn check<B: Backend>(
    report: &mut Report,
    subjects: &mut [Subject<B>],
    case: &impl std::fmt::Debug,
    rows: usize,
    x: &[f32],
    outputs: &[Output],
) {
    let mut o = oracle();
    let packed: Vec<_> = outputs.iter().map(|out| o.pack(&out.weight)).collect();
    let want = run(&mut o, rows, x, outputs, &packed);
    for s in subjects {
        let packed: Vec<_> = outputs.iter().map(|out| pack(s, &out.weight)).collect();
        let got = run(s, rows, x, outputs, &packed);
        for ((got, want), out) in got.iter().zip(&want).zip(outputs) {
            let bounds = bounds(&out.weight, x);
            report.compare(s, case, got, want, |i| bounds[i] + out.rest(i));
        }
    }
}

/// A large token takes nothing from small ones, and nothing is lost of what is small throughout.
pub fn dense_linear_of_unlike_tokens<B: Backend>(subjects: &mut [Subject<B>]) {
    unlike_tokens(subjects, &HALVES);
}

pub fn unlike_tokens<B: Backend>(subjects: &mut [Subject<B>], formats: &[Format]) {
    let mut report = Report::new();
    let mut rng = Rng::new(74);
    let (rows, n, cols) = (70, 24, 64);
    for &format in formats {
        for (common, own) in [(1.0, 1e12), (1e-7, 1e-7), (1e-3, 1e20), (1e9, 1e-9)] {
            let mut x = rng.normals(rows * cols, common);
            x[7 * cols..8 * cols].iter_mut().for_each(|x| *x *= own / common);
            let weight = WeightBytes::new(&mut rng, format, n, cols, Pattern::Random);
            // What is there is no number, and does not count.
            let before = vec![f32::NAN; rows * n];
            let outputs = [Output { weight, bias: None, before, accumulate: false }];
            let mut o = oracle();
            let packed = [o.pack(&outputs[0].weight)];
            let want = run(&mut o, rows, &x, &outputs, &packed).remove(0);
            let bounds = bounds(&outputs[0].weight, &x);
            for s in &mut *subjects {
                let packed = [pack(s, &outputs[0].weight)];
                let got = run(s, rows, &x, &outputs, &packed).remove(0);
                report.compare(s, &(format, common, own), &got, &want, |i| bounds[i]);
                let exact = [s.pack(&outputs[0].weight)];
                let exact = run(s, rows, &x, &outputs, &exact).remove(0);
                assert_ne!(got, exact, "{}: cuBLASLt was not used", s.label);
            }
        }
    }
    report.finish();
}

/// What is no number stays with its token, and is seen.
pub fn dense_linear_of_what_is_no_number<B: Backend>(subjects: &mut [Subject<B>]) {
    what_is_no_number(subjects, &HALVES);
}

pub fn what_is_no_number<B: Backend>(subjects: &mut [Subject<B>], formats: &[Format]) {
    let mut rng = Rng::new(72);
    let (rows, n, cols) = (70, 24, 64);
    for &format in formats {
        let x = Inputs::Normal.make(&mut rng, rows * cols);
        let mut wrong = x.clone();
        (wrong[5 * cols + 7], wrong[9 * cols]) = (f32::INFINITY, f32::NAN);
        let weight = WeightBytes::new(&mut rng, format, n, cols, Pattern::Random);
        let output = Output { weight, bias: None, before: vec![0.0; rows * n], accumulate: false };
        for s in &mut *subjects {
            let packed = [pack(s, &output.weight)];
            let outputs = [output.clone()];
            let want = run(s, rows, &x, &outputs, &packed).remove(0);
            let got = run(s, rows, &wrong, &outputs, &packed).remove(0);
            for (row, (got, want)) in got.chunks(n).zip(want.chunks(n)).enumerate() {
                if row == 5 || row == 9 {
                    assert!(got.iter().all(|v| !v.is_finite()), "{}: {format} {row}", s.label);
                } else {
                    assert_eq!(got, want, "{}: {format} {row}", s.label);
                }
            }
        }
    }
}

/// A gate and an up-projection, of one format or of two.
pub fn dense_gated_linear_of_many_tokens<B: Backend>(subjects: &mut [Subject<B>]) {
    let pairs = [
        [Format::F16, Format::F16],
        [Format::BF16, Format::BF16],
        [Format::F16, Format::BF16],
        [Format::BF16, Format::Q8_0],
    ];
    gates_of_many_tokens(subjects, &pairs);
}

pub fn gates_of_many_tokens<B: Backend>(subjects: &mut [Subject<B>], pairs: &[[Format; 2]]) {
    let mut report = Report::new();
    let mut rng = Rng::new(73);
    let (n, cols) = (48, 96);
    for formats in pairs {
        let rows = 70;
        let x = rng.normals(rows * cols, 1.0);
        let weights = formats.map(|f| WeightBytes::new(&mut rng, f, n, cols, Pattern::Random));
        let mut o = oracle();
        let packed = [o.pack(&weights[0]), o.pack(&weights[1])];
        let want = gated(&mut o, rows, &x, &packed, n);
        let [gate, up] = weights.each_ref().map(|w| (sums(w, &x), bounds(w, &x)));
        // A product of two factors that are each off; the slope of SiLU is 1.1 at most.
        let bound = |i: usize| {
            let (of_gate, of_up) = (1.1 * gate.1[i], up.1[i]);
            of_gate * up.0[i].abs() + (gate.0[i].abs() + of_gate) * of_up
        };
        for s in &mut *subjects {
            let packed = [pack(s, &weights[0]), pack(s, &weights[1])];
            let got = gated(s, rows, &x, &packed, n);
            report.compare(s, formats, &got, &want, bound);
        }
    }
    report.finish();
}

fn gated<B: Backend>(
    s: &mut Subject<B>,
    rows: usize,
    x: &[f32],
    [gate, up]: &[B::Weight; 2],
    n: usize,
) -> Vec<f32> {
    let (input, mut dst) = (s.operand(x), s.target(&vec![0.0; rows * n]));
    let p = GatedLinear { input: &input, rows, gate, up, activation: Activation::Silu };
    s.backend.gated_linear(&mut s.stream, &mut dst, &p).expect("gated_linear");
    s.result(&dst, rows * n)
}
