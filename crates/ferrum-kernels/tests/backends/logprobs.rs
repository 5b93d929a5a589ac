//! Log-probabilities: tokens are those of the oracle, values almost.

use ferrum_kernels::draw::{
    Adjustment, DrawBatch, DrawError, DrawSizes, LOGPROB_ENTRIES, LogprobBatch, MOST_LOGPROBS,
    RowDraw, Scored,
};
use ferrum_kernels::params::Logprobs;
use ferrum_kernels::{Backend, DType, Result};

use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

/// Of values whose sums are rounded to 2⁻⁴⁰ of the largest, and which go through `tanh` and `exp`.
const BOUND: f32 = 4e-6;

/// Rows of logits, the tokens that came, and what is wanted.
struct Case {
    vocab: usize,
    logits: Vec<f32>,
    came: Vec<i32>,
    wanted: Vec<Option<usize>>,
    scale: f32,
    softcap: Option<f32>,
}

impl Case {
    fn run<B: Backend>(&self, s: &mut Subject<B>) -> Vec<Option<Scored>> {
        let rows = self.came.len();
        // They change what is drawn, and no log-probability.
        let adjust = [Adjustment { repetition: 2.0, subtract: 1.0, ..Adjustment::bias(0, 30.0) }];
        let row = |&logprobs: &Option<usize>| {
            Some(RowDraw { logprobs, adjust: &adjust, ..RowDraw::default() })
        };
        let wanted: Vec<_> = self.wanted.iter().map(row).collect();
        let sizes = DrawSizes { rows: rows + 1, masks: 0, adjusted: rows, vocab: self.vocab };
        let mut draws = DrawBatch::new(&s.backend, sizes).expect("memory");
        draws.upload(&s.backend, &mut s.stream, &wanted).expect("good draws");
        let logits = s.operand(&self.logits);
        let mut came = s.backend.alloc(DType::I32, rows + 1).expect("memory");
        s.backend.upload_i32(&mut s.stream, &self.came, &mut came).expect("fits");
        let mut dst = LogprobBatch::new(&s.backend, rows + 1).expect("memory");
        let before = vec![i32::MIN; (rows + 1) * LOGPROB_ENTRIES];
        s.backend.upload_i32(&mut s.stream, &before, &mut dst.tokens).expect("fits");
        let (vocab, scale, softcap) = (self.vocab, self.scale, self.softcap);
        let (logits, came, draws) = (&logits, &came, &draws);
        let p = Logprobs { logits, came, draws, rows, vocab, scale, softcap, dst: &mut dst };
        s.backend.logprobs(&mut s.stream, p).expect("logprobs");
        let mut after = before;
        s.backend.download_i32(&mut s.stream, &dst.tokens, &mut after).expect("fits");
        for (row, entries) in after.chunks_exact(LOGPROB_ENTRIES).enumerate() {
            let wanted = self.wanted.get(row).copied().flatten();
            let written = wanted.map_or(0, |top| 1 + top.min(vocab));
            let kept = entries[written..].iter().all(|&token| token == i32::MIN);
            assert!(kept, "{}: row {row}: {entries:?}", s.label);
        }
        dst.download(&s.backend, &mut s.stream, &wanted, vocab).expect("fits")
    }

    fn check<B: Backend>(&self, subjects: &mut [Subject<B>], report: &mut Report) {
        let expected = self.run(&mut oracle());
        for s in subjects {
            for (got, expected) in self.run(s).iter().zip(&expected) {
                if !alike(got, expected) {
                    let what = format!("{} of {}", s.label, self.vocab);
                    report.fail(format!("{what}: {got:?} not {expected:?}"));
                }
            }
        }
    }
}

fn alike(got: &Option<Scored>, expected: &Option<Scored>) -> bool {
    let (Some(Ok(got)), Some(Ok(expected))) = (got, expected) else { return got == expected };
    let close = |a: f32, b: f32| a == b || (a - b).abs() <= BOUND * (1.0 + b.abs());
    let mut pairs = got.top.iter().zip(&expected.top);
    got.token == expected.token
        && close(got.logprob, expected.logprob)
        && got.top.len() == expected.top.len()
        && pairs.all(|(got, expected)| got.0 == expected.0 && close(got.1, expected.1))
}

pub fn logprobs_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(101);
    for (vocab, rows) in
        [(1, 3), (2, 4), (19, 6), (21, 6), (33, 9), (1024, 5), (5000, 5), (150_000, 3)]
    {
        for (scale, softcap) in [(1.0, None), (0.25, None), (1.0, Some(12.0))] {
            let width = |rng: &mut Rng| 0.5 + 3.0 * rng.uniform() / scale;
            let row = |_| {
                let width = width(&mut rng);
                rng.normals(vocab, width)
            };
            let logits: Vec<f32> = (0..rows).flat_map(row).collect();
            let came = (0..rows).map(|_| rng.below(vocab) as i32).collect();
            let wanted = [Some(20), None, Some(0), Some(7), Some(1)];
            let wanted = (0..rows).map(|row| wanted[row % 5]).collect();
            Case { vocab, logits, came, wanted, scale, softcap }.check(subjects, &mut report);
        }
    }
    report.finish();
}

/// Equal logits, of which the lower token comes first, zeroes of both signs, impossible tokens, far
/// fewer possible ones than are wanted, and values whose differences are large.
pub fn logprobs_of_extremes<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(102);
    let inf = f32::INFINITY;
    type Kind = fn(&mut Rng) -> f32;
    let kinds: [Kind; 5] = [
        |_| 1.5,
        |rng| rng.below(3) as f32,
        |rng| [0.0, -0.0][rng.below(2)],
        |rng| [f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY, 2.0][rng.below(4)],
        |rng| -300.0 * rng.uniform(),
    ];
    for vocab in [5, 40, 3000] {
        for kind in kinds {
            let mut logits: Vec<f32> = (0..4 * vocab).map(|_| kind(&mut rng)).collect();
            logits
                .chunks_exact_mut(vocab)
                .for_each(|row| row[vocab / 2] = row[vocab / 2].max(-9.0));
            // One that is outside the vocabulary.
            let came = vec![0, vocab as i32 - 1, vocab as i32 / 2, vocab as i32 + 7];
            let wanted = vec![Some(20); 4];
            let case = Case { vocab, logits, came, wanted, scale: 1.0, softcap: None };
            case.check(subjects, &mut report);
        }
    }
    report.finish();
    // What is no number, what is no token, and what was none before.
    let rows = [
        ([1.0, f32::NAN, inf, 0.0], 0, Err(DrawError::NotANumber { token: 1 })),
        ([1.0, 2.0, 3.0, inf], 0, Err(DrawError::NotANumber { token: 3 })),
        ([-inf; 4], 2, Err(DrawError::NoToken)),
        ([0.0; 4], -1, Err(DrawError::NoToken)),
        ([0.0; 4], -4, Err(DrawError::NotANumber { token: 2 })),
    ];
    let case = Case {
        vocab: 4,
        logits: rows.iter().flat_map(|(row, ..)| *row).collect(),
        came: rows.iter().map(|&(_, came, _)| came).collect(),
        wanted: vec![Some(3); rows.len()],
        scale: 1.0,
        softcap: None,
    };
    for s in subjects {
        for (got, (.., expected)) in case.run(s).iter().zip(&rows) {
            assert_eq!(got.as_ref(), Some(expected), "{}", s.label);
        }
    }
}

/// Probabilities 1/8, 2/8, 5/8.
pub fn logprobs_worked_by_hand<B: Backend>(subjects: &mut [Subject<B>]) {
    let logits = [1.0f32, 2.0, 5.0].map(f32::ln).repeat(2);
    let wanted = vec![Some(2), Some(MOST_LOGPROBS)];
    let case = Case { vocab: 3, logits, came: vec![1, 0], wanted, scale: 1.0, softcap: None };
    for s in subjects {
        let got: Vec<_> =
            case.run(s).into_iter().map(|row| row.expect("wanted").expect("good")).collect();
        let close =
            |got: f32, p: f32| assert!((got - p.ln()).abs() < 1e-6, "{}: {got}, {p}", s.label);
        for (row, (token, p), top) in
            [(&got[0], (1, 0.25), &[2, 1][..]), (&got[1], (0, 0.125), &[2, 1, 0])]
        {
            assert_eq!(row.token, token);
            close(row.logprob, p);
            assert_eq!(row.top.iter().map(|&(token, _)| token).collect::<Vec<_>>(), top);
            row.top
                .iter()
                .for_each(|&(token, got)| close(got, [0.125, 0.25, 0.625][token as usize]));
        }
    }
}

pub fn wrong_logprobs_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    /// What is spoilt: lengths of logits and of what came, rows of draws and of the result, rows, and
    /// tokens of the vocabulary.
    type Sizes = [usize; 6];
    let good: Sizes = [66, 2, 2, 2, 2, 33];
    for s in subjects {
        let run =
            |s: &mut Subject<B>, z: Sizes, (scale, softcap): (f32, Option<f32>)| -> Result<()> {
                let [logits, came, drawn, room, rows, vocab] = z;
                let sizes = DrawSizes { rows: 3, masks: 0, adjusted: 0, vocab: 33 };
                let mut draws = DrawBatch::new(&s.backend, sizes)?;
                let row = RowDraw { logprobs: Some(1), ..RowDraw::default() };
                draws.upload(&s.backend, &mut s.stream, &vec![Some(row); drawn])?;
                let logits = s.backend.alloc(DType::F32, logits)?;
                let came = s.backend.alloc(DType::I32, came)?;
                let mut dst = LogprobBatch::new(&s.backend, room)?;
                let (logits, came, draws) = (&logits, &came, &draws);
                let p =
                    Logprobs { logits, came, draws, rows, vocab, scale, softcap, dst: &mut dst };
                s.backend.logprobs(&mut s.stream, p)
            };
        run(s, good, (1.0, Some(1.0))).unwrap_or_else(|e| panic!("{}: {e}", s.label));
        for (at, wrong) in
            [(0, 65), (1, 1), (2, 1), (3, 1), (4, 3), (4, usize::MAX), (5, 20), (5, 0)]
        {
            let mut spoilt = good;
            spoilt[at] = wrong;
            let refused = run(s, spoilt, (1.0, None)).is_err();
            assert!(refused, "{}: accepted {wrong} for {at}", s.label);
        }
        for factors in [(f32::NAN, None), (1.0, Some(0.0)), (1.0, Some(f32::INFINITY))] {
            assert!(run(s, good, factors).is_err(), "{}: accepted {factors:?}", s.label);
        }
    }
}
