//! `attention` over keys and values of unlike size, and of what is no number.

use ferrum_kernels::{Backend, KvDType};

use crate::attention::{Case, run};
use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

/// Sequences of few tokens and of many.
fn case(kv: KvDType, head_dim: usize) -> Case {
    Case { group: 3, seqs: vec![(300, 1), (70, 40), (0, 9)], ..Case::plain(kv, head_dim) }
}

/// Each column of 32 has values of its own size, and so has each position of three: what is small must
/// not be rounded as what is large is. Keys are as unlike, with queries that make up for it.
pub fn attention_of_unlike_columns<B: Backend>(subjects: &mut [Subject<B>]) {
    const SIZES: [f32; 4] = [1.0, 3e-3, 300.0, 0.2];
    let mut report = Report::new();
    let mut rng = Rng::new(68);
    for kv in KvDType::ALL {
        for head_dim in [64, 80, 128, 256] {
            if kv == KvDType::Q8_0 && head_dim == 80 {
                continue;
            }
            let c = case(kv, head_dim);
            let mut w = c.world(&mut rng);
            let size = |i: usize| SIZES[i % head_dim / 32 % 4];
            let place = |i: usize| [1.0, 0.01, 0.3][i / head_dim % 3];
            let scaled = |all: &mut Vec<Vec<f32>>, by: &dyn Fn(usize) -> f32| {
                all.iter_mut().for_each(|x| x.iter_mut().enumerate().for_each(|(i, x)| *x *= by(i)))
            };
            scaled(&mut w.v, &|i| size(i) * place(i));
            scaled(&mut w.k, &size);
            scaled(&mut w.q, &|i| 1.0 / size(i));
            let want = run(&mut oracle(), &c, &w);
            // Of values of up to 6 standard deviations; scores are what they are among equals.
            let norm = (head_dim as f64).sqrt();
            let bound = |i: usize| 6.0 * f64::from(size(i)) * (2e-6 + 3e-7 * 2.0 * norm);
            for s in &mut *subjects {
                let got = run(s, &c, &w);
                report.compare(s, &(kv, head_dim), &got, &want, bound);
            }
        }
    }
    report.finish();
}

/// Other keys and values at later positions change no bit of a token, of whatever size they are.
pub fn later_tokens_change_no_bit<B: Backend>(subjects: &mut [Subject<B>]) {
    // Tokens whose results are compared, of a prompt and of drafts; the others are behind them.
    const KEPT: [usize; 2] = [51, 2];
    let mut report = Report::new();
    let mut rng = Rng::new(70);
    for kv in KvDType::ALL {
        for head_dim in [64, 128, 256] {
            let c = Case { seqs: vec![(20, 80), (290, 7)], ..case(kv, head_dim) };
            let w = c.world(&mut rng);
            let mut other = w.clone();
            for ((i, kept), (before, _)) in KEPT.into_iter().enumerate().zip(&c.seqs) {
                for x in [&mut other.k[i], &mut other.v[i]] {
                    x[(before + kept) * head_dim..].iter_mut().for_each(|x| *x *= 100.0);
                }
            }
            let width = c.q_width();
            for s in &mut *subjects {
                let results = [run(s, &c, &w), run(s, &c, &other)];
                let [want, got] = results.map(|rows| {
                    let (prompt, drafts) = rows.split_at(80 * width);
                    [&prompt[..KEPT[0] * width], &drafts[..KEPT[1] * width]].concat()
                });
                report.compare(s, &(kv, head_dim), &got, &want, |_| 0.0);
            }
        }
    }
    report.finish();
}

/// What is no number in a key or a value is seen in the results of all that look at it.
pub fn attention_of_what_is_no_number<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut rng = Rng::new(69);
    for kv in KvDType::ALL {
        for (bad, in_keys) in [(f32::NAN, true), (f32::NAN, false), (f32::INFINITY, false)] {
            let c = case(kv, 64);
            let mut w = c.world(&mut rng);
            for (x, &(before, _)) in
                [&mut w.k, &mut w.v][usize::from(!in_keys)].iter_mut().zip(&c.seqs)
            {
                x[before * 64 + 5] = bad;
            }
            for s in &mut *subjects {
                let got = run(s, &c, &w);
                // Every token of the step sees the first one's.
                let heads = got.chunks(64);
                let hidden = heads.filter(|head| head[5].is_finite()).count();
                assert_eq!(hidden, 0, "{}: {kv:?}, {bad}, in keys: {in_keys}", s.label);
            }
        }
    }
}
