//! `gather_rows`, `scatter_add` and `gate`. Values are copied, or added or multiplied once.

use ferrum_kernels::params::ScatterAdd;
use ferrum_kernels::params::{Activation, Gate, GatedLinear, GatherRows, Linear, LinearOutput};
use ferrum_kernels::{Backend, Format};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::{Report, Subject};

/// Every number of rows and width; rows that repeat.
pub fn gather_rows_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(51);
    for width in [1, 3, 8, 100, 576] {
        for height in [1, 2, 7, 33] {
            for count in [0, 1, 2, 5, 40] {
                let values = rng.normals(height * width, 1.0);
                let rows: Vec<i32> = (0..count).map(|_| rng.below(height) as i32).collect();
                let want: Vec<f32> = (rows.iter())
                    .flat_map(|&r| &values[r as usize * width..][..width])
                    .copied()
                    .collect();
                for s in &mut *subjects {
                    let src = s.operand(&values);
                    let ids = s.indices(&rows);
                    let mut dst = s.target(&vec![0.0; count * width]);
                    let p = GatherRows { src: &src, rows: &ids, count, width };
                    s.backend.gather_rows(&mut s.stream, &mut dst, &p).expect("gather_rows");
                    let got = s.result(&dst, count * width);
                    report.compare(s, &(width, height, count), &got, &want, |_| 0.0);
                }
            }
        }
    }
    report.finish();
}

/// Some of the rows, and every number and width of them: the others stay as they are.
pub fn scatter_add_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(52);
    for width in [1, 3, 8, 100, 576] {
        for height in [1, 2, 7, 33, 200] {
            for every in [1, 2, 5] {
                let rows: Vec<i32> = (0..height as i32).step_by(every).collect();
                let src = rng.normals(rows.len() * width, 1.0);
                let before = rng.normals(height * width, 1.0);
                let mut want = before.clone();
                for (src, &row) in src.chunks(width).zip(&rows) {
                    let at = row as usize * width;
                    want[at..at + width].iter_mut().zip(src).for_each(|(w, s)| *w += s);
                }
                for s in &mut *subjects {
                    let (src, ids) = (s.operand(&src), s.indices(&rows));
                    let mut dst = s.target(&before);
                    let p = ScatterAdd { src: &src, rows: &ids, count: rows.len(), width };
                    s.backend.scatter_add(&mut s.stream, &mut dst, &p).expect("scatter_add");
                    let got = s.result(&dst, want.len());
                    report.compare(s, &(width, height, every), &got, &want, |_| 0.0);
                }
            }
        }
    }
    report.finish();
}

/// Rows that are not there, or not in order, and short buffers.
pub fn wrong_scatters_and_gates_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        for (rows, count, width, ok) in [
            (vec![0, 2], 2, 4, true),
            (vec![0, 3], 2, 4, false),
            (vec![-1, 2], 2, 4, false),
            (vec![1, 1], 2, 4, false),
            (vec![2, 0], 2, 4, false),
            (vec![0, 2], 2, 0, false),
            (vec![0, 2], 2, usize::MAX, false),
        ] {
            let (src, ids) = (s.exact(&[1.0; 8]), s.indices(&rows));
            let mut dst = s.exact(&[0.0; 12]);
            let p = ScatterAdd { src: &src, rows: &ids, count, width };
            let result = s.backend.scatter_add(&mut s.stream, &mut dst, &p);
            assert_eq!(result.is_ok(), ok, "{rows:?} {count} {width}: {result:?}");
        }
        let (up, short) = (s.exact(&[1.0; 12]), s.exact(&[1.0; 5]));
        for (up, rows, width, ok) in [
            (&up, 3, 4, true),
            (&short, 3, 4, false),
            (&up, 4, 4, false),
            (&up, 2, usize::MAX, false),
        ] {
            let mut x = s.exact(&[0.0; 12]);
            let p = Gate { up, rows, width, activation: Activation::Silu };
            assert_eq!(s.backend.gate(&mut s.stream, &mut x, &p).is_ok(), ok, "{rows} x {width}");
        }
    }
}

/// Two linears and a gate make what a gated linear makes: on one backend to the bit, but for the
/// oracle, which rounds once where these round twice.
pub fn a_gate_after_linears_is_a_gated_linear<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(53);
    for format in [Format::F32, Format::Q4_K, Format::Q8_0] {
        for (rows, width) in [(1, 7), (3, 48), (9, 131), (40, 530)] {
            let x = rng.normals(rows * 256, 1.0);
            let weights =
                [0, 1].map(|_| WeightBytes::new(&mut rng, format, width, 256, Pattern::Random));
            for activation in Activation::ALL {
                for s in &mut *subjects {
                    let [gate, up] = [0, 1].map(|i| s.pack(&weights[i]));
                    let input = s.operand(&x);
                    let zeros = vec![0.0; rows * width];
                    let (mut whole, mut dst, mut second) =
                        (s.target(&zeros), s.target(&zeros), s.target(&zeros));
                    let p = GatedLinear { input: &input, rows, gate: &gate, up: &up, activation };
                    s.backend.gated_linear(&mut s.stream, &mut whole, &p).expect("gated_linear");
                    let out =
                        |weight, dst| LinearOutput { weight, bias: None, dst, accumulate: false };
                    let outputs = &mut [out(&gate, &mut dst), out(&up, &mut second)];
                    let p = Linear { input: &input, rows, outputs };
                    s.backend.linear(&mut s.stream, p).expect("linear");
                    let p = Gate { up: &second, rows, width, activation };
                    s.backend.gate(&mut s.stream, &mut dst, &p).expect("gate");
                    let (got, want) = (s.result(&dst, zeros.len()), s.result(&whole, zeros.len()));
                    let rounded = if s.backend.name() == "reference" { 1e-5 } else { 0.0 };
                    let bound = |i: usize| rounded * f64::from(want[i].abs()) + rounded;
                    report.compare(s, &(format, rows, width, activation), &got, &want, bound);
                }
            }
        }
    }
    report.finish();
}
