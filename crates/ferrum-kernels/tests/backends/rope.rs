//! `rope`: both styles, whole and partial, with norms of heads and without.
//!
//! The bound: 6e-7 of the pair's magnitudes after it, for two products and a sum in single precision; with
//! a norm before it, which is within 6e-7 of its values, 1.5e-6. What is neither rotated nor normalised
//! stays as it is, to the bit.

use ferrum_kernels::Backend;
use ferrum_kernels::params::{Rope, RopeInput, RopeStyle};

use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

#[derive(Clone)]
struct Case {
    rows: usize,
    /// Of each input.
    heads: Vec<usize>,
    head_dim: usize,
    rotary_dim: usize,
    style: RopeStyle,
    positions: Vec<i32>,
    table: Vec<f32>,
    /// Of the first input and every second one, where there are norms.
    norm: Option<Vec<f32>>,
    /// Each input's values.
    x: Vec<Vec<f32>>,
}

/// All inputs, one after the other.
fn run<B: Backend>(s: &mut Subject<B>, c: &Case) -> Vec<f32> {
    let positions = s.indices(&c.positions);
    let table = s.exact(&c.table);
    let norm = c.norm.as_ref().map(|norm| s.operand(norm));
    let mut x: Vec<B::Buffer> = c.x.iter().map(|x| s.target(x)).collect();
    let input = |(i, (x, &heads))| {
        let norm = if i % 2 == 0 { norm.as_ref() } else { None };
        RopeInput { x, heads, norm }
    };
    let mut inputs: Vec<_> = x.iter_mut().zip(&c.heads).enumerate().map(input).collect();
    let p = Rope {
        positions: &positions,
        table: &table,
        rows: c.rows,
        head_dim: c.head_dim,
        rotary_dim: c.rotary_dim,
        style: c.style,
        eps: 1e-5,
        inputs: &mut inputs,
    };
    s.backend.rope(&mut s.stream, p).expect("rope");
    x.iter().zip(&c.x).flat_map(|(x, from)| s.result(x, from.len())).collect()
}

/// Cosine and sine of `position · 10000^(-2i / rotary_dim)`.
fn table(max: usize, rotary_dim: usize) -> Vec<f32> {
    let mut table = Vec::new();
    for position in 0..max {
        for i in 0..rotary_dim / 2 {
            let angle = position as f64 * 10000_f64.powf(-2.0 * i as f64 / rotary_dim as f64);
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    table
}

/// Every head width, share of it that is rotated, style, and number of heads and tokens; one input and
/// several, with norms and without.
pub fn rope_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(41);
    let max = 50;
    let shapes = [
        (2, 2),
        (6, 4),
        (32, 32),
        (64, 64),
        (64, 32),
        (64, 18),
        (80, 20),
        (96, 96),
        (100, 34),
        (128, 128),
        (128, 2),
        (256, 256),
        (256, 64),
    ];
    let mut turn = 0;
    for (head_dim, rotary_dim) in shapes {
        let table = table(max, rotary_dim);
        for style in [RopeStyle::Split, RopeStyle::Interleaved] {
            for heads in [vec![1], vec![3, 1], vec![9, 3], vec![4, 0, 5], vec![]] {
                for rows in [0, 1, 2, 5, 23, 33] {
                    turn += 1;
                    let positions = (0..rows).map(|t| match t {
                        0 => max as i32 - 1,
                        _ => rng.below(max) as i32,
                    });
                    let positions = positions.collect();
                    let norm = (turn % 3 > 0).then(|| rng.normals(head_dim, 1.0));
                    let x = heads.iter().map(|heads| rng.normals(rows * heads * head_dim, 1.0));
                    let (x, heads, table) = (x.collect(), heads.clone(), table.clone());
                    let c = Case {
                        rows,
                        heads,
                        head_dim,
                        rotary_dim,
                        style,
                        positions,
                        table,
                        norm,
                        x,
                    };
                    check(&mut report, subjects, &c);
                }
            }
        }
    }
    report.finish();
}

fn check<B: Backend>(report: &mut Report, subjects: &mut [Subject<B>], c: &Case) {
    let &Case { rows, head_dim, rotary_dim, style, .. } = c;
    let want = run(&mut oracle(), c);
    // Of the two values of a pair, which has the same length before and after.
    let bound = |i: usize| {
        let (start, at) = (i - i % head_dim, i % head_dim);
        let partner = match style {
            _ if at >= rotary_dim => at,
            RopeStyle::Split => (at + rotary_dim / 2) % rotary_dim,
            RopeStyle::Interleaved => at ^ 1,
        };
        let size = f64::from(want[i].abs() + want[start + partner].abs());
        match c.norm {
            None if at >= rotary_dim => 0.0,
            None => 6e-7 * size,
            Some(_) => 1.5e-6 * size,
        }
    };
    for s in &mut *subjects {
        let got = run(s, c);
        let case = (head_dim, rotary_dim, style, &c.heads, rows, c.norm.is_some());
        report.compare(s, &case, &got, &want, bound);
    }
}
