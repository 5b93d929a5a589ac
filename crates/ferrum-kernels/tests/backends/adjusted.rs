//! Drawing tokens from logits that are adjusted by biases and penalties.

use ferrum_kernels::draw::{
    Adjustment, Draw, DrawBatch, DrawError, DrawSizes, Drawn, RowDraw, apply_adjustments,
};
use ferrum_kernels::params::Sample;
use ferrum_kernels::{Backend, DType, Result};

use crate::common::Rng;
use crate::harness::{Report, Subject};
use crate::sample::{Case, draws, mask};

/// Adjustments of `share` of the tokens.
fn adjustments(rng: &mut Rng, vocab: usize, share: f32) -> Vec<Adjustment> {
    let mut list = Vec::new();
    for token in 0..vocab as u32 {
        if rng.uniform() < share {
            let bias = match rng.below(20) {
                0 => f32::NEG_INFINITY,
                1..10 => 2.0 * rng.normal(),
                _ => 0.0,
            };
            let repetition = [1.0, 1.3, 0.7][rng.below(3)];
            list.push(Adjustment { token, bias, repetition, subtract: 2.0 * rng.uniform() - 0.5 });
        }
    }
    list
}

/// Rows of a vocabulary with and without adjustments, some of them masked.
fn case(rng: &mut Rng, vocab: usize, rows: usize, (scale, softcap): (f32, Option<f32>)) -> Case {
    let draws = draws(rng, rows);
    let row = |rng: &mut Rng| {
        let width = 0.5 + 3.0 * rng.uniform() / scale;
        rng.normals(vocab, width)
    };
    let logits = (0..draws.len()).flat_map(|_| row(rng)).collect();
    let mut case = Case { scale, softcap, ..Case::new(vocab, logits, &draws) };
    // All tokens, some, and few; and rows without any between them.
    let shares = [1.0, 0.3, 0.0, 0.02, 0.0, 3.0 / vocab as f32];
    for row in 0..draws.len() {
        case.adjust[row] = adjustments(rng, vocab, shares[row % shares.len()]);
        case.masks[row] = (row % 4 == 1).then(|| mask(rng, vocab, 0.5));
    }
    case
}

pub fn adjusted_samples_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(111);
    let (mut near, mut all) = (0, 0);
    for (vocab, rows) in
        [(1, 9), (2, 30), (31, 60), (33, 114), (1000, 114), (49_152, 12), (262_144, 4)]
    {
        for factors in [(1.0, None), (0.25, None), (1.0, Some(12.0))] {
            if factors.1.is_some() && vocab > 40_000 {
                continue;
            }
            let case = case(&mut rng, vocab, rows, factors);
            near += case.check(subjects, &mut report);
            all += case.draws.len();
        }
    }
    assert!(near * 20 < all, "{near} of {all} draws are near a border");
    report.finish();
}

/// A backend draws the very token that it draws from rows that a host has adjusted: nothing is rounded
/// otherwise, also where a factor, a bias and penalties come together.
pub fn adjusted_samples_are_those_of_adjusted_rows<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut rng = Rng::new(112);
    for vocab in [40, 3000, 70_000] {
        let mut case = case(&mut rng, vocab, 24, (0.3, None));
        // Adjusted alike, so that nearly all logits are equal: any rounding shows.
        let row = &mut case.logits[..vocab];
        row.iter_mut().for_each(|x| *x = 1.0 + f32::EPSILON * (*x * 1e3).rem_euclid(4.0).floor());
        let one = |token| Adjustment { token, bias: 0.1, repetition: 1.3, subtract: 0.17 };
        case.adjust[0] = (0..vocab as u32).map(one).collect();
        (case.masks[0], case.draws[0]) = (None, Draw::GREEDY);
        let mut plain = Case { scale: 1.0, ..case.clone() };
        for (row, logits) in plain.logits.chunks_exact_mut(vocab).enumerate() {
            logits.iter_mut().for_each(|x| *x *= case.scale);
            apply_adjustments(std::mem::take(&mut plain.adjust[row]), logits);
        }
        for s in &mut *subjects {
            assert_eq!(case.run(s), plain.run(s), "{}: {vocab}", s.label);
        }
    }
}

/// Which of `[3, 2, 1, -1]` is the likeliest, once they are adjusted; and what is no number then.
pub fn adjusted_samples_worked_by_hand<B: Backend>(subjects: &mut [Subject<B>]) {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let of = |token, bias, repetition, subtract| Adjustment { token, bias, repetition, subtract };
    let bias = Adjustment::bias;
    let wrong = |token| Err(DrawError::NotANumber { token });
    let ban = |tokens: &[u32]| tokens.iter().map(|&token| bias(token, -inf)).collect::<Vec<_>>();
    let cases = [
        (vec![], None, Ok(0)),
        (ban(&[0]), None, Ok(1)),
        (ban(&[0, 1, 2]), None, Ok(3)),
        (ban(&[0, 1, 2, 3]), None, Err(DrawError::NoToken)),
        (vec![bias(3, 4.5)], None, Ok(3)),
        // 3/2 is less than 2; equal to 2 the lower token comes first.
        (vec![of(0, 0.0, 2.0, 0.0)], None, Ok(1)),
        (vec![of(0, 0.0, 1.5, 0.0)], None, Ok(0)),
        (vec![of(0, 0.0, 1.0, 1.5)], None, Ok(1)),
        // The bias comes first: -1 + 4.5 is positive, and halved.
        (vec![of(3, 4.5, 0.5, 0.0)], None, Ok(3)),
        (vec![of(3, 4.5, 2.0, 0.0)], None, Ok(0)),
        // A negative logit is multiplied.
        (vec![bias(0, -3.5), bias(1, -3.0), of(2, -2.0, 3.0, 0.0)], None, Ok(0)),
        // Subtracted last, also less than nothing.
        (vec![of(3, 0.0, 1.0, -4.5)], None, Ok(3)),
        // A mask bars what a bias raises; a bias bars what a mask leaves.
        (vec![bias(0, 1e30)], Some(0b0110), Ok(1)),
        (ban(&[1]), Some(0b0110), Ok(2)),
        // What is no number is found; plus infinity only where the token may come.
        (vec![bias(1, nan), bias(2, inf)], None, wrong(1)),
        (vec![bias(3, nan)], Some(0b0001), wrong(3)),
        (vec![bias(2, inf)], None, wrong(2)),
        (vec![bias(2, inf)], Some(0b1001), Ok(0)),
        (vec![bias(1, f32::MAX), of(2, f32::MAX, 0.5, 0.0)], None, wrong(2)),
    ];
    for temperature in [0.0, 1e-3] {
        let draws = vec![Draw { temperature, top_k: 1, ..Draw::GREEDY }; cases.len()];
        let row = [3.0, 2.0, 1.0, -1.0];
        let mut case = Case::new(4, row.repeat(cases.len()), &draws);
        case.adjust = cases.iter().map(|(list, ..)| list.clone()).collect();
        case.masks = cases.iter().map(|(_, mask, _)| mask.map(|word| vec![word])).collect();
        for s in &mut *subjects {
            for (got, (list, mask, expected)) in case.run(s).into_iter().zip(&cases) {
                assert_eq!(got.token(), *expected, "{}: {list:?}, {mask:?}", s.label);
            }
        }
    }
    // No bias makes a number of what was none.
    for (logits, token) in [([1.0, nan], 1), ([inf, 2.0], 0)] {
        let mut case = Case::new(2, logits.to_vec(), &[Draw::GREEDY]);
        case.adjust[0] = ban(&[0, 1]);
        for s in &mut *subjects {
            assert_eq!(case.run(s), [Drawn::new(wrong(token))], "{}", s.label);
        }
    }
}

pub fn wrong_adjustments_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    let sizes = DrawSizes { rows: 2, masks: 0, adjusted: 4, vocab: 33 };
    let good = ([0, 3, 3, 4], [5, 7, 32, 5]);
    // Beyond what there is, backwards, below 0; tokens out of order, twice, out of range.
    let spoilt = [
        ([0, 3, 3, 5], good.1),
        ([0, 3, 4, 3], good.1),
        ([-1, 3, 3, 4], good.1),
        (good.0, [7, 5, 32, 5]),
        (good.0, [5, 5, 32, 5]),
        (good.0, [5, 7, 33, 5]),
        (good.0, [-1, 7, 32, 5]),
    ];
    for s in subjects {
        let run = |s: &mut Subject<B>, (ranges, tokens): ([i32; 4], [i32; 4])| -> Result<()> {
            let mut draws = DrawBatch::new(&s.backend, sizes)?;
            let list = [1, 2, 3].map(|token| Adjustment::bias(token, 1.0));
            let of = |adjust| Some(RowDraw { adjust, ..RowDraw::default() });
            draws.upload(&s.backend, &mut s.stream, &[of(&list), of(&list[..1])])?;
            let [a, b, c, d] = ranges;
            let ints = [0, -1, 0, 0, -1, -1, a, b, 0, -1, 0, 0, -1, -1, c, d];
            s.backend.upload_i32(&mut s.stream, &ints, &mut draws.ints)?;
            s.backend.upload_i32(&mut s.stream, &tokens, &mut draws.adjust_tokens)?;
            let logits = s.exact(&[0.0; 66]);
            let mut dst = s.backend.alloc(DType::I32, 2)?;
            let (logits, draws) = (&logits, &draws);
            let p = Sample { logits, draws, rows: 2, vocab: 33, scale: 1.0, softcap: None };
            s.backend.sample(&mut s.stream, &mut dst, &p)
        };
        run(s, good).unwrap_or_else(|e| panic!("{}: {e}", s.label));
        for wrong in spoilt {
            assert!(run(s, wrong).is_err(), "{}: accepted {wrong:?}", s.label);
        }
        // More than there is room for.
        let list: Vec<_> = (0..5).map(|token| Adjustment::bias(token, 1.0)).collect();
        let row = RowDraw { adjust: &list, ..RowDraw::default() };
        let mut draws = DrawBatch::new(&s.backend, sizes).expect("memory");
        assert!(draws.upload(&s.backend, &mut s.stream, &[Some(row)]).is_err(), "{}", s.label);
        assert_eq!((draws.rows, draws.adjusted), (0, 0));
    }
}
