//! `embed`: every format of the table.
//!
//! The bound: a table may be packed for `linear`, and its values put together in another order than
//! plain dequantisation does; 1e-6 of the largest value of the row allows for that rounding.

use ferrum_kernels::params::Embed;
use ferrum_kernels::{Backend, Format};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::{Report, Subject, oracle};
use crate::linear::{ROWS, widths};

fn run<B: Backend>(s: &mut Subject<B>, w: &WeightBytes, tokens: &[i32], scale: f32) -> Vec<f32> {
    let table = s.pack(w);
    let ids = s.indices(tokens);
    let len = tokens.len() * w.cols;
    let mut dst = s.target(&vec![f32::NAN; len]);
    let p = Embed { table: &table, tokens: &ids, rows: tokens.len(), scale, accumulate: false };
    s.backend.embed(&mut s.stream, &mut dst, &p).expect("embed");
    s.result(&dst, len)
}

/// Every format, number of tokens and width; heights that are no multiple of a kernel's tile.
pub fn embed_of_every_format<B: Backend>(subjects: &mut [Subject<B>]) {
    embed_of(subjects, &Format::ALL);
}

pub fn embed_of<B: Backend>(subjects: &mut [Subject<B>], formats: &[Format]) {
    let mut report = Report::new();
    let mut rng = Rng::new(21);
    for &format in formats {
        for &cols in widths(format) {
            for vocab in [1, 8, 29, 130] {
                let pattern = match vocab {
                    8 => Pattern::Bytes(if format == Format::F8_E4M3 { 0xfe } else { 0xff }),
                    _ => Pattern::Random,
                };
                let w = WeightBytes::new(&mut rng, format, vocab, cols, pattern);
                for rows in ROWS {
                    let mut tokens: Vec<i32> = (0..rows).map(|_| rng.below(vocab) as i32).collect();
                    // The last row is the one beside the padding of a packed table.
                    tokens[rows / 2] = vocab as i32 - 1;
                    let scale = [1.0, 24.0, -0.3][rows % 3];
                    let want = run(&mut oracle(), &w, &tokens, scale);
                    let largest: Vec<f64> = (want.chunks(cols))
                        .map(|r| r.iter().fold(0.0, |m, &v| f64::max(m, f64::from(v).abs())))
                        .collect();
                    for s in &mut *subjects {
                        let got = run(s, &w, &tokens, scale);
                        let case = (format, rows, cols, vocab, scale);
                        report.compare(s, &case, &got, &want, |i| 1e-6 * largest[i / cols]);
                    }
                }
            }
        }
    }
    report.finish();
}

/// Rows are added to what was there, those of every format.
pub fn embed_adds_up<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut rng = Rng::new(22);
    for format in Format::ALL {
        let w = WeightBytes::new(&mut rng, format, 11, 256, Pattern::Random);
        let tokens = [10, 0, 7, 10];
        let before = rng.normals(tokens.len() * w.cols, 1.0);
        for s in &mut *subjects {
            let plain = run(s, &w, &tokens, 0.5);
            let (table, ids) = (s.pack(&w), s.indices(&tokens));
            let mut dst = s.target(&before);
            let p = Embed { table: &table, tokens: &ids, rows: 4, scale: 0.5, accumulate: true };
            s.backend.embed(&mut s.stream, &mut dst, &p).expect("embed");
            let got = s.result(&dst, before.len());
            for ((got, plain), before) in got.iter().zip(&plain).zip(&before) {
                let want = before + plain;
                let near = (got - want).abs() <= 2e-7 * (before.abs() + plain.abs());
                assert!(near, "{} {format}: {got}, not {want}", s.label);
            }
        }
    }
}
