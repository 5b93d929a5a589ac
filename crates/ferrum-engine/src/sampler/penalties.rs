//! Penalties on tokens that came before.

use std::collections::HashMap;

use super::SamplingParams;

/// How often each token came within a window at the end of a sequence.
#[derive(Debug, Clone)]
pub(super) struct TokenCounts {
    window: usize,
    counts: HashMap<u32, u32>,
    /// Tokens of the history that were looked at.
    seen: usize,
}

impl TokenCounts {
    /// Counts the last `last_n` tokens, or all.
    pub(super) fn new(last_n: Option<usize>) -> Self {
        TokenCounts { window: last_n.unwrap_or(usize::MAX), counts: HashMap::new(), seen: 0 }
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

    /// Applies the three penalties to the logits of the tokens counted.
    ///
    /// Repetition after Keskar et al. 2019 (arXiv:1909.05858, section 4.1), which divides the
    /// logit by the penalty; a negative one is multiplied, so that it too gets smaller. Presence
    /// and frequency as in the OpenAI API: `logit - count * frequency - (count > 0) * presence`.
    pub(super) fn penalise(&self, params: &SamplingParams, logits: &mut [f32]) {
        for (&token, &count) in &self.counts {
            // A prompt token was held against the vocabulary when the request came.
            let logit = &mut logits[token as usize];
            if *logit > 0.0 {
                *logit /= params.repetition_penalty;
            } else {
                *logit *= params.repetition_penalty;
            }
            *logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counts: &TokenCounts) -> Vec<(u32, u32)> {
        let mut list: Vec<_> = counts.counts.iter().map(|(&t, &c)| (t, c)).collect();
        list.sort_unstable();
        list
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

    #[test]
    fn formulae() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            penalty_last_n: None,
            ..Default::default()
        };
        let mut counts = TokenCounts::new(None);
        counts.update(&[1, 2, 1, 3, 1]);
        let mut logits = [4.0, 4.0, -4.0, f32::NEG_INFINITY, -4.0];
        counts.penalise(&params, &mut logits);
        assert_eq!(logits, [4.0, 2.0 - 1.5 - 0.25, -8.0 - 0.5 - 0.25, f32::NEG_INFINITY, -4.0]);
    }
}
