//! `route_topk`, `expert_gated_linear`, `expert_combine`: the parts of a mixture of experts.
//!
//! The bounds are those of [`crate::linear`] and [`crate::gated_linear`], with the weights of the
//! token's own expert; a weighted sum may be off by the weighted sum of its terms' bounds. Which
//! experts are chosen is exact.

use ferrum_kernels::params::{
    Activation, Embed, ExpertCombine, ExpertGatedLinear, GatedLinear, RouteTopk,
};
use ferrum_kernels::{Backend, DType, Format};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::gated_linear::{ACTIVATION_ERROR, SLOPE};
use crate::harness::{Report, Subject, oracle};
use crate::linear::{F32_ERROR, Inputs, Noise, noise, widths};

/// What the tokens of a step choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Different experts at random.
    Random,
    /// All the same ones, so that most experts have no token.
    Same,
    /// One expert several times over, which no router does and the operations allow.
    Repeated,
}

impl Choice {
    /// `[tokens, used]`
    fn ids(self, rng: &mut Rng, tokens: usize, used: usize, experts: usize) -> Vec<i32> {
        let mut all: Vec<i32> = (0..experts as i32).collect();
        rng.shuffle(&mut all);
        let mut ids = Vec::new();
        for _ in 0..tokens {
            match self {
                Choice::Random => rng.shuffle(&mut all),
                Choice::Same => {}
                Choice::Repeated => all.fill((experts - 1) as i32),
            }
            ids.extend(&all[..used]);
        }
        ids
    }
}

/// The shape of a mixture.
#[derive(Debug, Clone, Copy)]
struct Shape {
    format: Format,
    experts: usize,
    used: usize,
    /// Rows of one matrix.
    n: usize,
    cols: usize,
    tokens: usize,
    choice: Choice,
}

/// Shapes of formats: few tokens and many, experts that fill panels and that do not.
fn shapes(formats: &[Format]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for &format in formats {
        let widest = widths(format).last().copied().unwrap_or(256);
        for (tokens, experts, used, n, cols, choice) in [
            (1, 4, 2, 17, widths(format)[0], Choice::Random),
            (1, 8, 8, 32, widest, Choice::Random),
            (2, 64, 8, 16, widths(format)[0], Choice::Random),
            (7, 5, 3, 9, widest, Choice::Random),
            (16, 8, 2, 48, widest, Choice::Random),
            (33, 1, 1, 40, widths(format)[0], Choice::Random),
            (40, 3, 1, 24, widths(format)[0], Choice::Same),
            (70, 4, 2, 33, widest, Choice::Random),
            (9, 4, 3, 16, widest, Choice::Repeated),
        ] {
            shapes.push(Shape { format, experts, used, n, cols, tokens, choice });
        }
    }
    shapes
}

/// One matrix of a stack.
fn matrix(stack: &WeightBytes, experts: usize, expert: usize) -> WeightBytes {
    let (rows, bytes) = (stack.rows / experts, stack.data.len() / experts);
    let data = stack.data[expert * bytes..][..bytes].to_vec();
    let scales = stack.scales.chunks(rows).nth(expert).unwrap_or_default().to_vec();
    WeightBytes { rows, data, scales, ..*stack }
}

/// [`Noise`] of each slot's product with its expert, `[slots, n]`; slots share a row of `x` in
/// groups of `per_row`.
fn noises(
    stack: &WeightBytes,
    shape: &Shape,
    ids: &[i32],
    x: &[f32],
    per_row: usize,
) -> Vec<Noise> {
    let matrices: Vec<_> = (0..shape.experts).map(|e| matrix(stack, shape.experts, e)).collect();
    let slot = |(slot, &id): (usize, &i32)| {
        let x = &x[slot / per_row * shape.cols..][..shape.cols];
        noise(&matrices[id as usize], x)
    };
    ids.iter().enumerate().flat_map(slot).collect()
}

/// Products of each slot with its expert by the oracle, `[slots, n]`.
fn products(
    stack: &WeightBytes,
    shape: &Shape,
    ids: &[i32],
    x: &[f32],
    per_row: usize,
) -> Vec<f32> {
    let values = stack.values();
    let mut all = Vec::new();
    for (slot, &id) in ids.iter().enumerate() {
        let x = &x[slot / per_row * shape.cols..][..shape.cols];
        for i in 0..shape.n {
            let row = &values[(id as usize * shape.n + i) * shape.cols..][..shape.cols];
            let products = row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            all.push(products.sum::<f64>() as f32);
        }
    }
    all
}

/// A case of `expert_gated_linear`; the input is `[tokens, cols]`.
struct Gated {
    x: Vec<f32>,
    ids: Vec<i32>,
    gate: WeightBytes,
    up: WeightBytes,
    activation: Activation,
}

impl Gated {
    fn new(rng: &mut Rng, s: &Shape) -> Self {
        let x = Inputs::Normal.make(rng, s.tokens * s.cols);
        let rows = s.experts * s.n;
        Gated {
            x: x.iter().map(|x| 0.3 * x).collect(),
            ids: s.choice.ids(rng, s.tokens, s.used, s.experts),
            gate: WeightBytes::new(rng, s.format, rows, s.cols, Pattern::Random),
            up: WeightBytes::new(rng, other(s), rows, s.cols, Pattern::Random),
            activation: [Activation::Silu, Activation::GeluTanh][s.tokens % 2],
        }
    }

    fn run<B: Backend>(&self, s: &mut Subject<B>, shape: &Shape) -> Vec<f32> {
        let gate = s.pack_stack(&self.gate, shape.experts);
        let up = s.pack_stack(&self.up, shape.experts);
        let tokens = 0..self.ids.len() / shape.used;
        self.part(s, shape, &gate, &up, tokens)
    }

    /// Some of the tokens.
    fn part<B: Backend>(
        &self,
        s: &mut Subject<B>,
        shape: &Shape,
        gate: &B::Weight,
        up: &B::Weight,
        tokens: std::ops::Range<usize>,
    ) -> Vec<f32> {
        let input = s.operand(&self.x[tokens.start * shape.cols..tokens.end * shape.cols]);
        let ids = s.indices(&self.ids[tokens.start * shape.used..tokens.end * shape.used]);
        let len = tokens.len() * shape.used * shape.n;
        // What was there must not matter.
        let mut dst = s.target(&vec![f32::NAN; len]);
        let p = ExpertGatedLinear {
            input: &input,
            rows: tokens.len(),
            ids: &ids,
            used: shape.used,
            gate,
            up,
            activation: self.activation,
        };
        s.backend.expert_gated_linear(&mut s.stream, &mut dst, &p).expect("expert_gated_linear");
        s.result(&dst, len)
    }
}

/// Every third time, a format other than the shape's.
fn other(s: &Shape) -> Format {
    match s.tokens % 3 == 1 && s.cols.is_multiple_of(256) {
        true => Format::ALL[(s.format as usize + 3) % Format::ALL.len()],
        false => s.format,
    }
}

/// Every format of gate and up-projection, with few tokens for an expert and with many.
pub fn expert_gated_linear_of_every_format<B: Backend>(subjects: &mut [Subject<B>]) {
    expert_gated_linear_of(subjects, &Format::ALL);
}

pub fn expert_gated_linear_of<B: Backend>(subjects: &mut [Subject<B>], formats: &[Format]) {
    let mut report = Report::new();
    let mut rng = Rng::new(91);
    for shape in shapes(formats) {
        let c = Gated::new(&mut rng, &shape);
        let want = c.run(&mut oracle(), &shape);
        let product = |w| products(w, &shape, &c.ids, &c.x, shape.used);
        let noise = |w| noises(w, &shape, &c.ids, &c.x, shape.used);
        let (g, u, of_g, of_u) = (product(&c.gate), product(&c.up), noise(&c.gate), noise(&c.up));
        let bound = |i: usize| {
            let (g, u) = (f64::from(g[i]).abs(), f64::from(u[i]).abs());
            let (dg, du) = (of_g[i].bound, of_u[i].bound);
            SLOPE * dg * (u + du) + g * du + ACTIVATION_ERROR * g * u + f64::from(f32::MIN_POSITIVE)
        };
        for s in &mut *subjects {
            let got = c.run(s, &shape);
            report.compare(s, &shape, &got, &want, bound);
        }
    }
    report.finish();
}

/// A case of `expert_combine`; the input is `[tokens, used, cols]`.
struct Combined {
    x: Vec<f32>,
    ids: Vec<i32>,
    weights: Vec<f32>,
    weight: WeightBytes,
    before: Vec<f32>,
    accumulate: bool,
}

impl Combined {
    fn new(rng: &mut Rng, s: &Shape) -> Self {
        let rows = s.experts * s.n;
        Combined {
            x: Inputs::Normal.make(rng, s.tokens * s.used * s.cols),
            ids: s.choice.ids(rng, s.tokens, s.used, s.experts),
            weights: rng.normals(s.tokens * s.used, 0.5),
            weight: WeightBytes::new(rng, s.format, rows, s.cols, Pattern::Random),
            before: rng.normals(s.tokens * s.n, 1.0),
            accumulate: s.tokens % 2 == 1,
        }
    }

    fn run<B: Backend>(&self, s: &mut Subject<B>, shape: &Shape) -> Vec<f32> {
        let weight = s.pack_stack(&self.weight, shape.experts);
        self.part(s, shape, &weight, 0..shape.tokens)
    }

    /// Some of the tokens.
    fn part<B: Backend>(
        &self,
        s: &mut Subject<B>,
        shape: &Shape,
        weight: &B::Weight,
        tokens: std::ops::Range<usize>,
    ) -> Vec<f32> {
        let slots = tokens.start * shape.used..tokens.end * shape.used;
        let input = s.operand(&self.x[slots.start * shape.cols..slots.end * shape.cols]);
        let (ids, weights) = (s.indices(&self.ids[slots.clone()]), s.operand(&self.weights[slots]));
        let before = &self.before[tokens.start * shape.n..tokens.end * shape.n];
        let mut dst = s.target(&match self.accumulate {
            true => before.to_vec(),
            // What was there must not matter.
            false => vec![f32::NAN; before.len()],
        });
        let p = ExpertCombine {
            input: &input,
            rows: tokens.len(),
            ids: &ids,
            weights: &weights,
            used: shape.used,
            weight,
            accumulate: self.accumulate,
        };
        s.backend.expert_combine(&mut s.stream, &mut dst, &p).expect("expert_combine");
        s.result(&dst, before.len())
    }
}

/// Every format, with and without accumulation.
pub fn expert_combine_of_every_format<B: Backend>(subjects: &mut [Subject<B>]) {
    expert_combine_of(subjects, &Format::ALL);
}

pub fn expert_combine_of<B: Backend>(subjects: &mut [Subject<B>], formats: &[Format]) {
    let mut report = Report::new();
    let mut rng = Rng::new(92);
    for shape in shapes(formats) {
        let c = Combined::new(&mut rng, &shape);
        let want = c.run(&mut oracle(), &shape);
        let product = products(&c.weight, &shape, &c.ids, &c.x, 1);
        let noise = noises(&c.weight, &shape, &c.ids, &c.x, 1);
        let bound = |i: usize| {
            let (token, row) = (i / shape.n, i % shape.n);
            let before = if c.accumulate { F32_ERROR * f64::from(c.before[i].abs()) } else { 0.0 };
            let terms = (token * shape.used..(token + 1) * shape.used).map(|slot| {
                let at = slot * shape.n + row;
                let factor = f64::from(c.weights[slot].abs());
                factor * (noise[at].bound + F32_ERROR * f64::from(product[at].abs()))
            });
            before + terms.sum::<f64>() + f64::from(f32::MIN_POSITIVE)
        };
        for s in &mut *subjects {
            let got = c.run(s, &shape);
            report.compare(s, &shape, &got, &want, bound);
        }
    }
    report.finish();
}

/// Each token alone, in pairs and among all: the same to the bit.
pub fn tokens_of_experts_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    tokens_among(subjects, 60, &[1, 2, 5, 31]);
}

/// The same of few tokens (up to 8), and of many (whose slots fill tiles of 16 for each expert, or
/// not): for a backend whose kernels for these differ by rounding.
pub fn few_tokens_of_experts_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    tokens_among(subjects, 8, &[1, 5]);
}

/// See [`few_tokens_of_experts_are_independent`].
pub fn many_tokens_of_experts_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    tokens_among(subjects, 30, &[9, 14]);
    tokens_among(subjects, 60, &[40]);
}

/// Compares `tokens` tokens at once with `counts` of them.
fn tokens_among<B: Backend>(subjects: &mut [Subject<B>], tokens: usize, counts: &[usize]) {
    let mut report = Report::new();
    let mut rng = Rng::new(93);
    for format in Format::ALL {
        let choice = Choice::Random;
        let shape = Shape { format, experts: 4, used: 2, n: 40, cols: 256, tokens, choice };
        let (gated, combined) = (Gated::new(&mut rng, &shape), Combined::new(&mut rng, &shape));
        for s in &mut *subjects {
            let gate = s.pack_stack(&gated.gate, shape.experts);
            let up = s.pack_stack(&gated.up, shape.experts);
            let weight = s.pack_stack(&combined.weight, shape.experts);
            let all_gated = gated.part(s, &shape, &gate, &up, 0..tokens);
            let all_combined = combined.part(s, &shape, &weight, 0..tokens);
            for &count in counts {
                for first in (0..=tokens - count).step_by(count) {
                    let part = first..first + count;
                    let got = gated.part(s, &shape, &gate, &up, part.clone());
                    let width = shape.used * shape.n;
                    let want = &all_gated[part.start * width..part.end * width];
                    report.compare(s, &("gated", format, &part), &got, want, |_| 0.0);
                    let got = combined.part(s, &shape, &weight, part.clone());
                    let want = &all_combined[part.start * shape.n..part.end * shape.n];
                    report.compare(s, &("combined", format, &part), &got, want, |_| 0.0);
                }
            }
        }
    }
    report.finish();
}

/// A case of `route_topk`.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub experts: usize,
    pub used: usize,
    pub normalize: bool,
    pub scale: f32,
}

/// Experts (as numbers) and weights of each token, `[tokens, used]` each.
pub fn route<B: Backend>(s: &mut Subject<B>, c: &Route, scores: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (tokens, len) = (scores.len() / c.experts, scores.len() / c.experts * c.used);
    let operand = s.operand(scores);
    let mut ids = s.backend.alloc(DType::I32, len + 3).expect("memory");
    let mut weights = s.target(&vec![f32::NAN; len]);
    let p = RouteTopk {
        scores: &operand,
        rows: tokens,
        experts: c.experts,
        used: c.used,
        normalize: c.normalize,
        scale: c.scale,
        ids: &mut ids,
        weights: &mut weights,
    };
    s.backend.route_topk(&mut s.stream, p).expect("route_topk");
    // The contract has no way to read integers: as rows of a table they become floats.
    let numbers: Vec<f32> = (0..c.experts).map(|i| i as f32).collect();
    let table = s.pack(&WeightBytes::floats(1, &numbers));
    let mut read = s.target(&vec![f32::NAN; len]);
    let p = Embed { table: &table, tokens: &ids, rows: len, scale: 1.0, accumulate: false };
    s.backend.embed(&mut s.stream, &mut read, &p).expect("embed");
    (s.result(&read, len), s.result(&weights, len))
}

/// Numbers of experts around the registers, ties, scores far apart, and what is no number.
pub fn routes_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(94);
    for (experts, used) in
        [(1, 1), (2, 1), (3, 3), (8, 2), (9, 8), (16, 4), (64, 8), (100, 13), (128, 8), (512, 10)]
    {
        for (spread, rounded) in [(1.0, false), (0.01, false), (300.0, false), (1.0, true)] {
            for (tokens, normalize, scale) in
                [(1, true, 1.0), (5, false, 1.0), (70, true, 2.5), (300, false, 0.25)]
            {
                let c = Route { experts, used, normalize, scale };
                let mut scores = rng.normals(tokens * experts, spread);
                if rounded {
                    // Many ties, zeroes of both signs, and hostile values.
                    scores.iter_mut().for_each(|v| *v = v.round_ties_even());
                    if experts > 1 {
                        scores[tokens / 2 * experts] = f32::NEG_INFINITY;
                    }
                }
                let (ids, weights) = route(&mut oracle(), &c, &scores);
                for s in &mut *subjects {
                    let (got_ids, got) = route(s, &c, &scores);
                    report.compare(s, &(c, spread, "ids"), &got_ids, &ids, |_| 0.0);
                    let bound = |i: usize| 2e-6 * f64::from(weights[i].abs()) + 1e-30;
                    report.compare(s, &(c, spread, "weights"), &got, &weights, bound);
                }
            }
        }
    }
    // What is no number is chosen last, and every id is one that can be used.
    let nan = f32::NAN;
    for s in subjects {
        let c = Route { experts: 4, used: 3, normalize: true, scale: 1.0 };
        let (ids, _) = route(s, &c, &[nan, 1.0, nan, 2.0, nan, nan, nan, nan]);
        assert_eq!(ids, [3.0, 1.0, 0.0, 0.0, 1.0, 2.0], "{}", s.label);
    }
    report.finish();
}

/// A mixture of three experts of one value, by hand; one expert is the plain gated linear.
pub fn experts_worked_by_hand<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        let close = |what: &str, got: &[f32], want: &[f32]| {
            let near = |(g, w): (&f32, &f32)| (g - w).abs() <= 1e-6 * w.abs().max(1.0);
            let all = got.len() == want.len() && got.iter().zip(want).all(near);
            assert!(all, "{what}: {got:?}, not {want:?}");
        };
        let (ln2, ln3) = (std::f32::consts::LN_2, 3.0_f32.ln());
        // Scores of 1 : 2 : 3 and of 3 : 3 : 2.
        let scores = [0.0, ln2, ln3, ln3, ln3, ln2];
        let mut c = Route { experts: 3, used: 2, normalize: true, scale: 1.0 };
        let (ids, weights) = route(s, &c, &scores);
        assert_eq!(ids, [2.0, 1.0, 0.0, 1.0], "{}", s.label);
        close("normalised", &weights, &[0.6, 0.4, 0.5, 0.5]);
        c.normalize = false;
        c.scale = 2.0;
        let (_, weights) = route(s, &c, &scores);
        close("of all", &weights, &[1.0, 2.0 / 3.0, 0.75, 0.75]);

        let stack = |values: &[f32]| WeightBytes::floats(1, values);
        let gate = s.pack_stack(&stack(&[2.0, -1.0, 0.0]), 3);
        let up = s.pack_stack(&stack(&[3.0, 5.0, 7.0]), 3);
        let (x, ids) = (s.operand(&[1.0, 1.0]), s.indices(&[0, 1, 2, 0]));
        let mut y = s.target(&[0.0; 4]);
        let activation = Activation::Silu;
        let p = ExpertGatedLinear {
            input: &x,
            rows: 2,
            ids: &ids,
            used: 2,
            gate: &gate,
            up: &up,
            activation,
        };
        s.backend.expert_gated_linear(&mut s.stream, &mut y, &p).unwrap();
        let silu = [3.0 * 1.761_594_2, -5.0 * 0.268_941_42, 0.0, 3.0 * 1.761_594_2];
        close("expert_gated_linear", &s.result(&y, 4), &silu);
        let (gate, up) = (s.pack(&stack(&[2.0])), s.pack(&stack(&[3.0])));
        let mut y = s.target(&[0.0; 2]);
        let p = GatedLinear { input: &x, rows: 2, gate: &gate, up: &up, activation };
        s.backend.gated_linear(&mut s.stream, &mut y, &p).unwrap();
        close("gated_linear", &s.result(&y, 2), &[silu[0], silu[0]]);

        let weight = s.pack_stack(&stack(&[1.0, 2.0, 10.0, 20.0, 100.0, 200.0]), 3);
        let (x, weights) = (s.operand(&[1.0, 3.0, 5.0, 7.0]), s.operand(&[0.5, 2.0, 1.0, -1.0]));
        for (accumulate, want) in [
            (false, [0.5 + 60.0, 1.0 + 120.0, 500.0 - 7.0, 1000.0 - 14.0]),
            (true, [1.5 + 60.0, 2.0 + 120.0, 501.0 - 7.0, 1001.0 - 14.0]),
        ] {
            let mut y = s.target(&[1.0; 4]);
            let p = ExpertCombine {
                input: &x,
                rows: 2,
                ids: &ids,
                weights: &weights,
                used: 2,
                weight: &weight,
                accumulate,
            };
            s.backend.expert_combine(&mut s.stream, &mut y, &p).unwrap();
            close("expert_combine", &s.result(&y, 4), &want);
        }
    }
}
