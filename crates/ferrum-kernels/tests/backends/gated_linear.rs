//! `gated_linear`: every format and activation.
//!
//! The bound: that of [`crate::linear`] for the two products `g` and `u`, carried through
//! `act(g) · u`. The slope of either activation is below 1.13 everywhere; the activation itself may
//! be off by 4e-6 of its argument, which allows an approximation of the exponential in single
//! precision.

use ferrum_kernels::params::{Activation, GatedLinear, Linear, LinearOutput};
use ferrum_kernels::{Backend, Format};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::{Report, Subject, oracle};
use crate::linear::{Inputs, ROWS, SOME_ROWS, noise, widths};

/// Largest slope of SiLU (1.0998) and GELU (1.1290).
pub const SLOPE: f64 = 1.13;
/// Error of the activation, of its argument.
pub const ACTIVATION_ERROR: f64 = 4e-6;

/// A case; the input is `[rows, cols]`.
#[derive(Clone)]
pub struct Case {
    pub rows: usize,
    pub x: Vec<f32>,
    pub gate: WeightBytes,
    pub up: WeightBytes,
    pub activation: Activation,
}

pub fn run<B: Backend>(s: &mut Subject<B>, c: &Case) -> Vec<f32> {
    let (gate, up) = (s.pack(&c.gate), s.pack(&c.up));
    let input = s.operand(&c.x);
    let len = c.rows * c.gate.rows;
    // What was there must not matter.
    let mut dst = s.target(&vec![f32::NAN; len]);
    let p =
        GatedLinear { input: &input, rows: c.rows, gate: &gate, up: &up, activation: c.activation };
    s.backend.gated_linear(&mut s.stream, &mut dst, &p).expect("gated_linear");
    s.result(&dst, len)
}

/// `weight · x` by the oracle.
fn product(w: &WeightBytes, rows: usize, x: &[f32]) -> Vec<f32> {
    let mut s = oracle();
    let weight = s.pack(w);
    let input = s.operand(x);
    let mut dst = s.target(&vec![0.0; rows * w.rows]);
    let outputs =
        &mut [LinearOutput { weight: &weight, bias: None, dst: &mut dst, accumulate: false }];
    s.backend.linear(&mut s.stream, Linear { input: &input, rows, outputs }).expect("linear");
    s.result(&dst, rows * w.rows)
}

fn check<B: Backend>(
    report: &mut Report,
    subjects: &mut [Subject<B>],
    case: &impl std::fmt::Debug,
    c: &Case,
) {
    let want = run(&mut oracle(), c);
    let (g, u) = (product(&c.gate, c.rows, &c.x), product(&c.up, c.rows, &c.x));
    let (of_g, of_u) = (noise(&c.gate, &c.x), noise(&c.up, &c.x));
    let bound = |i: usize| {
        let (g, u) = (f64::from(g[i]).abs(), f64::from(u[i]).abs());
        let (dg, du) = (of_g[i].bound, of_u[i].bound);
        // |act(g)| <= |g|
        SLOPE * dg * (u + du) + g * du + ACTIVATION_ERROR * g * u + f64::from(f32::MIN_POSITIVE)
    };
    for s in subjects {
        let got = run(s, c);
        report.compare(s, case, &got, &want, bound);
    }
}

/// Every format of either weight, number of tokens, and activation.
pub fn gated_linear_of_every_format<B: Backend>(subjects: &mut [Subject<B>]) {
    gated_linear_of_shapes(subjects, &Format::ALL, &[1, 8, 17, 48], &ROWS);
}

/// Every format, and some shapes: for backends that are emulated.
pub fn gated_linear_of_some_shapes<B: Backend>(subjects: &mut [Subject<B>]) {
    gated_linear_of_shapes(subjects, &Format::ALL, &[1, 48], &SOME_ROWS);
}

/// So many output features and tokens.
pub fn gated_linear_of_shapes<B: Backend>(
    subjects: &mut [Subject<B>],
    formats: &[Format],
    heights: &[usize],
    tokens: &[usize],
) {
    let mut report = Report::new();
    let mut rng = Rng::new(11);
    for (at, &format) in formats.iter().enumerate() {
        for &cols in widths(format) {
            for &n in heights {
                for &rows in tokens {
                    // Mostly the same format, as in most files; every fourth time another.
                    let mut other = format;
                    if (rows + n) % 4 == 0 && cols % 256 == 0 {
                        other = Format::ALL[(at + 3) % Format::ALL.len()];
                    }
                    let activation =
                        if rows % 2 == 0 { Activation::Silu } else { Activation::GeluTanh };
                    let x = Inputs::Normal.make(&mut rng, rows * cols);
                    let c = Case {
                        rows,
                        x: x.iter().map(|x| 0.3 * x).collect(),
                        gate: WeightBytes::new(&mut rng, format, n, cols, Pattern::Random),
                        up: WeightBytes::new(&mut rng, other, n, cols, Pattern::Random),
                        activation,
                    };
                    let case = (format, other, rows, cols, n, activation);
                    check(&mut report, subjects, &case, &c);
                }
            }
        }
    }
    report.finish();
}

/// Gates so large that the exponential overflows or vanishes, and all between.
pub fn gated_linear_of_extremes<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let one = |rows: &[f32]| WeightBytes::floats(1, rows);
    let gates: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.25).collect();
    for activation in [Activation::Silu, Activation::GeluTanh] {
        for x in [1.0, 1e-3, 30.0, 1e4] {
            let up = vec![1.0; gates.len()];
            let c = Case { rows: 1, x: vec![x], gate: one(&gates), up: one(&up), activation };
            check(&mut report, subjects, &(activation, x), &c);
        }
    }
    report.finish();
}
