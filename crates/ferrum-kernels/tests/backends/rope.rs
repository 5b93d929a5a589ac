//! `rope`: both styles, whole and partial.
//!
//! The bound: 4e-7 of the pair's magnitudes: two products and a sum in single precision. What is
//! not rotated stays as it is, to the bit.

use ferrum_kernels::Backend;
use ferrum_kernels::params::{Rope, RopeStyle};

use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

struct Case {
    rows: usize,
    heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    style: RopeStyle,
    positions: Vec<i32>,
    table: Vec<f32>,
    x: Vec<f32>,
}

fn run<B: Backend>(s: &mut Subject<B>, c: &Case) -> Vec<f32> {
    let positions = s.indices(&c.positions);
    let table = s.exact(&c.table);
    let mut x = s.target(&c.x);
    let p = Rope {
        positions: &positions,
        table: &table,
        rows: c.rows,
        heads: c.heads,
        head_dim: c.head_dim,
        rotary_dim: c.rotary_dim,
        style: c.style,
    };
    s.backend.rope(&mut s.stream, &mut x, &p).expect("rope");
    s.result(&x, c.x.len())
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

/// Every head width, share of it that is rotated, style, and number of heads and tokens.
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
    for (head_dim, rotary_dim) in shapes {
        let table = table(max, rotary_dim);
        for style in [RopeStyle::Split, RopeStyle::Interleaved] {
            for heads in [1, 3, 4, 9] {
                for rows in [0, 1, 2, 5, 23, 33] {
                    let positions = (0..rows).map(|t| match t {
                        0 => max as i32 - 1,
                        _ => rng.below(max) as i32,
                    });
                    let positions = positions.collect();
                    let x = rng.normals(rows * heads * head_dim, 1.0);
                    let table = table.clone();
                    let c = Case { rows, heads, head_dim, rotary_dim, style, positions, table, x };
                    let want = run(&mut oracle(), &c);
                    let bound = |i: usize| {
                        let (start, at) = (i - i % head_dim, i % head_dim);
                        let partner = match style {
                            _ if at >= rotary_dim => return 0.0,
                            RopeStyle::Split => (at + rotary_dim / 2) % rotary_dim,
                            RopeStyle::Interleaved => at ^ 1,
                        };
                        4e-7 * f64::from(c.x[i].abs() + c.x[start + partner].abs())
                    };
                    for s in &mut *subjects {
                        let got = run(s, &c);
                        let case = (head_dim, rotary_dim, style, heads, rows);
                        report.compare(s, &case, &got, &want, bound);
                    }
                }
            }
        }
    }
    report.finish();
}
