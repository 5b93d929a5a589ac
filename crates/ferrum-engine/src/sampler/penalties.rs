//! Penalties on tokens that came before.

use std::collections::BTreeMap;

use ferrum_models::draw::Adjustment;

use super::SamplingParams;

/// How often each token came within a window at the end of a sequence.
#[derive(Debug, Clone)]
pub(super) struct TokenCounts {
    window: usize,
    counts: BTreeMap<u32, u32>,
    /// Tokens of the history that were looked at.
    seen: usize,
}

impl TokenCounts {
    /// Counts the last `last_n` tokens, or all.
    pub(super) fn new(last_n: Option<usize>) -> Self {
        TokenCounts { window: last_n.unwrap_or(usize::MAX), counts: BTreeMap::new(), seen: 0 }
    }

    /// Takes note of what came since the last call. `history` is the whole sequence.
    pub(super) fn update(&mut self, history: &[u32]) {
        let from = self.seen.max(history.len().saturating_sub(self.window));
        // What leaves the window was counted only if it was within the window before.
        let old_start = self.seen.saturating_sub(self.window);
        let new_start = history.len().saturating_sub(self.window);
        for token in &history[old_start..new_start.min(self.seen)] {
            if let Some(count) = self.counts.get_mut(token) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(token);
                }
            }
        }
        for &token in &history[from..] {
            *self.counts.entry(token).or_default() += 1;
        }
        self.seen = history.len();
    }

    /// Different tokens within the window.
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }
}

/// Logits that are adjusted before tokens are chosen: those of the token after a number of others, and
/// of the ones that follow it.
#[derive(Debug, Clone, Default)]
pub(super) struct Adjusted {
    /// Tokens before the first.
    first: usize,
    /// Each in the order of its tokens, one after another.
    list: Vec<Adjustment>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Adjusted {
    /// Begins with those of the token after `len` others.
    pub(super) fn begin(&mut self, len: usize) {
        self.first = len;
        self.list.clear();
        self.ends.clear();
    }

    /// Those of the next token, after tokens that were counted.
    ///
    /// Repetition after Keskar et al. 2019 (arXiv:1909.05858, section 4.1), which divides the
    /// logit by the penalty; a negative one is multiplied, so that it too gets smaller. Presence
    /// and frequency as in the OpenAI API: `logit - count * frequency - (count > 0) * presence`.
    pub(super) fn push(&mut self, params: &SamplingParams, counts: &TokenCounts) {
        let mut biases = params.logit_bias.iter().copied().peekable();
        for (&token, &count) in &counts.counts {
            while let Some((token, bias)) = biases.next_if(|bias| bias.0 < token) {
                self.list.push(Adjustment::bias(token, bias));
            }
            let bias = biases.next_if(|bias| bias.0 == token).map_or(0.0, |(_, bias)| bias);
            let subtract = count as f32 * params.frequency_penalty + params.presence_penalty;
            let repetition = params.repetition_penalty;
            self.list.push(Adjustment { token, bias, repetition, subtract });
        }
        self.list.extend(biases.map(|(token, bias)| Adjustment::bias(token, bias)));
        self.ends.push(self.list.len());
    }

    /// Those of the token after `len` others.
    pub(super) fn after(&self, len: usize) -> &[Adjustment] {
        let index = len - self.first;
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.list[begin..self.ends[index]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counts: &TokenCounts) -> Vec<(u32, u32)> {
        counts.counts.iter().map(|(&t, &c)| (t, c)).collect()
    }

    /// However the history grows, the counts are those of its last tokens.
    #[test]
    fn windows_slide() {
        let history: Vec<u32> = (0..40).map(|i| i * i % 7).collect();
        for window in [Some(0), Some(1), Some(3), Some(10), Some(39), Some(40), Some(100), None] {
            for stride in [1, 2, 5, 17, 40] {
                let mut counts = TokenCounts::new(window);
                for end in (0..=history.len()).step_by(stride) {
                    counts.update(&history[..end]);
                    let start = end.saturating_sub(window.unwrap_or(usize::MAX));
                    let mut expected = [0; 7];
                    history[start..end].iter().for_each(|&token| expected[token as usize] += 1);
                    let expected: Vec<_> =
                        (0..7).zip(expected).filter(|&(_, count)| count > 0).collect();
                    assert_eq!(counted(&counts), expected, "{window:?}, {stride}, {end}");
                }
            }
        }
    }

    /// Biases between, before, behind and of the tokens that were counted; and of the tokens that follow.
    #[test]
    fn formulae() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            penalty_last_n: None,
            logit_bias: vec![(0, -1.0), (2, 3.0), (3, f32::NEG_INFINITY), (5, 7.0)],
            ..Default::default()
        };
        let mut counts = TokenCounts::new(None);
        let mut adjusted = Adjusted::default();
        for _ in 0..2 {
            counts.update(&[1, 2, 1, 4, 1]);
            adjusted.begin(5);
            adjusted.push(&params, &counts);
            let of = |token, bias, subtract| Adjustment { token, bias, repetition: 2.0, subtract };
            let bias = Adjustment::bias;
            let after_five = [
                bias(0, -1.0),
                of(1, 0.0, 1.75),
                of(2, 3.0, 0.75),
                bias(3, f32::NEG_INFINITY),
                of(4, 0.0, 0.75),
                bias(5, 7.0),
            ];
            assert_eq!(adjusted.after(5), after_five);
            let mut more = counts.clone();
            more.update(&[1, 2, 1, 4, 1, 5]);
            adjusted.push(&params, &more);
            assert_eq!(adjusted.after(5), after_five);
            assert_eq!(adjusted.after(6)[..5], after_five[..5]);
            assert_eq!(adjusted.after(6)[5..], [of(5, 7.0, 0.75)]);
        }
    }
}
