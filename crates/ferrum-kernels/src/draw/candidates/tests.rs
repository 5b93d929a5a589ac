//! Each filter against its definition, written plainly with full sorts in `f64`.

use super::*;

/// A number in `[0, 1)`, scattered by SplitMix64's output function.
fn uniform(seed: u64, counter: u64) -> f64 {
    let mut z = (seed << 32 ^ counter).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 * 0.5f64.powi(53)
}

/// A row of logits: `kind` picks its shape. Values repeat, so that there are ties.
fn row(vocab: usize, kind: u64) -> Vec<f32> {
    let value = |i: usize| {
        let u = uniform(kind, i as u64);
        match kind % 5 {
            0 => (u * 6.0).floor(),            // many ties
            1 => u.ln() * -3.0,                // a few stand out
            2 => u * 1e-3 + 50.0,              // nearly flat
            3 if u < 0.3 => f64::NEG_INFINITY, // impossible tokens
            3 => u * 20.0,
            _ => -80.0 * u, // weights that vanish
        }
    };
    (0..vocab).map(|i| value(i) as f32).collect()
}

const VOCABS: [usize; 7] = [1, 2, 50, 256, 257, 1000, 3001];

fn filled(logits: &[f32], top_k: usize) -> Candidates {
    let mut candidates = Candidates::default();
    candidates.fill(logits, top_k).expect("numbers");
    candidates
}

fn tokens(candidates: &Candidates) -> Vec<u32> {
    let mut tokens: Vec<_> = candidates.list.iter().map(|c| c.token).collect();
    tokens.sort_unstable();
    tokens
}

/// Possible tokens with their probabilities, likeliest first, the lower id among equals.
fn plain(logits: &[f32]) -> Vec<(u32, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |l: f32| f64::from(l - max).exp();
    let total: f64 = logits.iter().map(|&l| weight(l)).sum();
    let mut list: Vec<_> = (0..).zip(logits).filter(|(_, l)| l.is_finite()).collect();
    list.sort_by(|a, b| b.1.total_cmp(a.1).then(a.0.cmp(&b.0)));
    list.into_iter().map(|(token, &l)| (token, weight(l) / total)).collect()
}

/// The shortest beginning of `list` with mass `p`, and the mass without its last token.
fn shortest(list: &[(u32, f64)], p: f32) -> (Vec<u32>, f64) {
    let (mut mass, mut kept) = (0.0, Vec::new());
    for &(token, q) in list {
        let before = mass;
        mass += q;
        kept.push(token);
        if mass >= f64::from(p) {
            kept.sort_unstable();
            return (kept, before);
        }
    }
    kept.sort_unstable();
    (kept, 1.0)
}

/// Equal but for one token, and that only where the mass before it is the target to rounding.
fn assert_same(got: &[u32], (expected, before): (Vec<u32>, f64), p: f32, what: &str) {
    let rounding = (before - f64::from(p)).abs() < 1e-5 || before > 1.0 - 1e-5;
    if got != expected {
        assert!(
            rounding && got.len().abs_diff(expected.len()) <= 1,
            "{what}: {got:?} {expected:?}"
        );
    }
}

#[test]
fn top_k_keeps_the_likeliest() {
    for vocab in VOCABS {
        for kind in 0..10 {
            let logits = row(vocab, kind);
            for top_k in [0, 1, 2, 3, 40, 255, 256, 1000, 5000, usize::MAX] {
                let k = if top_k == 0 { usize::MAX } else { top_k };
                let mut expected: Vec<_> =
                    plain(&logits).into_iter().take(k).map(|t| t.0).collect();
                expected.sort_unstable();
                let candidates = filled(&logits, top_k);
                assert_eq!(tokens(&candidates), expected, "{vocab}, {kind}, {top_k}");
            }
        }
    }
}

#[test]
fn rising_and_falling_rows() {
    let rising: Vec<f32> = (0..5000).map(|i| i as f32).collect();
    let falling: Vec<f32> = rising.iter().map(|l| -l).collect();
    assert_eq!(tokens(&filled(&rising, 3)), [4997, 4998, 4999]);
    assert_eq!(tokens(&filled(&falling, 3)), [0, 1, 2]);
    assert_eq!(tokens(&filled(&[2.0; 5000], 3)), [0, 1, 2]);
}

#[test]
fn top_p_keeps_the_likeliest_up_to_the_mass() {
    for vocab in VOCABS {
        for kind in 0..10 {
            let logits = row(vocab, kind);
            for p in [1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 0.999_999] {
                let mut candidates = filled(&logits, 0);
                candidates.top_p(p);
                let expected = shortest(&plain(&logits), p);
                assert_same(&tokens(&candidates), expected, p, &format!("{vocab}, {kind}, {p}"));
            }
        }
    }
}

#[test]
fn typical_keeps_the_nearest_to_the_entropy() {
    for vocab in VOCABS {
        for kind in 1..10 {
            let logits = row(vocab, kind);
            let list = plain(&logits);
            let entropy: f64 =
                list.iter().filter(|(_, q)| *q > 0.0).map(|(_, q)| -q * q.ln()).sum();
            let distance = |q: f64| (-q.ln() - entropy).abs();
            let mut sorted = list.clone();
            sorted.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
            for p in [1e-6, 0.2, 0.5, 0.9, 0.999] {
                let mut candidates = filled(&logits, 0);
                candidates.typical(p);
                let got = tokens(&candidates);
                // Distances differ by rounding, so tokens near the border may swap: hold the set
                // against the border instead of against one order.
                let count = shortest(&sorted, p).0.len();
                let border = distance(sorted[count - 1].1);
                let of = |token: u32| list.iter().find(|t| t.0 == token).expect("possible").1;
                assert!(
                    got.len().abs_diff(count) <= 1,
                    "{vocab}, {kind}, {p}: {} {count}",
                    got.len()
                );
                let slack = 1e-4 * (1.0 + border);
                for &(token, q) in &list {
                    if got.contains(&token) {
                        assert!(distance(of(token)) <= border + slack, "{vocab}, {kind}, {p}");
                    } else {
                        assert!(distance(q) >= border - slack, "{vocab}, {kind}, {p}");
                    }
                }
            }
        }
    }
}

#[test]
fn min_p_keeps_a_share_of_the_likeliest() {
    for vocab in VOCABS {
        for kind in 0..10 {
            let logits = row(vocab, kind);
            let list = plain(&logits);
            for p in [1e-9, 0.01, 0.1, 0.5, 1.0] {
                let mut candidates = filled(&logits, 0);
                candidates.min_p(p);
                let got = tokens(&candidates);
                for &(token, q) in &list {
                    let share = q / list[0].1 / f64::from(p);
                    if (share - 1.0).abs() > 1e-5 {
                        assert_eq!(got.contains(&token), share > 1.0, "{vocab}, {kind}, {p}");
                    }
                }
                assert!(got.contains(&list[0].0), "the likeliest stays");
            }
        }
    }
}

/// Filters after filters: each judges the mass that is left.
#[test]
fn masses_are_of_what_is_left() {
    let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
    let mut candidates = filled(&logits, 2);
    candidates.top_p(0.56);
    assert_eq!(tokens(&candidates), [0], "0.4 of 0.7 is 0.57");
    let mut candidates = filled(&logits, 0);
    candidates.top_p(0.56);
    assert_eq!(tokens(&candidates), [0, 1]);
}

#[test]
fn a_draw_is_the_inverse_of_the_cumulated_mass() {
    let logits = [0.25f32, 0.5, 0.25].map(f32::ln);
    for (share, token) in [(0.0, 0), (0.2, 0), (0.3, 1), (0.7, 1), (0.8, 2), (1.0 - 1e-16, 2)] {
        assert_eq!(filled(&logits, 0).draw(1.0, share), token, "{share}");
    }
    // Weights that vanish are not drawn, not even at the ends.
    let logits = [-1000.0, 0.0, -1000.0];
    for share in [0.0, 0.5, 1.0 - 1e-16] {
        assert_eq!(filled(&logits, 0).draw(1.0, share), 1);
    }
}
