//! The draws of a step on the device.

use super::{ADJUST_FLOATS, Adjustment, Draw, DrawError, MOST_LOGPROBS, RowDraw};
use crate::{Backend, DType, KernelError, Result};

/// Numbers of a row in [`DrawBatch::ints`].
pub const DRAW_INTS: usize = 8;
/// Numbers of a row in [`DrawBatch::floats`].
pub const DRAW_FLOATS: usize = 3;

/// Of a uniform number: it is this many times an integer.
const UNIFORM_UNIT: f64 = 1.0 / (1u64 << 53) as f64;

/// How the tokens of a step's rows are drawn, in buffers of type `T` that are allocated once.
pub struct DrawBatch<T> {
    /// `I32 [R, 8]`: top-k; the row of `masks`, or -1; the upper 21 and lower 32 bits of the uniform
    /// number in units of 2⁻⁵³; the token that is known, or -1; how many of the likeliest tokens
    /// are told with their log-probabilities, or -1; and where the row's adjusted logits begin and end.
    pub ints: T,
    /// `F32 [R, 3]`: temperature, top-p, min-p.
    pub floats: T,
    /// Tokens that may come, `I32 [M, ⌈vocab / 32⌉]`: a bit for each.
    pub masks: T,
    /// Tokens whose logits are adjusted, `I32 [A]`: one row's after another's, each row's growing.
    pub adjust_tokens: T,
    /// How, `F32 [A, 3]`: bias, repetition penalty, what is subtracted; see [`Adjustment`].
    pub adjust_values: T,
    /// Rows `R` that were uploaded last.
    pub rows: usize,
    /// Masks `M` that were uploaded last.
    pub masked: usize,
    /// Adjusted logits `A` that were uploaded last.
    pub adjusted: usize,
    vocab: usize,
    /// What is uploaded next, kept so that a step allocates nothing.
    host: Host,
}

#[derive(Default)]
struct Host {
    ints: Vec<i32>,
    floats: Vec<f32>,
    masks: Vec<i32>,
    adjust_tokens: Vec<i32>,
    adjust_values: Vec<f32>,
}

/// What a [`DrawBatch`] has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrawSizes {
    /// Rows.
    pub rows: usize,
    /// Rows with a mask.
    pub masks: usize,
    /// Logits that are adjusted, all rows together.
    pub adjusted: usize,
    /// Values in a row.
    pub vocab: usize,
}

impl<T> DrawBatch<T> {
    /// Allocates the arrays.
    pub fn new<B: Backend<Buffer = T>>(backend: &B, sizes: DrawSizes) -> Result<Self> {
        let DrawSizes { rows, masks, adjusted, vocab } = sizes;
        let len = |n: usize, width: usize| n.saturating_mul(width);
        Ok(DrawBatch {
            ints: backend.alloc(DType::I32, len(rows, DRAW_INTS))?,
            floats: backend.alloc(DType::F32, len(rows, DRAW_FLOATS))?,
            masks: backend.alloc(DType::I32, len(masks, Self::words(vocab)))?,
            adjust_tokens: backend.alloc(DType::I32, adjusted)?,
            adjust_values: backend.alloc(DType::F32, len(adjusted, ADJUST_FLOATS))?,
            rows: 0,
            masked: 0,
            adjusted: 0,
            vocab,
            host: Host::default(),
        })
    }

    /// Values of the rows that it is for.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Words of a mask.
    pub fn words(vocab: usize) -> usize {
        vocab.div_ceil(32)
    }

    /// Uploads the draws of a step. Rows without one get a greedy draw. Refuses numbers that are out
    /// of range; after an error the batch is empty.
    pub fn upload<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        s: &mut B::Stream,
        draws: &[Option<RowDraw<'_>>],
    ) -> Result<()> {
        (self.rows, self.masked, self.adjusted) = (0, 0, 0);
        let masked = self.fill(draws)?;
        let Host { ints, floats, masks, adjust_tokens, adjust_values } = &self.host;
        backend.upload_i32(s, ints, &mut self.ints)?;
        backend.upload_f32(s, floats, &mut self.floats)?;
        if masked > 0 {
            backend.upload_i32(s, masks, &mut self.masks)?;
        }
        if !adjust_tokens.is_empty() {
            backend.upload_i32(s, adjust_tokens, &mut self.adjust_tokens)?;
            backend.upload_f32(s, adjust_values, &mut self.adjust_values)?;
        }
        (self.rows, self.masked, self.adjusted) = (draws.len(), masked, adjust_tokens.len());
        Ok(())
    }

    /// Lays out the arrays, and gives the number of masks.
    fn fill(&mut self, draws: &[Option<RowDraw<'_>>]) -> Result<usize> {
        let Host { ints, floats, masks, adjust_tokens, adjust_values } = &mut self.host;
        [&mut *ints, masks, adjust_tokens].into_iter().for_each(Vec::clear);
        [&mut *floats, adjust_values].into_iter().for_each(Vec::clear);
        let (words, mut masked) = (Self::words(self.vocab), 0);
        for (row, draw) in draws.iter().enumerate() {
            let wanted = draw.unwrap_or_default();
            wanted.check(row, self.vocab)?;
            let RowDraw { draw, mask, adjust, known, logprobs } = wanted;
            let mask = match mask {
                None => -1,
                Some(mask) => {
                    let bits = mask.iter().map(|word| word.cast_signed());
                    masks.extend(bits.chain(std::iter::repeat(0)).take(words));
                    masked += 1;
                    masked - 1
                }
            };
            let uniform = (draw.uniform / UNIFORM_UNIT) as u64;
            let top_k = i32::try_from(draw.top_k).unwrap_or(i32::MAX);
            let known = known.map_or(-1, u32::cast_signed);
            let logprobs = logprobs.map_or(-1, |count| count as i32);
            let (upper, lower) = ((uniform >> 32) as i32, (uniform as u32).cast_signed());
            let begin = adjust_tokens.len() as i32;
            adjust_tokens.extend(adjust.iter().map(|a| a.token.cast_signed()));
            adjust_values.extend(adjust.iter().flat_map(Adjustment::floats));
            let end = adjust_tokens.len() as i32;
            ints.extend([top_k, mask, upper, lower, known, logprobs, begin, end]);
            floats.extend([draw.temperature, draw.top_p, draw.min_p]);
        }
        Ok(masked as usize)
    }
}

impl RowDraw<'_> {
    /// Refuses numbers that are out of range.
    fn check(&self, row: usize, vocab: usize) -> Result<()> {
        self.draw.check(row)?;
        Adjustment::check(self.adjust, row, vocab)?;
        if let Some(token) = self.known.filter(|&token| token as usize >= vocab) {
            let what = format!("row {row}: token {token} of a vocabulary of {vocab}");
            return Err(KernelError::shape("sample", what));
        }
        if let Some(count) = self.logprobs.filter(|&count| count > MOST_LOGPROBS) {
            let what = format!("row {row}: {count} log-probabilities, more than {MOST_LOGPROBS}");
            return Err(KernelError::shape("sample", what));
        }
        Ok(())
    }
}

impl Draw {
    /// Refuses numbers that are out of range.
    fn check(&self, row: usize) -> Result<()> {
        let Draw { temperature, top_p, min_p, uniform, .. } = *self;
        let good = temperature.is_finite()
            && temperature >= 0.0
            && top_p > 0.0
            && top_p <= 1.0
            && (0.0..=1.0).contains(&min_p)
            && (0.0..1.0).contains(&uniform);
        if good {
            Ok(())
        } else {
            Err(KernelError::shape("sample", format!("row {row}: {self:?}")))
        }
    }

    /// The draw of a row of [`DrawBatch::ints`] and [`DrawBatch::floats`].
    pub(crate) fn of_arrays(ints: &[i32], floats: &[f32]) -> Draw {
        let uniform = u64::from(ints[2].cast_unsigned()) << 32 | u64::from(ints[3].cast_unsigned());
        Draw {
            temperature: floats[0],
            top_k: usize::try_from(ints[0]).unwrap_or_default(),
            top_p: floats[1],
            min_p: floats[2],
            uniform: uniform as f64 * UNIFORM_UNIT,
        }
    }
}

/// What [`Backend::sample`] gives for a row, as the integer that it writes: a token; -1 where no token
/// is possible; or `-2 - t` where the logit of token `t` is no number, and no earlier one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn(pub i32);

impl Drawn {
    /// As a backend writes it.
    pub fn new(result: Result<u32, DrawError>) -> Drawn {
        Drawn(match result {
            Ok(token) => token as i32,
            Err(DrawError::NoToken) => -1,
            Err(DrawError::NotANumber { token }) => -2 - token as i32,
        })
    }

    /// The token.
    pub fn token(self) -> Result<u32, DrawError> {
        match self.0 {
            0.. => Ok(self.0.cast_unsigned()),
            -1 => Err(DrawError::NoToken),
            // `!n` is `-1 - n`.
            _ => Err(DrawError::NotANumber { token: !self.0 as usize - 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    #[test]
    fn results_are_told_apart() {
        let of = |result| Drawn::new(result).token();
        for result in [Ok(0), Ok(7), Ok(i32::MAX as u32), Err(DrawError::NoToken)] {
            assert_eq!(of(result), result);
        }
        for token in [0, 1, 5, i32::MAX as usize - 2] {
            let error = Err(DrawError::NotANumber { token });
            assert_eq!(of(error), error);
        }
    }

    #[test]
    fn draws_survive_their_arrays() -> Result<()> {
        let backend = Reference::new();
        let mut s = backend.stream()?;
        let mut batch =
            DrawBatch::new(&backend, DrawSizes { rows: 3, masks: 1, adjusted: 3, vocab: 40 })?;
        let draw = |uniform: f64| Draw {
            temperature: 0.7,
            top_k: usize::MAX,
            top_p: 0.9,
            min_p: 0.05,
            uniform,
        };
        let uniforms = [0.0, 1.0 - UNIFORM_UNIT, 0x1_2345_6789_abcd_u64 as f64 * UNIFORM_UNIT];
        let mask = [5u32];
        let rows = uniforms.map(|u| Some(RowDraw { draw: draw(u), ..RowDraw::default() }));
        batch.upload(&backend, &mut s, &rows)?;
        for (row, uniform) in uniforms.into_iter().enumerate() {
            let (ints, floats) =
                (&batch.host.ints[row * DRAW_INTS..], &batch.host.floats[row * 3..]);
            let expected = Draw { top_k: i32::MAX as usize, ..draw(uniform) };
            assert_eq!(Draw::of_arrays(ints, floats), expected);
        }
        let mask = Some(mask.as_slice());
        let adjust = [Adjustment::bias(3, -1.0), Adjustment::bias(39, 2.0)];
        let masked =
            RowDraw { draw: draw(0.5), mask, adjust: &adjust, known: Some(39), logprobs: Some(20) };
        let one = RowDraw { adjust: &adjust[1..], ..RowDraw::default() };
        batch.upload(&backend, &mut s, &[Some(one), None, Some(masked)])?;
        assert_eq!((batch.rows, batch.masked, batch.adjusted), (3, 1, 3));
        let rows: Vec<_> = batch.host.ints.chunks_exact(DRAW_INTS).collect();
        assert_eq!(rows[0][6..], [0, 1]);
        assert_eq!((rows[1][1], &rows[1][4..]), (-1, &[-1, -1, 1, 1][..]));
        assert_eq!((rows[2][1], &rows[2][4..]), (0, &[39, 20, 1, 3][..]));
        assert_eq!(batch.host.masks, [5, 0], "padded");
        let adjusted = Adjustment::of_arrays(&batch.host.adjust_tokens, &batch.host.adjust_values);
        assert!(adjusted.eq([adjust[1], adjust[0], adjust[1]]));
        // What does not fit, and what is out of range.
        assert!(batch.upload(&backend, &mut s, &[Some(masked), Some(masked)]).is_err());
        assert_eq!(batch.rows, 0);
        for wrong in [
            Draw { temperature: -1.0, ..Draw::GREEDY },
            Draw { temperature: f32::NAN, ..Draw::GREEDY },
            Draw { top_p: 0.0, ..Draw::GREEDY },
            Draw { min_p: 1.5, ..Draw::GREEDY },
            Draw { uniform: 1.0, ..Draw::GREEDY },
        ] {
            let row = RowDraw { draw: wrong, ..RowDraw::default() };
            assert!(batch.upload(&backend, &mut s, &[Some(row)]).is_err(), "{wrong:?}");
        }
        let outside = RowDraw { known: Some(40), ..RowDraw::default() };
        let many = RowDraw { logprobs: Some(MOST_LOGPROBS + 1), ..RowDraw::default() };
        let twice = [adjust[0], adjust[0]];
        let twice = RowDraw { adjust: &twice, ..RowDraw::default() };
        for wrong in [outside, many, twice] {
            assert!(batch.upload(&backend, &mut s, &[Some(wrong)]).is_err(), "{wrong:?}");
        }
        Ok(())
    }
}
