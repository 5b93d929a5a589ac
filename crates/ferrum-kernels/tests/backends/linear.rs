//! `linear`: every format over many shapes, extreme values, several outputs.
//!
//! The bound. A backend may round the activations of a quantised weight to 8 bits, with one scale
//! per 32 values: `d = max|x| / 127`. Each rounding error is then at most `d/2`, with a variance of
//! `d²/12`, so that an output has an error of variance `σ² = Σ w² d²/12`, for normally distributed
//! activations 0.6 % of the output. Allowed are `6σ` for each value, never more than the roundings
//! can add up to, and `1.1 σ` for the root mean square over all. To this comes the rounding of
//! single precision, [`F32_ERROR`] of the sum of magnitudes; nothing else for unquantised weights.

use ferrum_kernels::params::{Linear, LinearOutput};
use ferrum_kernels::{Backend, Format};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::{Report, Subject, oracle};

/// Of the sum of magnitudes: what summing in single precision may lose.
pub const F32_ERROR: f64 = 2e-6;

/// Numbers of tokens: those around the tiles of kernels, and a whole prefill chunk.
pub const ROWS: [usize; 10] = [1, 2, 3, 4, 5, 7, 8, 16, 23, 33];

/// A few of them, and those around the tiles of tensor cores.
pub const SOME_ROWS: [usize; 6] = [1, 3, 8, 9, 33, 70];

/// What the activations look like.
#[derive(Debug, Clone, Copy)]
pub enum Inputs {
    /// Normally distributed.
    Normal,
    /// Normally distributed, but one in fifty is a hundred times larger.
    Outliers,
    /// All the same.
    Constant(f32),
    /// The same with changing sign.
    Alternating(f32),
}

impl Inputs {
    pub fn make(self, rng: &mut Rng, len: usize) -> Vec<f32> {
        let mut x = rng.normals(len, 1.0);
        match self {
            Inputs::Normal => {}
            Inputs::Outliers => (0..len / 50 + 1).for_each(|_| x[rng.below(len)] *= 100.0),
            Inputs::Constant(c) => x.fill(c),
            Inputs::Alternating(c) => {
                x.iter_mut().enumerate().for_each(|(i, x)| *x = if i % 2 == 0 { c } else { -c })
            }
        }
        x
    }
}

/// Input features to try, by the size of a block.
pub fn widths(format: Format) -> &'static [usize] {
    match format.block_len() {
        1 => &[1, 3, 23, 32, 100, 576],
        32 => &[32, 64, 96, 576],
        _ => &[256, 768],
    }
}

/// The error that an output of [`Linear`] may have.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    /// Standard deviation of the error from 8-bit activations.
    pub sigma: f64,
    /// The largest error of any one value.
    pub bound: f64,
}

/// [`Noise`] of each output, `[rows, n]`.
pub fn noise(w: &WeightBytes, x: &[f32]) -> Vec<Noise> {
    /// (root of the sum of squares, sum of magnitudes, largest magnitude) per 32 values.
    fn blocks(row: &[f32]) -> Vec<(f64, f64, f64)> {
        let block = |b: &[f32]| {
            let abs = b.iter().map(|&v| f64::from(v).abs());
            let squares: f64 = abs.clone().map(|v| v * v).sum();
            (squares.sqrt(), abs.clone().sum(), abs.fold(0.0, f64::max))
        };
        row.chunks(32).map(block).collect()
    }
    let quantised = w.format.block_len() > 1;
    let weights: Vec<_> = w.values().chunks(w.cols).map(blocks).collect();
    let mut all = Vec::with_capacity(x.len() / w.cols * w.rows);
    for x in x.chunks(w.cols).map(blocks) {
        for w in &weights {
            let (mut variance, mut most, mut magnitude) = (0.0, 0.0, 0.0);
            for (&(w2, w1, _), &(x2, _, largest)) in w.iter().zip(&x) {
                let d = if quantised { largest / 127.0 } else { 0.0 };
                variance += w2 * w2 * d * d / 12.0;
                most += w1 * d / 2.0;
                // By Cauchy and Schwarz, at least the sum of the products' magnitudes.
                magnitude += w2 * x2;
            }
            let sigma = f64::sqrt(variance);
            all.push(Noise { sigma, bound: most.min(6.0 * sigma) + F32_ERROR * magnitude });
        }
    }
    all
}

/// One output of a case.
#[derive(Clone)]
pub struct Output {
    pub weight: WeightBytes,
    pub bias: Option<Vec<f32>>,
    /// What was in the result before; added to if `accumulate`.
    pub before: Vec<f32>,
    pub accumulate: bool,
}

impl Output {
    /// What rounding the bias and what is added to may cost result `i`.
    pub fn rest(&self, i: usize) -> f64 {
        match (&self.bias, self.accumulate) {
            (None, false) => 0.0,
            (bias, _) => {
                let bias = bias.as_ref().map_or(0.0, |b| b[i % b.len()].abs());
                F32_ERROR * f64::from(self.before[i].abs() + bias)
            }
        }
    }
}

/// Runs several outputs on one input.
pub fn run<B: Backend>(
    s: &mut Subject<B>,
    rows: usize,
    x: &[f32],
    outputs: &[Output],
    packed: &[B::Weight],
) -> Vec<Vec<f32>> {
    let input = s.operand(x);
    let biases: Vec<_> = outputs.iter().map(|o| o.bias.as_ref().map(|b| s.operand(b))).collect();
    let mut targets: Vec<_> = outputs.iter().map(|o| s.target(&o.before)).collect();
    let mut list: Vec<_> = (outputs.iter().zip(packed).zip(&biases).zip(&mut targets))
        .map(|(((o, weight), bias), dst)| LinearOutput {
            weight,
            bias: bias.as_ref(),
            dst,
            accumulate: o.accumulate,
        })
        .collect();
    let p = Linear { input: &input, rows, outputs: &mut list };
    s.backend.linear(&mut s.stream, p).expect("linear");
    let pairs = targets.iter().zip(outputs);
    pairs.map(|(t, o)| s.result(t, rows * o.weight.rows)).collect()
}

/// Runs on the oracle and on each subject, compares, and adds up squares of errors in units of
/// `σ`.
fn check<B: Backend>(
    report: &mut Report,
    subjects: &mut [Subject<B>],
    case: &impl std::fmt::Debug,
    rows: usize,
    x: &[f32],
    outputs: &[Output],
) -> (f64, usize) {
    let mut o = oracle();
    let packed: Vec<_> = outputs.iter().map(|out| o.pack(&out.weight)).collect();
    let want = run(&mut o, rows, x, outputs, &packed);
    let noises: Vec<_> = outputs.iter().map(|out| noise(&out.weight, x)).collect();
    let (mut squares, mut count) = (0.0, 0);
    for s in subjects {
        let packed: Vec<_> = outputs.iter().map(|out| s.pack(&out.weight)).collect();
        let got = run(s, rows, x, outputs, &packed);
        for (((got, want), noise), out) in got.iter().zip(&want).zip(&noises).zip(outputs) {
            let case = (case, out.weight.format, out.bias.is_some(), out.accumulate);
            report.compare(s, &case, got, want, |i| noise[i].bound + out.rest(i));
            for (i, n) in noise.iter().enumerate().filter(|(_, n)| n.sigma > 0.0) {
                let error = f64::from(got[i]) - f64::from(want[i]);
                squares += (error / n.sigma).powi(2);
                count += 1;
            }
        }
    }
    (squares, count)
}

/// Every format, number of tokens, input and output features, with and without bias and
/// accumulation.
pub fn linear_of_every_format_and_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    linear_of_shapes(subjects, &Format::ALL, &[1, 3, 8, 15, 16, 17, 48, 130], &ROWS);
}

/// Every format, and some shapes: for backends that are emulated.
pub fn linear_of_every_format<B: Backend>(subjects: &mut [Subject<B>]) {
    linear_of_shapes(subjects, &Format::ALL, &[1, 17, 130], &SOME_ROWS);
}

/// So many output features and tokens.
pub fn linear_of_shapes<B: Backend>(
    subjects: &mut [Subject<B>],
    formats: &[Format],
    heights: &[usize],
    tokens: &[usize],
) {
    let mut report = Report::new();
    let mut rng = Rng::new(1);
    for &format in formats {
        let (mut squares, mut count, mut turn) = (0.0, 0, 0);
        let widths = widths(format);
        for &cols in widths {
            for &n in heights {
                let mut rows = tokens.to_vec();
                if n == 17 && cols == *widths.last().unwrap_or(&0) {
                    rows.push(512);
                }
                for rows in rows {
                    turn += 1;
                    let kind = if turn % 3 == 0 { Inputs::Outliers } else { Inputs::Normal };
                    let x = kind.make(&mut rng, rows * cols);
                    let output = Output {
                        weight: WeightBytes::new(&mut rng, format, n, cols, Pattern::Random),
                        bias: (turn % 2 == 0).then(|| rng.normals(n, 1.0)),
                        before: rng.normals(rows * n, 1.0),
                        accumulate: turn % 5 < 2,
                    };
                    let case = (rows, cols, n, kind);
                    let (s, c) = check(&mut report, subjects, &case, rows, &x, &[output]);
                    squares += s;
                    count += c;
                }
            }
        }
        let rms = f64::sqrt(squares / f64::max(count as f64, 1.0));
        println!("{format}: root mean square error {rms:.3} σ over {count} values");
        if rms > 1.1 {
            report.fail(format!("{format}: the errors' root mean square is {rms} σ"));
        }
    }
    report.finish();
}

/// Quants and scales as large as the formats allow, activations that round to ±127 throughout:
/// what overflows an intermediate sum. (The errors are systematic here.)
pub fn linear_of_extremes<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(2);
    let inputs = [
        Inputs::Normal,
        Inputs::Constant(1.0),
        Inputs::Constant(-3.0),
        Inputs::Constant(0.0),
        Inputs::Alternating(1e-20),
        Inputs::Alternating(1e6),
    ];
    for format in Format::ALL {
        for byte in [0xff, 0x00, 0x0f, 0xf0, 0x80, 0x7f, 0x88, 0x55] {
            for kind in inputs {
                for rows in [1, 9] {
                    let (n, cols) = (17, 512);
                    let pattern = Pattern::Bytes(byte);
                    let x = kind.make(&mut rng, rows * cols);
                    let output = Output {
                        weight: WeightBytes::new(&mut rng, format, n, cols, pattern),
                        bias: None,
                        before: vec![0.0; rows * n],
                        accumulate: false,
                    };
                    let case = (rows, byte, kind);
                    check(&mut report, subjects, &case, rows, &x, &[output]);
                }
            }
        }
    }
    report.finish();
}

/// Queries, keys and values: weights of different formats and heights on one input.
pub fn linear_with_outputs_of_several_formats<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(3);
    let mut formats = Format::ALL.to_vec();
    for turn in 0..12 {
        rng.shuffle(&mut formats);
        for rows in [1, 2, 6, 33] {
            let cols = [256, 768][turn % 2];
            let x = Inputs::Normal.make(&mut rng, rows * cols);
            let heights = [[24, 8, 8], [1, 130, 17], [64, 3, 40]][turn % 3];
            let outputs: Vec<Output> = (formats.iter().zip(heights).enumerate())
                .map(|(i, (&format, n))| Output {
                    weight: WeightBytes::new(&mut rng, format, n, cols, Pattern::Random),
                    bias: (i != turn % 3).then(|| rng.normals(n, 1.0)),
                    before: rng.normals(rows * n, 1.0),
                    accumulate: i == turn % 2,
                })
                .collect();
            check(&mut report, subjects, &(turn, rows, cols), rows, &x, &outputs);
        }
    }
    report.finish();
}

/// More outputs of one format than a launch of any backend makes, of unlike heights.
pub fn linear_with_outputs_of_one_format<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(5);
    for (turn, format) in Format::ALL.into_iter().enumerate() {
        for rows in [1, 2, 6, 33, 70] {
            let cols = 256;
            let x = Inputs::Normal.make(&mut rng, rows * cols);
            let heights = [[8, 1, 24, 7], [1, 130, 17, 64], [129, 128, 3, 9]][turn % 3];
            let outputs: Vec<Output> = (heights.into_iter().enumerate())
                .map(|(i, n)| Output {
                    weight: WeightBytes::new(&mut rng, format, n, cols, Pattern::Random),
                    bias: (i % 2 == turn % 2).then(|| rng.normals(n, 1.0)),
                    before: rng.normals(rows * n, 1.0),
                    accumulate: i == turn % 4,
                })
                .collect();
            check(&mut report, subjects, &(format, rows), rows, &x, &outputs);
        }
    }
    report.finish();
}

/// No tokens, or no outputs: nothing happens.
pub fn linear_of_nothing<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut rng = Rng::new(4);
    for s in subjects {
        let output = Output {
            weight: WeightBytes::new(&mut rng, Format::Q8_0, 8, 64, Pattern::Random),
            bias: Some(vec![1.0; 8]),
            before: vec![],
            accumulate: false,
        };
        let packed = s.pack(&output.weight);
        run(s, 0, &[], &[output], &[packed]);
        run(s, 3, &[1.0; 96], &[], &[]);
    }
}
