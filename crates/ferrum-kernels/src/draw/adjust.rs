//! Logits that a row changes before its token is drawn: by a bias, and by penalties on tokens that
//! came before.

use crate::{KernelError, Result};

/// Numbers of an adjusted logit in [`super::DrawBatch::adjust_values`].
pub const ADJUST_FLOATS: usize = 3;

/// How the logit of a token is changed, the mask left aside: in the order of these fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adjustment {
    /// Whose.
    pub token: u32,
    /// Added. Minus infinity bans the token; what makes the logit no number is found when it is drawn.
    pub bias: f32,
    /// Then a positive logit is divided by it and any other multiplied (Keskar et al. 2019,
    /// arXiv:1909.05858); above 0. 1: off.
    pub repetition: f32,
    /// Then subtracted.
    pub subtract: f32,
}

impl Adjustment {
    /// A bias alone.
    pub fn bias(token: u32, bias: f32) -> Adjustment {
        Adjustment { token, bias, repetition: 1.0, subtract: 0.0 }
    }

    /// The logit that becomes of this one.
    pub fn apply(&self, logit: f32) -> f32 {
        let biased = logit + self.bias;
        let penalised =
            if biased > 0.0 { biased / self.repetition } else { biased * self.repetition };
        penalised - self.subtract
    }

    /// Refuses a list that does not grow, tokens outside the vocabulary, and penalties out of range.
    pub(super) fn check(list: &[Adjustment], row: usize, vocab: usize) -> Result<()> {
        let good = |a: &Adjustment| {
            let penalties = a.repetition > 0.0 && a.repetition.is_finite();
            (a.token as usize) < vocab && penalties && a.subtract.is_finite()
        };
        let wrong = |what: String| Err(KernelError::shape("sample", format!("row {row}: {what}")));
        if let Some(wrong_one) = list.iter().find(|a| !good(a)) {
            return wrong(format!("{wrong_one:?} of a vocabulary of {vocab}"));
        }
        match list.windows(2).find(|pair| pair[0].token >= pair[1].token) {
            Some(pair) => wrong(format!("token {} after {}", pair[1].token, pair[0].token)),
            None => Ok(()),
        }
    }

    /// The numbers behind the token.
    pub(super) fn floats(&self) -> [f32; ADJUST_FLOATS] {
        [self.bias, self.repetition, self.subtract]
    }

    /// The parts of a step's arrays that are a row's, whose numbers in [`super::DrawBatch::ints`] are `ints`.
    pub(crate) fn arrays_of_row<'a>(
        ints: &[i32],
        tokens: &'a [i32],
        values: &'a [f32],
    ) -> (&'a [i32], &'a [f32]) {
        let (begin, end) = (ints[6] as usize, ints[7] as usize);
        (&tokens[begin..end], &values[begin * ADJUST_FLOATS..end * ADJUST_FLOATS])
    }

    /// Those of arrays of tokens and of the numbers behind them.
    pub(crate) fn of_arrays(tokens: &[i32], values: &[f32]) -> impl Iterator<Item = Adjustment> {
        let of = |(token, &[bias, repetition, subtract]): (&i32, &[f32; ADJUST_FLOATS])| {
            Adjustment { token: token.cast_unsigned(), bias, repetition, subtract }
        };
        tokens.iter().zip(values.as_chunks().0).map(of)
    }
}

/// Applies adjustments to a row of logits, which has all of their tokens.
pub fn apply_adjustments(list: impl IntoIterator<Item = Adjustment>, logits: &mut [f32]) {
    for adjustment in list {
        let logit = &mut logits[adjustment.token as usize];
        *logit = adjustment.apply(*logit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bias comes first, so it decides which way the repetition penalty goes; then what is subtracted.
    #[test]
    fn worked_by_hand() {
        let inf = f32::INFINITY;
        let adjustment = |token, bias| Adjustment { token, bias, repetition: 2.0, subtract: 0.5 };
        let list = [
            adjustment(0, 0.0),
            adjustment(1, 0.0),
            adjustment(2, -4.0),
            adjustment(3, 4.0),
            adjustment(4, -inf),
            Adjustment::bias(5, 1.5),
            adjustment(6, 0.0),
        ];
        let mut logits = [3.0, -3.0, 3.0, -3.0, 3.0, 3.0, -inf, 3.0];
        apply_adjustments(list, &mut logits);
        assert_eq!(logits, [1.0, -6.5, -2.5, 0.0, -inf, 4.5, -inf, 3.0]);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let good = [Adjustment::bias(3, f32::NEG_INFINITY), Adjustment::bias(4, 100.0)];
        assert!(Adjustment::check(&good, 0, 5).is_ok());
        assert!(Adjustment::check(&[], 0, 5).is_ok());
        assert!(Adjustment::check(&good, 0, 4).is_err(), "outside the vocabulary");
        assert!(Adjustment::check(&[good[1], good[0]], 0, 5).is_err(), "not in order");
        assert!(Adjustment::check(&[good[0], good[0]], 0, 5).is_err(), "twice");
        for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let wrong = Adjustment { repetition: wrong, ..good[0] };
            assert!(Adjustment::check(&[wrong], 0, 5).is_err(), "{wrong:?}");
        }
        let wrong = Adjustment { subtract: f32::NAN, ..good[0] };
        assert!(Adjustment::check(&[wrong], 0, 5).is_err());
    }
}
