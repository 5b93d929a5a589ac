//! Drawing tokens from logits.
//!
//! Weights are rounded, so that a draw just at the border of two tokens, or a filter just at the border
//! of a set, may go either way. So a result must be one that the oracle gives for the draw itself or
//! for one that is almost the same; and few draws may lie that near to a border.

use ferrum_kernels::draw::{Adjustment, Draw, DrawBatch, DrawError, DrawSizes, Drawn, RowDraw};
use ferrum_kernels::params::Sample;
use ferrum_kernels::{Backend, DType, Result};

use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

/// What lies behind results, and must stay.
const SENTINEL: i32 = i32::MIN;
const GUARD: usize = 5;

/// Rows of logits and their draws.
#[derive(Clone)]
pub struct Case {
    pub vocab: usize,
    pub logits: Vec<f32>,
    pub draws: Vec<Draw>,
    pub masks: Vec<Option<Vec<u32>>>,
    /// Of each row.
    pub adjust: Vec<Vec<Adjustment>>,
    pub scale: f32,
    pub softcap: Option<f32>,
}

impl Case {
    pub fn new(vocab: usize, logits: Vec<f32>, draws: &[Draw]) -> Case {
        let (masks, adjust) = (vec![None; draws.len()], vec![Vec::new(); draws.len()]);
        Case { vocab, logits, draws: draws.to_vec(), masks, adjust, scale: 1.0, softcap: None }
    }

    pub fn run<B: Backend>(&self, s: &mut Subject<B>) -> Vec<Drawn> {
        let rows = self.draws.len();
        let masked = self.masks.iter().flatten().count();
        let adjusted = self.adjust.iter().map(Vec::len).sum();
        let sizes = DrawSizes { rows: rows + 2, masks: masked, adjusted, vocab: self.vocab };
        let mut batch = DrawBatch::new(&s.backend, sizes).expect("memory");
        let of = |row: usize| {
            let (mask, adjust) = (self.masks[row].as_deref(), self.adjust[row].as_slice());
            Some(RowDraw { draw: self.draws[row], mask, adjust, ..RowDraw::default() })
        };
        let draws: Vec<_> = (0..rows).map(of).collect();
        batch.upload(&s.backend, &mut s.stream, &draws).expect("good draws");
        let logits = s.operand(&self.logits);
        let mut dst = s.backend.alloc(DType::I32, rows + GUARD).expect("memory");
        let before = vec![SENTINEL; rows + GUARD];
        s.backend.upload_i32(&mut s.stream, &before, &mut dst).expect("fits");
        let (vocab, scale, softcap) = (self.vocab, self.scale, self.softcap);
        let p = Sample { logits: &logits, draws: &batch, rows, vocab, scale, softcap };
        s.backend.sample(&mut s.stream, &mut dst, &p).expect("sample");
        let mut all = vec![0; rows + GUARD];
        s.backend.download_i32(&mut s.stream, &dst, &mut all).expect("fits");
        assert!(all[rows..].iter().all(|&v| v == SENTINEL), "{} wrote past the end", s.label);
        all[..rows].iter().map(|&token| Drawn(token)).collect()
    }

    /// The same with draws that are almost those.
    fn nearly(&self, change: impl Fn(&mut Draw)) -> Case {
        let mut case = self.clone();
        case.draws.iter_mut().for_each(change);
        case
    }

    /// For each row, what may come: of the draw itself first.
    fn expected(&self) -> Vec<Vec<Drawn>> {
        const NEAR: f64 = 2e-5;
        let near = |x: f32, by: f64| (f64::from(x) * (1.0 + by)).clamp(1e-30, 1.0) as f32;
        let unit = 0.5f64.powi(53);
        let moved = |u: f64, by: f64| ((u + by).clamp(0.0, 1.0 - unit) / unit).floor() * unit;
        let mut cases = vec![self.clone()];
        for sign in [-NEAR, NEAR] {
            for border in [-NEAR, 0.0, NEAR] {
                cases.push(self.nearly(|d| {
                    d.uniform = moved(d.uniform, sign);
                    d.top_p = if d.top_p < 1.0 { near(d.top_p, border).min(1.0) } else { 1.0 };
                    d.min_p = if d.min_p > 0.0 { near(d.min_p, border) } else { 0.0 };
                }));
            }
        }
        let results: Vec<_> = cases.iter().map(|case| case.run(&mut oracle())).collect();
        (0..self.draws.len()).map(|row| results.iter().map(|r| r[row]).collect()).collect()
    }

    /// Holds every backend against the oracle. Returns how many draws lay near a border.
    pub fn check<B: Backend>(&self, subjects: &mut [Subject<B>], report: &mut Report) -> usize {
        let expected = self.expected();
        for s in subjects {
            let got = self.run(s);
            for (row, (got, expected)) in got.iter().zip(&expected).enumerate() {
                if !expected.contains(got) {
                    let (draw, first) = (self.draws[row], expected[0]);
                    let what = format!("{} of {}: {got:?} not {first:?}", s.label, self.vocab);
                    let (masked, adjusted) = (self.masks[row].is_some(), self.adjust[row].len());
                    report.fail(format!("{what}: {draw:?}, masked: {masked}, {adjusted} adjusted"));
                }
            }
        }
        expected.iter().filter(|all| all.iter().any(|other| *other != all[0])).count()
    }
}

/// Draws with every combination of filters.
pub fn draws(rng: &mut Rng, most: usize) -> Vec<Draw> {
    let mut draws = vec![Draw::GREEDY, Draw { top_k: 5, top_p: 0.5, ..Draw::GREEDY }];
    for top_k in [0, 1, 2, 7, 40, 64, 1000] {
        for top_p in [1.0, 0.95, 0.5, 0.01] {
            for (min_p, temperature) in [(0.0, 1.0), (0.05, 0.7), (0.0, 3.0), (1.0, 0.2)] {
                let uniform = (rng.next() >> 11) as f64 * 0.5f64.powi(53);
                draws.push(Draw { temperature, top_k, top_p, min_p, uniform });
            }
        }
    }
    rng.shuffle(&mut draws[2..]);
    draws.truncate(most);
    draws
}

/// A mask that lets `share` of the tokens through.
pub fn mask(rng: &mut Rng, vocab: usize, share: f32) -> Vec<u32> {
    let word = |rng: &mut Rng| (0..32).fold(0, |w, b| w | u32::from(rng.uniform() < share) << b);
    (0..vocab.div_ceil(32)).map(|_| word(rng)).collect()
}

pub fn samples_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(91);
    let (mut near, mut all) = (0, 0);
    for (vocab, rows) in [
        (1, 9),
        (2, 40),
        (3, 60),
        (31, 60),
        (32, 60),
        (33, 114),
        (1000, 114),
        (49_152, 12),
        (262_144, 4),
    ] {
        for (scale, softcap) in [(1.0, None), (0.25, None), (1.0, Some(12.0))] {
            if softcap.is_some() && vocab > 50_000 {
                continue;
            }
            let draws = draws(&mut rng, rows);
            // From sharp to flat.
            let width = |rng: &mut Rng| 0.5 + 3.0 * rng.uniform() / scale;
            let logits: Vec<f32> = (0..draws.len())
                .flat_map(|_| {
                    let width = width(&mut rng);
                    rng.normals(vocab, width)
                })
                .collect();
            let mut case = Case { scale, softcap, ..Case::new(vocab, logits, &draws) };
            for (row, masked) in case.masks.iter_mut().enumerate() {
                // The last may let nothing through, in small vocabularies.
                *masked = match row % 4 {
                    0 => Some(mask(&mut rng, vocab, 0.5)),
                    1 => Some(mask(&mut rng, vocab, 0.03)),
                    _ => None,
                };
            }
            near += case.check(subjects, &mut report);
            all += case.draws.len();
        }
    }
    assert!(near * 20 < all, "{near} of {all} draws are near a border");
    report.finish();
}

/// Equal logits are told apart by their numbers, the two zeroes are equal, and many impossible tokens
/// and weights that vanish do no harm.
pub fn samples_with_many_equal_logits<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(92);
    for vocab in [5, 33, 700, 5000] {
        type Kind = fn(&mut Rng) -> f32;
        let kinds: [Kind; 6] = [
            |_| 1.5,
            |rng| rng.below(4) as f32,
            |rng| [0.0, -0.0][rng.below(2)],
            |rng| [f32::NEG_INFINITY, -3e38, 1.0, 1.0 + f32::EPSILON][rng.below(4)],
            |rng| -100.0 * rng.uniform(),
            |rng| 3e38 + 1e31 * rng.below(50) as f32,
        ];
        for kind in kinds {
            let draws = draws(&mut rng, 60);
            let mut logits: Vec<f32> = (0..vocab * draws.len()).map(|_| kind(&mut rng)).collect();
            // At least one token is possible.
            logits
                .chunks_exact_mut(vocab)
                .for_each(|row| row[vocab - 1] = row[vocab - 1].max(-1e30));
            Case::new(vocab, logits, &draws).check(subjects, &mut report);
        }
    }
    report.finish();
}

/// NaN is an error wherever it stands, plus infinity where the token may come, and so is no token.
pub fn samples_of_what_is_no_number<B: Backend>(subjects: &mut [Subject<B>]) {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let wrong = |token| Err(DrawError::NotANumber { token });
    let even = Some(vec![0x5555_5555u32; 2]);
    let none = Some(vec![0u32; 2]);
    let row = |at: &[(usize, f32)]| {
        let mut row: Vec<f32> = (0..40).map(|i| (i % 7) as f32).collect();
        at.iter().for_each(|&(token, value)| row[token] = value);
        row
    };
    let cases = [
        (row(&[(7, nan), (3, -nan)]), None, wrong(3)),
        (row(&[(39, nan)]), even.clone(), wrong(39)),
        (row(&[(0, inf)]), None, wrong(0)),
        (row(&[(38, inf), (39, nan)]), even.clone(), wrong(38)),
        (row(&[(1, inf), (39, -inf)]), even.clone(), Ok(6)),
        (row(&[]), none.clone(), Err(DrawError::NoToken)),
        (row(&[(5, nan)]), none, wrong(5)),
        (vec![-inf; 40], None, Err(DrawError::NoToken)),
        (row(&[(0, 1e30)]), None, Ok(0)),
        // A mask that ends early bars what comes behind it.
        (row(&[(39, 1e30), (20, 1e20)]), Some(vec![u32::MAX]), Ok(20)),
    ];
    for temperature in [0.0, 1e-3] {
        let draw = Draw { temperature, top_k: 1, ..Draw::GREEDY };
        let logits = cases.iter().flat_map(|(row, ..)| row.clone()).collect();
        let mut case = Case::new(40, logits, &[draw; 10]);
        case.masks = cases.iter().map(|(_, mask, _)| mask.clone()).collect();
        for s in &mut *subjects {
            let got: Vec<_> = case.run(s).into_iter().map(Drawn::token).collect();
            let expected: Vec<_> = cases.iter().map(|&(_, _, expected)| expected).collect();
            assert_eq!(got, expected, "{}", s.label);
        }
    }
}

/// Probabilities 1/8, 2/8, 5/8, and what filters leave of them.
pub fn samples_worked_by_hand<B: Backend>(subjects: &mut [Subject<B>]) {
    let free = Draw { temperature: 1.0, ..Draw::GREEDY };
    let cases = [
        (Draw::GREEDY, 2),
        (Draw { uniform: 0.12, ..free }, 0),
        (Draw { uniform: 0.13, ..free }, 1),
        (Draw { uniform: 0.37, ..free }, 1),
        (Draw { uniform: 0.38, ..free }, 2),
        (Draw { uniform: 1.0 - 0.5f64.powi(53), ..free }, 2),
        // 2/7 and 5/7.
        (Draw { top_k: 2, uniform: 0.0, ..free }, 1),
        (Draw { top_k: 2, uniform: 0.28, ..free }, 1),
        (Draw { top_k: 2, uniform: 0.29, ..free }, 2),
        (Draw { top_p: 0.62, uniform: 0.0, ..free }, 2),
        (Draw { top_p: 0.63, uniform: 0.0, ..free }, 1),
        // Of what top-k left, 5/7 is the mass of one.
        (Draw { top_k: 2, top_p: 0.71, uniform: 0.0, ..free }, 2),
        (Draw { top_k: 2, top_p: 0.72, uniform: 0.0, ..free }, 1),
        (Draw { min_p: 0.39, uniform: 0.0, ..free }, 1),
        (Draw { min_p: 0.41, uniform: 0.0, ..free }, 2),
        // Weights 1, 4, 25.
        (Draw { temperature: 0.5, uniform: 0.03, ..free }, 0),
        (Draw { temperature: 0.5, uniform: 0.04, ..free }, 1),
        (Draw { temperature: 0.5, uniform: 0.17, ..free }, 2),
    ];
    let row = [1.0f32, 2.0, 5.0].map(f32::ln);
    let draws: Vec<Draw> = cases.iter().map(|&(draw, _)| draw).collect();
    let case = Case::new(3, row.repeat(cases.len()), &draws);
    for s in subjects {
        for (got, (draw, expected)) in case.run(s).into_iter().zip(&cases) {
            assert_eq!(got, Drawn(*expected), "{}: {draw:?}", s.label);
        }
        // A cap of 1 on ±10 and more makes nearly equal what is far apart; the last is the highest.
        let draw = Draw { uniform: 0.5, ..free };
        let mut case = Case::new(4, vec![-10.0, 10.0, 10.0, 20.0], &[draw, Draw::GREEDY]);
        case.logits.extend(case.logits.clone());
        assert_eq!(case.run(s), [Drawn(3), Drawn(3)], "{}", s.label);
        case.softcap = Some(1.0);
        assert_eq!(case.run(s), [Drawn(2), Drawn(1)], "{}: all three at the cap", s.label);
    }
}

/// What a test of refusals spoils.
#[derive(Clone, Copy)]
struct Sizes {
    logits: usize,
    dst: usize,
    rows: usize,
    vocab: usize,
    scale: f32,
    softcap: Option<f32>,
    dtypes: [DType; 2],
}

pub fn wrong_samples_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    let (f, i) = (DType::F32, DType::I32);
    let sizes = DrawSizes { rows: 1, masks: 1, adjusted: 0, vocab: 33 };
    let good = Sizes {
        logits: 66,
        dst: 2,
        rows: 2,
        vocab: 33,
        scale: 1.0,
        softcap: Some(1.0),
        dtypes: [f, i],
    };
    let spoilt = [
        Sizes { logits: 65, ..good },
        Sizes { dst: 1, ..good },
        Sizes { rows: 3, logits: 99, dst: 3, ..good },
        Sizes { vocab: 0, ..good },
        Sizes { vocab: usize::MAX / 2, ..good },
        Sizes { rows: usize::MAX, ..good },
        Sizes { scale: f32::NAN, ..good },
        Sizes { softcap: Some(0.0), ..good },
        Sizes { softcap: Some(f32::NAN), ..good },
        Sizes { dtypes: [i, i], ..good },
        Sizes { dtypes: [f, f], ..good },
    ];
    for s in subjects {
        let run = |s: &mut Subject<B>, z: Sizes| -> Result<()> {
            let mut draws = DrawBatch::new(&s.backend, DrawSizes { rows: 2, ..sizes })?;
            let mask = [u32::MAX; 2];
            let masked = RowDraw { mask: Some(&mask), ..RowDraw::default() };
            draws.upload(&s.backend, &mut s.stream, &[None, Some(masked)])?;
            let logits = s.backend.alloc(z.dtypes[0], z.logits)?;
            let mut dst = s.backend.alloc(z.dtypes[1], z.dst)?;
            let Sizes { rows, vocab, scale, softcap, .. } = z;
            let p = Sample { logits: &logits, draws: &draws, rows, vocab, scale, softcap };
            s.backend.sample(&mut s.stream, &mut dst, &p)
        };
        run(s, good).unwrap_or_else(|e| panic!("{}: {e}", s.label));
        for (n, z) in spoilt.into_iter().enumerate() {
            assert!(run(s, z).is_err(), "{}: accepted case {n}", s.label);
        }
        // Masks of another vocabulary, numbers of masks that are not there, and too many rows.
        assert!(run(s, Sizes { vocab: 20, logits: 40, ..good }).is_err(), "{}", s.label);
        let mut draws = DrawBatch::new(&s.backend, sizes).expect("memory");
        let row = Some(RowDraw::default());
        assert!(draws.upload(&s.backend, &mut s.stream, &[row, row]).is_err());
        draws.upload(&s.backend, &mut s.stream, &[row]).expect("fits");
        let ints = [0, 0, 0, 0, -1, -1, 0, 0];
        s.backend.upload_i32(&mut s.stream, &ints, &mut draws.ints).expect("fits");
        let logits = s.exact(&[0.0; 33]);
        let mut dst = s.backend.alloc(i, 1).expect("memory");
        let p = Sample {
            logits: &logits,
            draws: &draws,
            rows: 1,
            vocab: 33,
            scale: 1.0,
            softcap: None,
        };
        assert!(s.backend.sample(&mut s.stream, &mut dst, &p).is_err(), "{}", s.label);
    }
}
