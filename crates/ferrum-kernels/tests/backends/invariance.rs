//! A token's results do not depend on what else is in the step, nor on the number of threads: they
//! are the same to the bit. This is what makes a greedy answer the same alone and in any batch,
//! however its prompt was cut into chunks.

use ferrum_kernels::cpu::Cpu;
use ferrum_kernels::params::{Activation, KvValues};
use ferrum_kernels::{Backend, Format, KvDType};

use crate::attention::{self, attend, poisoned};
use crate::common::{Pattern, Rng, WeightBytes};
use crate::gated_linear;
use crate::harness::{Report, Subject};
use crate::linear::{self, Inputs, Output};

/// Each row of a linear, alone and with others; each output, alone and with others.
pub fn linear_rows_and_outputs_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    linear_rows_among(subjects, 37, &[1, 2, 3, 4, 6, 8, 12]);
}

/// The same of few rows (up to 8), and of many (up to 64, and more): for a backend whose kernels for
/// these differ by rounding.
pub fn few_linear_rows_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    linear_rows_among(subjects, 8, &[1, 2, 3, 4, 6]);
}

/// See [`few_linear_rows_are_independent`].
pub fn many_linear_rows_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    linear_rows_among(subjects, 37, &[9, 12]);
    linear_rows_among(subjects, 140, &[65]);
}

/// Compares `rows` rows at once with `counts` of them.
fn linear_rows_among<B: Backend>(subjects: &mut [Subject<B>], rows: usize, counts: &[usize]) {
    linear_rows_of(subjects, &Format::ALL, rows, counts);
}

pub fn linear_rows_of<B: Backend>(
    subjects: &mut [Subject<B>],
    formats: &[Format],
    rows: usize,
    counts: &[usize],
) {
    let mut report = Report::new();
    let mut rng = Rng::new(81);
    let cols = 512;
    for (at, &format) in formats.iter().enumerate() {
        let x = Inputs::Normal.make(&mut rng, rows * cols);
        let formats = [format, Format::ALL[(at + 5) % Format::ALL.len()]];
        let outputs = formats.map(|format| Output {
            weight: WeightBytes::new(&mut rng, format, 41, cols, Pattern::Random),
            bias: Some(rng.normals(41, 1.0)),
            before: rng.normals(rows * 41, 1.0),
            accumulate: true,
        });
        for s in &mut *subjects {
            let packed: Vec<_> = outputs.iter().map(|o| s.pack(&o.weight)).collect();
            let want = linear::run(s, rows, &x, &outputs, &packed);
            for &count in counts {
                for from in (0..=rows - count).step_by(count) {
                    let mut part = Output { before: vec![], ..outputs[0].clone() };
                    part.before.extend(&outputs[0].before[from * 41..(from + count) * 41]);
                    let x = &x[from * cols..(from + count) * cols];
                    let got = linear::run(s, count, x, &[part], &packed[..1]);
                    let want = &want[0][from * 41..(from + count) * 41];
                    report.compare(s, &(format, from, count), &got[0], want, |_| 0.0);
                }
            }
        }
    }
    report.finish();
}

/// Each row of a gated linear, alone and with others.
pub fn gated_linear_rows_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    gated_linear_rows_among(subjects, 21, &[1, 4, 5]);
}

/// As [`few_linear_rows_are_independent`].
pub fn few_gated_linear_rows_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    gated_linear_rows_among(subjects, 8, &[1, 5]);
}

/// As [`few_linear_rows_are_independent`].
pub fn many_gated_linear_rows_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    gated_linear_rows_among(subjects, 30, &[10, 17]);
    gated_linear_rows_among(subjects, 140, &[65]);
}

/// Compares `rows` rows at once with `counts` of them.
fn gated_linear_rows_among<B: Backend>(subjects: &mut [Subject<B>], rows: usize, counts: &[usize]) {
    let mut report = Report::new();
    let mut rng = Rng::new(82);
    let (cols, n) = (256, 40);
    for format in Format::ALL {
        let mut weight = || WeightBytes::new(&mut rng, format, n, cols, Pattern::Random);
        let (gate, up) = (weight(), weight());
        let c = gated_linear::Case {
            rows,
            x: Inputs::Normal.make(&mut rng, rows * cols),
            gate,
            up,
            activation: Activation::Silu,
        };
        for s in &mut *subjects {
            let want = gated_linear::run(s, &c);
            for &count in counts {
                for from in (0..=rows - count).step_by(count) {
                    let x = c.x[from * cols..(from + count) * cols].to_vec();
                    let part = gated_linear::Case { rows: count, x, ..c.clone() };
                    let got = gated_linear::run(s, &part);
                    let want = &want[from * n..(from + count) * n];
                    report.compare(s, &(format, from, count), &got, want, |_| 0.0);
                }
            }
        }
    }
    report.finish();
}

/// Each sequence, alone and with others, over contexts whose work may be split.
pub fn attention_of_sequences_is_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(83);
    let seqs = vec![(1199, 1), (0, 40), (500, 7), (31, 1), (640, 1), (2047, 1)];
    for kv in KvDType::ALL {
        for (kv_heads, group, window, values) in [
            (1, 4, None, KvValues::Own),
            (3, 3, None, KvValues::Own),
            (2, 1, Some(300), KvValues::Own),
            (1, 4, None, KvValues::PrefixOfKey(32)),
        ] {
            let c = attention::Case {
                kv,
                head_dim: 64,
                values,
                kv_heads,
                group,
                scale: 1.0,
                window,
                softcap: None,
                sinks: window.map(|_| 1.0),
                seqs: seqs.clone(),
            };
            let w = c.world(&mut rng);
            for s in &mut *subjects {
                let together = attention::run(s, &c, &w);
                let mut from = 0;
                for (i, &(before, new)) in seqs.iter().enumerate() {
                    let mut cache = poisoned(s, &c, &w);
                    let mut spans = vec![(0, 0); seqs.len()];
                    spans[i] = (0, before);
                    attention::write(s, &c, &w, &mut cache, &spans);
                    spans[i] = (before, before + new);
                    let alone = attend(s, &c, &w, &mut cache, &spans);
                    let want = &together[from..from + alone.len()];
                    report.compare(s, &(kv, kv_heads, group, values, i), &alone, want, |_| 0.0);
                    from += alone.len();
                }
            }
        }
    }
    report.finish();
}

/// The same on one thread and on two. `subjects` come in pairs that differ in nothing else.
pub fn threads_do_not_change_results(subjects: &mut [Subject<Cpu>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(84);
    for (format, rows) in Format::ALL.into_iter().flat_map(|f| [(f, 1), (f, 19)]) {
        let x = Inputs::Normal.make(&mut rng, rows * 768);
        let output = Output {
            weight: WeightBytes::new(&mut rng, format, 200, 768, Pattern::Random),
            bias: None,
            before: vec![0.0; rows * 200],
            accumulate: false,
        };
        let outputs = [output];
        for pair in subjects.chunks_mut(2) {
            let mut results = pair.iter_mut().map(|s| {
                let packed = [s.pack(&outputs[0].weight)];
                linear::run(s, rows, &x, &outputs, &packed).remove(0)
            });
            let (one, two) = (results.next().expect("one"), results.next().expect("two"));
            drop(results);
            report.compare(&pair[1], &(format, rows), &two, &one, |_| 0.0);
        }
    }
    for seqs in [vec![(1500, 1)], vec![(0, 90), (700, 1), (3, 1)]] {
        let c = attention::Case { group: 3, seqs, ..attention::Case::plain(KvDType::F16, 128) };
        let w = c.world(&mut rng);
        for pair in subjects.chunks_mut(2) {
            let one = attention::run(&mut pair[0], &c, &w);
            let two = attention::run(&mut pair[1], &c, &w);
            report.compare(&pair[1], &c, &two, &one, |_| 0.0);
        }
    }
    report.finish();
}
