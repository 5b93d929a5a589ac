//! Blocks of 256 values whose sub-blocks have scales that are whole numbers times one of the block.

use half::f16;

use super::levels::{Levels, Whole};
use super::search::{self, Line, Offsets, Weighting, error, inverse, line};

/// Values in a block.
const LEN: usize = 256;
/// Sub-blocks, at most.
const SUBS: usize = 16;

/// A block of values `d · scales[j] · levels[i]`, `j` the sub-block of value `i`.
pub(super) struct Signed {
    pub d: f16,
    pub scales: [i8; SUBS],
    /// Of each value, the level.
    pub levels: [f32; LEN],
}

/// How the values of a signed block are divided and stored.
#[derive(Clone, Copy)]
pub(super) struct SignedShape<L> {
    pub levels: L,
    /// Values in a sub-block: 16 or 32.
    pub sub: usize,
    /// The lowest scale; the highest is one less than its magnitude.
    pub lowest: f32,
}

impl<L: Levels> SignedShape<L> {
    fn scale_levels(&self) -> Whole {
        Whole(self.lowest, -self.lowest - 1.0)
    }

    pub fn quantize(&self, x: &[f32; LEN]) -> Signed {
        let w = Weighting::Square.of(x);
        let wanted: Vec<f32> =
            parts(self.sub, x, &w).map(|(x, w)| search::scale(&self.levels, x, w)).collect();
        let first = f16::from_f32(search::largest(&wanted) / self.lowest);
        let (mut scales, error) = self.scales(x, &w, &wanted, first);
        let mut d = first;
        if let Some(refit) = self.refit(x, &w, first, &scales) {
            let (others, lower) = self.scales(x, &w, &wanted, refit);
            if lower < error {
                (d, scales) = (refit, others);
            }
        }
        let mut levels = [0.0; LEN];
        for (i, level) in levels.iter_mut().enumerate() {
            let scale = d.to_f32() * f32::from(scales[i / self.sub]);
            *level = self.levels.nearest(x[i] * inverse(scale));
        }
        Signed { d, scales, levels }
    }

    /// The best scales near the wanted ones, and the error.
    fn scales(&self, x: &[f32], w: &[f32], wanted: &[f32], d: f16) -> ([i8; SUBS], f32) {
        let (mut scales, mut sum) = ([0; SUBS], 0.0);
        let d = d.to_f32();
        for (j, (x, w)) in parts(self.sub, x, w).enumerate() {
            let near = self.scale_levels().nearest(wanted[j] * inverse(d));
            let mut best = (0.0, f32::INFINITY);
            for step in [0.0, -1.0, 1.0] {
                let scale = (near + step).max(self.lowest).min(-self.lowest - 1.0);
                let error = error(&self.levels, x, w, d * scale, 0.0);
                if error < best.1 {
                    best = (scale, error);
                }
            }
            scales[j] = best.0 as i8;
            sum += best.1;
        }
        (scales, sum)
    }

    /// The scale of the block that is best for the codes that these scales give.
    fn refit(&self, x: &[f32], w: &[f32], d: f16, scales: &[i8; SUBS]) -> Option<f16> {
        let (mut above, mut below) = (0.0f64, 0.0f64);
        for (j, (x, w)) in parts(self.sub, x, w).enumerate() {
            let scale = f32::from(scales[j]);
            let inverse = inverse(d.to_f32() * scale);
            for (x, w) in x.iter().zip(w) {
                let q = scale * self.levels.nearest(x * inverse);
                above += f64::from(w * x * q);
                below += f64::from(w * q * q);
            }
        }
        finite(above / below)
    }
}

/// A block of values `d · scales[j] · codes[i] - dmin · mins[j]`, `j` the sub-block of value `i`.
pub(super) struct Affine {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; SUBS],
    pub mins: [u8; SUBS],
    pub codes: [u8; LEN],
}

/// How the values of such a block are divided and stored.
#[derive(Clone, Copy)]
pub(super) struct AffineShape {
    /// The highest code.
    pub highest: f32,
    /// Values in a sub-block: 16 or 32.
    pub sub: usize,
    /// The highest scale and minimum.
    pub most: f32,
}

/// Scales and minima with the error that they leave.
struct Choice {
    scales: [u8; SUBS],
    mins: [u8; SUBS],
    error: f32,
}

impl AffineShape {
    fn levels(&self) -> Whole {
        Whole(0.0, self.highest)
    }

    pub fn quantize(&self, x: &[f32; LEN]) -> Affine {
        let w = magnitudes(self.sub, x);
        let levels = self.levels();
        let wanted: Vec<Line> = parts(self.sub, x, &w)
            .map(|(x, w)| line(&levels, Offsets::NotPositive, x, w))
            .collect();
        let most = |of: fn(&Line) -> f32| wanted.iter().map(of).fold(0.0, f32::max);
        let half = |value: f32| f16::from_f32(value / self.most);
        let mut d = (half(most(|l| l.scale)), half(most(|l| -l.offset)));
        let mut choice = self.choose(x, &w, &wanted, d);
        if let Some(refit) = self.refit(x, &w, d, &choice) {
            let other = self.choose(x, &w, &wanted, refit);
            if other.error < choice.error {
                (d, choice) = (refit, other);
            }
        }
        let Choice { scales, mins, .. } = choice;
        let mut codes = [0; LEN];
        for (i, code) in codes.iter_mut().enumerate() {
            let (scale, offset) = effective(d, scales[i / self.sub], mins[i / self.sub]);
            *code = levels.nearest((x[i] - offset) * inverse(scale)) as u8;
        }
        Affine { d: d.0, dmin: d.1, scales, mins, codes }
    }

    /// The best scales and minima near the wanted ones.
    fn choose(&self, x: &[f32], w: &[f32], wanted: &[Line], d: (f16, f16)) -> Choice {
        let mut choice = Choice { scales: [0; SUBS], mins: [0; SUBS], error: 0.0 };
        let levels = self.levels();
        for (j, (x, w)) in parts(self.sub, x, w).enumerate() {
            let scales = Whole(0.0, self.most);
            let near = |value: f32, d: f16| scales.nearest(value * inverse(d.to_f32()));
            let (scale, min) = (near(wanted[j].scale, d.0), near(-wanted[j].offset, d.1));
            let mut best = f32::INFINITY;
            for (a, b) in NEIGHBOURS {
                let scale = (scale + a).max(0.0).min(self.most) as u8;
                let min = (min + b).max(0.0).min(self.most) as u8;
                let (slope, offset) = effective(d, scale, min);
                let error = error(&levels, x, w, slope, offset);
                if error < best {
                    best = error;
                    (choice.scales[j], choice.mins[j]) = (scale, min);
                }
            }
            choice.error += best;
        }
        choice
    }

    /// The block's scale and minimum that are best for the codes that a choice gives.
    fn refit(&self, x: &[f32], w: &[f32], d: (f16, f16), choice: &Choice) -> Option<(f16, f16)> {
        // Of the unknown `d` and `dmin`, which are multiplied by `a` and `b`.
        let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        let levels = self.levels();
        for (j, (x, w)) in parts(self.sub, x, w).enumerate() {
            let (scale, offset) = effective(d, choice.scales[j], choice.mins[j]);
            let inverse = inverse(scale);
            let b = -f64::from(choice.mins[j]);
            for (x, w) in x.iter().zip(w) {
                let q = levels.nearest((x - offset) * inverse);
                let a = f64::from(f32::from(choice.scales[j]) * q);
                let (w, x) = (f64::from(*w), f64::from(*x));
                aa += w * a * a;
                ab += w * a * b;
                bb += w * b * b;
                ax += w * a * x;
                bx += w * b * x;
            }
        }
        let determinant = aa * bb - ab * ab;
        let (d, dmin) = if bb == 0.0 {
            (ax / aa, 0.0)
        } else {
            ((bb * ax - ab * bx) / determinant, (aa * bx - ab * ax) / determinant)
        };
        Some((finite(d)?, finite(dmin)?))
            .filter(|(d, dmin)| d.to_f32() >= 0.0 && dmin.to_f32() >= 0.0)
    }
}

/// Steps of scale and minimum that are tried.
const NEIGHBOURS: [(f32, f32); 9] = [
    (0.0, 0.0),
    (-1.0, 0.0),
    (1.0, 0.0),
    (0.0, -1.0),
    (0.0, 1.0),
    (-1.0, -1.0),
    (-1.0, 1.0),
    (1.0, -1.0),
    (1.0, 1.0),
];

/// Scale and offset of a sub-block, with the operations of its dequantisation.
fn effective((d, dmin): (f16, f16), scale: u8, min: u8) -> (f32, f32) {
    (d.to_f32() * f32::from(scale), -(dmin.to_f32() * f32::from(min)))
}

/// A value that half precision can hold.
fn finite(value: f64) -> Option<f16> {
    Some(f16::from_f64(value)).filter(|v| v.is_finite())
}

/// The sub-blocks with the weights of their errors.
fn parts<'a>(
    sub: usize,
    x: &'a [f32],
    w: &'a [f32],
) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    x.chunks_exact(sub).zip(w.chunks_exact(sub))
}

/// Weights of all errors by magnitude, those of sub-blocks of 32 by the sub-block besides. They are
/// comparable within the block, so that a refit serves all of it.
fn magnitudes(sub: usize, x: &[f32; LEN]) -> [f32; LEN] {
    if sub != 32 {
        return Weighting::Magnitude.of(x);
    }
    let mut w = [1.0; LEN];
    let largest = search::largest(x).abs().max(f32::MIN_POSITIVE);
    for (x, w) in x.as_chunks::<32>().0.iter().zip(w.as_chunks_mut::<32>().0) {
        let factor = search::largest(x).abs() / largest;
        *w = Weighting::Magnitude.of(x).map(|v| v * factor);
    }
    w
}
