//! The formats with one scale per 32 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and IQ4_NL.

use half::f16;

use super::levels::{Levels, Uneven, Whole};
use super::search::{self, Offsets, Weighting, inverse, line};

/// Scale in half precision and the levels of the values.
fn scaled(levels: &impl Levels, weighting: Weighting, x: &[f32; 32]) -> (f16, [f32; 32]) {
    let d = f16::from_f32(search::scale(levels, x, &weighting.of(x)));
    let inverse = inverse(d.to_f32());
    (d, x.map(|v| levels.nearest(v * inverse)))
}

/// Scale and offset in half precision and the codes of the values.
fn affine(highest: f32, x: &[f32; 32]) -> (f16, f16, [u8; 32]) {
    let levels = Whole(0.0, highest);
    let found = line(&levels, Offsets::Any, x, &Weighting::Magnitude.of(x));
    let (d, m) = (f16::from_f32(found.scale), f16::from_f32(found.offset));
    let inverse = inverse(d.to_f32());
    (d, m, x.map(|v| levels.nearest((v - m.to_f32()) * inverse) as u8))
}

pub(super) fn q4_0(x: &[f32; 32]) -> [u8; 18] {
    let (d, q) = scaled(&Whole(-8.0, 7.0), Weighting::Magnitude, x);
    let mut out = [0; 18];
    out[..2].copy_from_slice(&d.to_le_bytes());
    put_nibbles(&mut out[2..], &q.map(|q| (q + 8.0) as u8));
    out
}

pub(super) fn q4_1(x: &[f32; 32]) -> [u8; 20] {
    let (d, m, q) = affine(15.0, x);
    let mut out = [0; 20];
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&m.to_le_bytes());
    put_nibbles(&mut out[4..], &q);
    out
}

pub(super) fn q5_0(x: &[f32; 32]) -> [u8; 22] {
    let (d, q) = scaled(&Whole(-16.0, 15.0), Weighting::Magnitude, x);
    let mut out = [0; 22];
    out[..2].copy_from_slice(&d.to_le_bytes());
    put_five(&mut out[2..], &q.map(|q| (q + 16.0) as u8));
    out
}

pub(super) fn q5_1(x: &[f32; 32]) -> [u8; 24] {
    let (d, m, q) = affine(31.0, x);
    let mut out = [0; 24];
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&m.to_le_bytes());
    put_five(&mut out[4..], &q);
    out
}

/// With so many levels a search finds nothing: the largest value has the highest code.
pub(super) fn q8_0(x: &[f32; 32]) -> [u8; 34] {
    let d = f16::from_f32(search::largest(x).abs() / 127.0);
    let (levels, inverse) = (Whole(-127.0, 127.0), inverse(d.to_f32()));
    let mut out = [0; 34];
    out[..2].copy_from_slice(&d.to_le_bytes());
    for (out, v) in out[2..].iter_mut().zip(x) {
        *out = levels.nearest(v * inverse) as i8 as u8;
    }
    out
}

pub(super) fn iq4_nl(x: &[f32; 32]) -> [u8; 18] {
    let (d, q) = scaled(&Uneven, Weighting::Square, x);
    let mut out = [0; 18];
    out[..2].copy_from_slice(&d.to_le_bytes());
    put_nibbles(&mut out[2..], &q.map(Uneven::code));
    out
}

/// Low nibbles: value `i` beside value `i + 16`.
pub(super) fn put_nibbles(out: &mut [u8], q: &[u8; 32]) {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = (q[i] & 15) | q[i + 16] << 4;
    }
}

/// A word of fifth bits, then the nibbles.
fn put_five(out: &mut [u8], q: &[u8; 32]) {
    for (i, q) in q.iter().enumerate() {
        out[i / 8] |= (q >> 4) << (i % 8);
    }
    put_nibbles(&mut out[4..], &q.map(|q| q & 15));
}
