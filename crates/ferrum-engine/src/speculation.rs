//! Speculation: tokens that may follow are proposed, and the model judges all of them in one step.
//! They come from the text itself, where what followed the last tokens before is proposed as what
//! follows now (Saxena 2023, prompt lookup decoding), from a grammar, where it leaves no choice of
//! what comes next, or from a draft model ([`crate::draft`]; Leviathan et al. 2023, fast inference
//! from transformers via speculative decoding).
//!
//! It is exact. The token after each proposed one is sampled as it would be without speculation,
//! from the logits that the same prefix gives; a proposal counts only as far as it is equal to what
//! was sampled. So greedy text is the same, and so is every draw.

/// Tokens at the end of a sequence that must have stood before, at least.
const LEAST_MATCH: usize = 3;
/// Longer matches are not preferred to one of this length.
const LONGEST_MATCH: usize = 8;
/// Tokens that are searched, from the end: what bounds the time that a search takes.
const SEARCHED: usize = 16_384;
/// How much the last judgement of a proposed token counts.
const RECENT: f64 = 0.1;
/// Proposals are run only if they promise this much more than none: a step that is expected to be
/// hardly faster may well be slower.
const GAIN: f64 = 1.05;

/// Up to `most` tokens that may follow `tokens`; none if their end did not stand before.
pub(crate) fn propose(tokens: &[u32], most: usize) -> Vec<u32> {
    let tokens = &tokens[tokens.len().saturating_sub(SEARCHED)..];
    let matching = |end: usize| {
        let pairs = tokens[..end].iter().rev().zip(tokens.iter().rev());
        pairs.take(LONGEST_MATCH).take_while(|(a, b)| a == b).count()
    };
    let mut best = (0, 0);
    // The latest of the longest.
    for end in (1..tokens.len()).rev() {
        if tokens[end - 1] == tokens[tokens.len() - 1] {
            let length = matching(end);
            if length > best.0 {
                best = (length, end);
            }
            if length == LONGEST_MATCH {
                break;
            }
        }
    }
    let (length, end) = best;
    if length < LEAST_MATCH {
        return Vec::new();
    }
    // Where the end of the sequence comes first, it goes on as it has since the match.
    let period = tokens.len() - end;
    (0..most).map(|i| tokens[end + i % period]).collect()
}

/// Where proposed tokens come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Source {
    /// The text itself.
    #[default]
    Lookup,
    /// The grammar of the answer.
    Grammar,
    /// A draft model.
    Draft,
}

/// How often proposed tokens of a request were right.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Acceptance(f64);

impl Default for Acceptance {
    fn default() -> Self {
        // Worth a try on most machines.
        Acceptance(0.6)
    }
}

impl Acceptance {
    /// Of text that must come, of which only the spelling is a guess.
    pub(crate) const FORESEEN: Acceptance = Acceptance(0.9);

    /// Learns what was sampled where `proposed` was proposed, whether or not it was run.
    pub(crate) fn judge(&mut self, proposed: &[u32], sampled: &[u32]) {
        for (proposed, sampled) in proposed.iter().zip(sampled) {
            let right = proposed == sampled;
            self.0 += RECENT * (f64::from(u8::from(right)) - self.0);
            if !right {
                break;
            }
        }
    }

    /// Tokens that a step is expected to give if `count` are proposed and each is right with this
    /// probability, if those before it are.
    fn tokens(self, count: usize) -> f64 {
        (0..=count).map(|n| self.0.powi(n as i32)).sum()
    }
}

/// A step as it is so far, to be extended by proposals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speculation {
    /// Tokens that it is expected to give.
    pub(crate) tokens: f64,
    /// Seconds that it is expected to take.
    pub(crate) seconds: f64,
    /// Seconds that each proposed token adds.
    pub(crate) per_token: f64,
}

impl Speculation {
    /// How many of `most` proposed tokens to run for a request, so that tokens come fastest; books
    /// them.
    pub(crate) fn add(&mut self, acceptance: Acceptance, most: usize) -> usize {
        let extended = |count: usize| Speculation {
            tokens: self.tokens - 1.0 + acceptance.tokens(count),
            seconds: self.seconds + count as f64 * self.per_token,
            ..*self
        };
        let (mut best, mut speed) = (0, GAIN * self.speed());
        for count in 1..=most {
            if extended(count).speed() > speed {
                (best, speed) = (count, extended(count).speed());
            }
        }
        *self = extended(best);
        best
    }

    /// How many tokens a draft model should propose for each request of these acceptances, at most
    /// `most`, so that tokens come fastest: each takes a step of `draft` seconds of the draft model
    /// before it is judged. 0: it does not pay.
    pub(crate) fn depth(&self, requests: &[Acceptance], draft: f64, most: usize) -> usize {
        let count = requests.len() as f64;
        let at = |depth: usize| {
            let gained: f64 = requests.iter().map(|a| a.tokens(depth) - 1.0).sum();
            let seconds = depth as f64 * (draft + count * self.per_token);
            Speculation { tokens: self.tokens + gained, seconds: self.seconds + seconds, ..*self }
        };
        let (mut best, mut speed) = (0, GAIN * self.speed());
        for depth in 1..=most {
            if at(depth).speed() > speed {
                (best, speed) = (depth, at(depth).speed());
            }
        }
        best
    }

    fn speed(&self) -> f64 {
        // Before a step was measured, any proposal promises more.
        self.tokens / self.seconds.max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_proposed() {
        let text = [1, 2, 3, 4, 5, 9, 1, 2, 3];
        assert_eq!(propose(&text, 2), [4, 5]);
        assert_eq!(propose(&text, 6), [4, 5, 9, 1, 2, 3]);
        // A loop goes on, however far.
        assert_eq!(propose(&[7, 8, 7, 8, 7, 8], 5), [7, 8, 7, 8, 7]);
        assert_eq!(propose(&[6, 6, 6, 6], 3), [6, 6, 6]);
        // The longest match wins, and among equals the latest.
        assert_eq!(propose(&[0, 1, 2, 3, 50, 9, 1, 2, 3, 60, 0, 1, 2, 3], 1), [50]);
        assert_eq!(propose(&[0, 1, 2, 3, 50, 0, 1, 2, 3, 60, 0, 1, 2, 3], 1), [60]);
    }

    #[test]
    fn nothing_is_proposed_without_a_match() {
        for text in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4], &[2, 3, 4, 1, 3, 4, 5, 3, 4]] {
            assert!(propose(text, 4).is_empty(), "{text:?}");
        }
        assert!(propose(&[6, 6, 6, 6], 0).is_empty());
    }

    /// Sums of geometric series.
    #[test]
    fn expected_tokens() {
        for (p, count, tokens) in [(0.5, 0, 1.0), (0.5, 2, 1.75), (0.0, 5, 1.0), (1.0, 5, 6.0)] {
            assert!((Acceptance(p).tokens(count) - tokens).abs() < 1e-12);
        }
    }

    #[test]
    fn judgements_end_at_the_first_that_was_wrong() {
        let mut a = Acceptance(0.5);
        a.judge(&[1, 2, 3], &[1, 9, 3]);
        assert!((a.0 - (0.55 - 0.055)).abs() < 1e-12);
        a.judge(&[], &[1]);
        a.judge(&[1], &[]);
        assert!((a.0 - (0.55 - 0.055)).abs() < 1e-12);
    }

    #[test]
    fn a_draft_model_is_asked_where_it_pays() {
        let alone = Speculation { tokens: 1.0, seconds: 10e-3, per_token: 0.5e-3 };
        let depth = |p, draft| alone.depth(&[Acceptance(p)], draft, 8);
        assert_eq!(depth(0.9, 1e-3), 8);
        assert!((1..6).contains(&depth(0.6, 1e-3)));
        assert_eq!(depth(0.1, 1e-3), 0, "it is hardly ever right");
        assert_eq!(depth(0.9, 12e-3), 0, "it is slower than the model");
        let crowd = Speculation { tokens: 16.0, seconds: 40e-3, per_token: 2e-3 };
        assert_eq!(crowd.depth(&[Acceptance(0.7); 16], 8e-3, 8), 0);
        assert_eq!(alone.depth(&[Acceptance(0.9)], 1e-3, 0), 0);
    }

    /// One sequence whose weights are read anyway gains; many that fill the machine do not.
    #[test]
    fn proposals_are_run_where_they_pay() {
        let alone = Speculation { tokens: 1.0, seconds: 4e-3, per_token: 1e-3 };
        assert_eq!({ alone }.add(Acceptance(0.1), 8), 0);
        let some = { alone }.add(Acceptance(0.7), 8);
        let many = { alone }.add(Acceptance(0.95), 8);
        assert!((1..8).contains(&some) && many > some, "{some}, {many}");
        let crowd = Speculation { tokens: 16.0, seconds: 20e-3, per_token: 1e-3 };
        assert_eq!({ crowd }.add(Acceptance(0.7), 8), 0);
        let mut booked = alone;
        let count = booked.add(Acceptance(0.9), 3);
        assert_eq!(count, 3);
        assert!((booked.tokens - 3.439).abs() < 1e-9 && (booked.seconds - 7e-3).abs() < 1e-12);
    }
}
