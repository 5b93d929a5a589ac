//! The search for the scale of a block: of many candidates, the one whose rounded values lie nearest
//! to the block's.
//!
//! For codes `q` that a candidate rounds to, the scale that minimises `Σ w (d·q - x)²` is
//! `Σ w·x·q / Σ w·q²`, and the error falls by the square of the numerator over the denominator; with
//! an offset it is a line fitted to the points `(q, x)`. Both are weighted least squares. What is
//! searched is only the rounding.

use super::levels::Levels;

/// Sums are kept in so many lanes, in one order, for which compilers use vectors.
const LANES: usize = 8;

/// Candidates lie so far apart, in levels, and up to [`REACH`] of them on each side.
const STEP: f32 = 0.1;
const REACH: i32 = 9;

/// Fits of the best candidate to what it rounds to.
const REFITS: usize = 2;

/// Blocks whose values are all smaller are zero: half precision holds no scale for them.
const NOTHING: f32 = 1e-12;

/// How much the errors of a block's values count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weighting {
    /// In proportion to the magnitude plus that of the block's root mean square: large weights carry
    /// more of a layer's result.
    Magnitude,
    /// In proportion to the square.
    Square,
}

impl Weighting {
    /// Weights of the errors of `x`, of which the largest is near one.
    pub fn of<const N: usize>(self, x: &[f32; N]) -> [f32; N] {
        let largest = largest(x).abs();
        if largest < NOTHING {
            return [1.0; N];
        }
        let inverse = 1.0 / largest;
        match self {
            Weighting::Magnitude => {
                let squares: f32 = x.iter().map(|v| (v * inverse) * (v * inverse)).sum();
                let rms = (squares / N as f32).sqrt();
                x.map(|v| rms + (v * inverse).abs())
            }
            Weighting::Square => x.map(|v| (v * inverse) * (v * inverse)),
        }
    }
}

/// The value of the largest magnitude.
pub(super) fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most, &v| if v.abs() > f32::abs(most) { v } else { most })
}

/// `d` for which `d · q`, with `q` of `levels`, is nearest to `x` with errors weighted by `w`. It may
/// be negative. Lengths are equal and multiples of 8.
pub(super) fn scale(levels: &impl Levels, x: &[f32], w: &[f32]) -> f32 {
    let largest = largest(x);
    if largest.abs() < NOTHING {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    let mut consider = |inverse: f32| {
        let (d, gain) = fit(levels, x, w, inverse);
        if gain > best.1 {
            best = (d, gain);
        }
    };
    let (low, high) = levels.ends();
    for step in -REACH..=REACH {
        let shift = STEP * step as f32;
        consider((low - shift) / largest);
        consider((high + shift) / largest);
    }
    for _ in 0..REFITS {
        if best.0 == 0.0 {
            break;
        }
        let (d, gain) = fit(levels, x, w, 1.0 / best.0);
        if gain <= best.1 {
            break;
        }
        best = (d, gain);
    }
    best.0
}

/// The scale that is best for what `x · inverse` rounds to, and by how much it lowers the error.
fn fit(levels: &impl Levels, x: &[f32], w: &[f32], inverse: f32) -> (f32, f32) {
    let (mut wxq, mut wqq) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let q = levels.nearest(x[i] * inverse);
            wxq[i] += w[i] * x[i] * q;
            wqq[i] += w[i] * q * q;
        }
    }
    let (wxq, wqq): (f32, f32) = (wxq.iter().sum(), wqq.iter().sum());
    if wqq > 0.0 { (wxq / wqq, wxq * wxq / wqq) } else { (0.0, 0.0) }
}

/// The weighted error of `d · q + offset` with the best `q` of `levels`.
pub(super) fn error(levels: &impl Levels, x: &[f32], w: &[f32], d: f32, offset: f32) -> f32 {
    let inverse = inverse(d);
    let mut sums = [0.0f32; LANES];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let off = d * levels.nearest((x[i] - offset) * inverse) + offset - x[i];
            sums[i] += w[i] * off * off;
        }
    }
    sums.iter().sum()
}

/// One over `d`, or zero where there is none.
pub(super) fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Scale and offset of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub scale: f32,
    pub offset: f32,
}

/// Which offsets a format can store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offsets {
    Any,
    /// None above zero.
    NotPositive,
}

/// The line for which `scale · q + offset`, with whole `q` from 0 to the highest of `levels`, is
/// nearest to `x` with errors weighted by `w`. The scale is not negative.
pub(super) fn line(levels: &impl Levels, offsets: Offsets, x: &[f32], w: &[f32]) -> Line {
    let mut low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if offsets == Offsets::NotPositive {
        low = low.min(0.0);
    }
    let most = levels.ends().1;
    // A scale that half precision cannot hold says that all are one value.
    if high - low < most * f32::from(half::f16::MIN_POSITIVE_SUBNORMAL) {
        return Line { scale: 0.0, offset: low };
    }
    let plain = Line { scale: (high - low) / most, offset: low };
    let mut best = (plain, error(levels, x, w, plain.scale, plain.offset));
    let consider = |line: Line, best: &mut (Line, f32)| {
        let error = error(levels, x, w, line.scale, line.offset);
        let better = error < best.1;
        if better {
            *best = (line, error);
        }
        better
    };
    for step in -REACH..=REACH {
        let inverse = (most + STEP * step as f32) / (high - low);
        if let Some(line) = fit_line(levels, offsets, (x, w), Line { scale: inverse, offset: low })
        {
            consider(line, &mut best);
        }
    }
    for _ in 0..REFITS {
        let Line { scale, offset } = best.0;
        let refit = fit_line(levels, offsets, (x, w), Line { scale: 1.0 / scale, offset });
        if !refit.is_some_and(|line| consider(line, &mut best)) {
            break;
        }
    }
    best.0
}

/// The line that is best for what `(x - offset) · scale` rounds to.
fn fit_line(
    levels: &impl Levels,
    offsets: Offsets,
    (x, w): (&[f32], &[f32]),
    rounding: Line,
) -> Option<Line> {
    let mut sums = [[0.0f32; LANES]; 5];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let q = levels.nearest((x[i] - rounding.offset) * rounding.scale);
            let (wq, wx) = (w[i] * q, w[i] * x[i]);
            sums[0][i] += w[i];
            sums[1][i] += wq;
            sums[2][i] += wq * q;
            sums[3][i] += wx;
            sums[4][i] += wx * q;
        }
    }
    let [sw, sq, sqq, sx, sxq] = sums.map(|lanes| lanes.iter().map(|v| f64::from(*v)).sum::<f64>());
    let determinant = sw * sqq - sq * sq;
    let mut line = if determinant > 0.0 {
        ((sw * sxq - sq * sx) / determinant, (sqq * sx - sq * sxq) / determinant)
    } else {
        return None;
    };
    if offsets == Offsets::NotPositive && line.1 > 0.0 {
        line = (sxq / sqq, 0.0);
    }
    let line = Line { scale: line.0 as f32, offset: line.1 as f32 };
    (line.scale > 0.0 && line.scale.is_finite() && line.offset.is_finite()).then_some(line)
}
