//! `layer_norm` and `activate`: the bounds are some roundings of the largest number on the way.

use ferrum_kernels::Backend;
use ferrum_kernels::params::{Activate, Activation, LayerNorm};

use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

struct Case {
    groups: usize,
    width: usize,
    eps: f32,
    in_place: bool,
    src: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn run<B: Backend>(s: &mut Subject<B>, c: &Case) -> Vec<f32> {
    let (weight, bias, src) = (s.operand(&c.weight), s.operand(&c.bias), s.operand(&c.src));
    let before = if c.in_place { c.src.clone() } else { vec![f32::NAN; c.src.len()] };
    let mut dst = s.target(&before);
    let p = LayerNorm {
        src: (!c.in_place).then_some(&src),
        weight: &weight,
        bias: &bias,
        groups: c.groups,
        width: c.width,
        eps: c.eps,
    };
    s.backend.layer_norm(&mut s.stream, &mut dst, &p).expect("layer_norm");
    s.result(&dst, c.groups * c.width)
}

/// Every number of groups, width and magnitude, in place and not; values far from zero.
pub fn layer_norm_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(32);
    for width in [1, 2, 3, 7, 8, 15, 17, 32, 64, 100, 128, 384, 768, 1025] {
        for groups in [0, 1, 2, 5, 33, 100] {
            for (scale, mean) in [(1.0, 0.0), (1e-4, 0.0), (1e4, 0.0), (1.0, 30.0)] {
                let len = groups * width;
                let mut c = Case {
                    groups,
                    width,
                    eps: if width % 2 == 0 { 1e-5 } else { 1e-12 },
                    in_place: (groups + width) % 2 == 0,
                    src: rng.normals(len, scale).iter().map(|x| x + mean).collect(),
                    weight: rng.normals(width, 1.0),
                    bias: rng.normals(width, 1.0),
                };
                // A row of zeroes becomes the bias.
                c.src.iter_mut().skip(width).take(width).for_each(|x| *x = 0.0);
                let want = run(&mut oracle(), &c);
                let zeros = want.iter().skip(width).take(width).zip(&c.bias);
                zeros.for_each(|(y, b)| assert_eq!(y, b));
                let ratios: Vec<f64> = c.src.chunks(width).map(|row| ratio(row, c.eps)).collect();
                for s in &mut *subjects {
                    let got = run(s, &c);
                    let case = (groups, width, scale, mean);
                    report.compare(s, &case, &got, &want, |i| {
                        let (w, b) = (c.weight[i % width].abs(), c.bias[i % width].abs());
                        let own = f64::from(want[i].abs() + 2.0 * b);
                        4e-7 * f64::from(w) * ratios[i / width] + 1e-6 * own
                    });
                }
            }
        }
    }
    report.finish();
}

/// The largest value in units of the deviation: what a rounding of it, or of the mean, becomes.
fn ratio(row: &[f32], eps: f32) -> f64 {
    let n = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let largest = row.iter().fold(0.0, |l, x| f64::max(l, x.abs().into()));
    largest / (variance + f64::from(eps)).sqrt()
}

/// Each row of a norm, alone and with others: the same to the bit.
pub fn layer_norm_rows_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(33);
    let (groups, width) = (90, 391);
    let c = Case {
        groups,
        width,
        eps: 1e-12,
        in_place: true,
        src: rng.normals(groups * width, 1.0),
        weight: rng.normals(width, 1.0),
        bias: rng.normals(width, 1.0),
    };
    for s in subjects {
        let want = run(s, &c);
        for from in [0, 1, 44, 89] {
            let row = from * width..(from + 1) * width;
            let src = c.src[row.clone()].to_vec();
            let (weight, bias) = (c.weight.clone(), c.bias.clone());
            let alone = Case { groups: 1, src, weight, bias, ..c };
            let got = run(s, &alone);
            report.compare(s, &from, &got, &want[row], |_| 0.0);
        }
    }
    report.finish();
}

/// Every activation over ordinary and extreme values, of every length.
pub fn activate_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(34);
    for activation in Activation::ALL {
        for (rows, width) in [(0, 5), (1, 1), (1, 7), (3, 8), (5, 33), (40, 1537)] {
            let mut x = rng.normals(rows * width, 4.0);
            let extremes = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 1e4, -1e4, 80.0, -80.0];
            x.iter_mut().step_by(3).zip(extremes).for_each(|(x, e)| *x = e);
            let want = apply(&mut oracle(), &x, rows, width, activation);
            for s in &mut *subjects {
                let got = apply(s, &x, rows, width, activation);
                report.compare(s, &(activation, rows, width), &got, &want, |i| {
                    // Of gelu's tail only the share of `x` is kept: see `cpu/math.rs`. That of the
                    // oracle's gelu_tanh cancels.
                    let tail = if activation == Activation::Gelu { 2e-7 } else { 0.0 };
                    let x = f64::from(x[i].abs()).min(20.0);
                    6e-6 * f64::from(want[i].abs()) + tail * x + 1e-15
                });
            }
        }
    }
    report.finish();
}

fn apply<B: Backend>(
    s: &mut Subject<B>,
    x: &[f32],
    rows: usize,
    width: usize,
    activation: Activation,
) -> Vec<f32> {
    let mut dst = s.target(x);
    let p = Activate { rows, width, activation };
    s.backend.activate(&mut s.stream, &mut dst, &p).expect("activate");
    s.result(&dst, x.len())
}
