//! Sampling parameters and their ranges.

/// How the tokens of a request are chosen. The default is the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it before the draw; at least 0. 0: always the most likely token.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens. 0: off.
    pub top_k: usize,
    /// Keeps the tokens whose information is nearest to the entropy, up to this mass (Meister et
    /// al. 2023, arXiv:2202.00666); above 0, at most 1. 1: off.
    pub typical_p: f32,
    /// Keeps the most likely tokens up to this mass (Holtzman et al. 2020, arXiv:1904.09751);
    /// above 0, at most 1. 1: off.
    pub top_p: f32,
    /// Keeps the tokens at least this many times as likely as the likeliest (Nguyen et al. 2024,
    /// arXiv:2407.01082); from 0 to 1. 0: off.
    pub min_p: f32,
    /// Divides the positive logits of tokens that came before and multiplies the negative ones
    /// (Keskar et al. 2019, arXiv:1909.05858); from 0.01 to 100. 1: off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token that came before; from -100 to 100. 0: off.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token once for each time it came before; from -100 to 100.
    /// 0: off.
    pub frequency_penalty: f32,
    /// The three penalties look at this many last tokens, prompt included. `None`: at all.
    pub penalty_last_n: Option<usize>,
    /// Added to the logits of these tokens, once for each entry. Minus infinity bans a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws. `None`: the engine gives each request another one.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            typical_p: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: Some(64),
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// A sampling parameter outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} must be {expected}, not {got}")]
pub struct ParamError {
    /// Name of the field in [`SamplingParams`].
    pub field: &'static str,
    /// Its range, in words.
    pub expected: String,
    /// What was given.
    pub got: String,
}

impl SamplingParams {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        SamplingParams { temperature: 0.0, ..Default::default() }
    }

    /// Whether a penalty has an effect.
    pub(super) fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }

    /// Whether logits are adjusted, by a bias or a penalty.
    pub(super) fn adjusts(&self) -> bool {
        self.has_penalties() || !self.logit_bias.is_empty()
    }

    /// Puts the biases in the order of their tokens, and adds up those of one token.
    pub(super) fn merge_biases(&mut self) {
        self.logit_bias.sort_by_key(|&(token, _)| token);
        self.logit_bias.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 += later.1;
            }
            same
        });
    }

    /// Holds each parameter against its range, for a vocabulary of `vocab` tokens.
    pub fn validate(&self, vocab: usize) -> Result<(), ParamError> {
        let p = self;
        let range = |field, value: f32, valid: bool, expected: &str| {
            let error = || ParamError { field, expected: expected.into(), got: value.to_string() };
            if valid { Ok(()) } else { Err(error()) }
        };
        let above_0_to_1 = |x: f32| x > 0.0 && x <= 1.0;
        let non_negative = p.temperature.is_finite() && p.temperature >= 0.0;
        range("temperature", p.temperature, non_negative, "0 or a positive number")?;
        range("typical_p", p.typical_p, above_0_to_1(p.typical_p), "above 0 and at most 1")?;
        range("top_p", p.top_p, above_0_to_1(p.top_p), "above 0 and at most 1")?;
        range("min_p", p.min_p, (0.0..=1.0).contains(&p.min_p), "from 0 to 1")?;
        // Beyond these, logits overflow.
        let valid = (0.01..=100.0).contains(&p.repetition_penalty);
        range("repetition_penalty", p.repetition_penalty, valid, "from 0.01 to 100")?;
        for (field, value) in
            [("presence_penalty", p.presence_penalty), ("frequency_penalty", p.frequency_penalty)]
        {
            range(field, value, value.abs() <= 100.0, "from -100 to 100")?;
        }
        for &(token, bias) in &p.logit_bias {
            if token as usize >= vocab {
                let expected = format!("about tokens below {vocab}");
                return Err(ParamError { field: "logit_bias", expected, got: token.to_string() });
            }
            range("logit_bias", bias, bias < f32::INFINITY, "finite or minus infinity")?;
        }
        Ok(())
    }
}
