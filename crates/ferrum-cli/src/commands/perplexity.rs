//! `ferrum perplexity`: how well a model predicts a text.
//!
//! The method is that of llama.cpp's llama-perplexity: the text's tokens, with the
//! beginning-of-text token in front if the model wants one, are cut into windows of N tokens that
//! do not overlap, and a rest that fills no window is left out. Each window is read from an empty
//! cache, its first token replaced by the beginning-of-text token if the model wants one. The
//! logits of its positions `N/2 ..= N-2` are held against the tokens that follow them. The value is
//! `exp(mean(-ln p))`, its uncertainty the standard error of the mean, carried through the `exp`.

use std::fs;
use std::io::{self, Write};

use anyhow::{Context, Result, anyhow, bail};
use ferrum_models::runner::Runner;
use ferrum_models::{LoadOptions, load};
use serde::Serialize;

use crate::args::PerplexityArgs;
use crate::config::Config;
use crate::packed::Lockstep;
use crate::session::open_model;

/// Bytes of logits that a step may ask for; vocabularies differ by a factor of ten.
const LOGITS_BYTES: usize = 64 << 20;
/// Tokens of the largest step.
const STEP_TOKENS: usize = 512;

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Report {
    perplexity: f64,
    uncertainty: f64,
    windows: usize,
    scored_tokens: usize,
    text_tokens: usize,
    context: usize,
}

/// Measures and prints.
pub fn run(args: &PerplexityArgs, config: &Config) -> Result<()> {
    let context = args.context as usize;
    let bytes =
        fs::read(&args.text).with_context(|| format!("cannot read {}", args.text.display()))?;
    let text = String::from_utf8(bytes)
        .with_context(|| format!("{} is not a UTF-8 text", args.text.display()))?;
    let file = open_model(&args.model, config)?;
    let tokenizer = file.tokenizer()?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let tokens: Vec<u32> = bos.into_iter().chain(tokenizer.encode_text(&text)).collect();
    let all = tokens.len() / context;
    let windows = args.windows.map_or(all, |n| all.min(n as usize));
    if windows == 0 {
        bail!("the text has {} tokens, fewer than one window of {context}", tokens.len());
    }
    let rows = (LOGITS_BYTES / (4 * tokenizer.vocab_size().max(1))).clamp(1, STEP_TOKENS);
    let options = LoadOptions {
        context: Some(context),
        max_samples: Some(rows),
        step_tokens: STEP_TOKENS,
        lora: args.lora.sources(),
        ..args.load.options(&config.cuda)
    };
    let mut runner = load(&*file.checkpoint, &options)?;
    let mut out = io::stdout().lock();
    let mut score = Score::default();
    for (n, window) in tokens.chunks_exact(context).take(windows).enumerate() {
        let mut window = window.to_vec();
        window[0] = bos.unwrap_or(window[0]);
        score_window(&mut *runner, &window, rows, &mut score)?;
        if !config.quiet && !args.json {
            writeln!(out, "[{}/{windows}] {:.4}", n + 1, score.perplexity())?;
            out.flush()?;
        }
    }
    let (perplexity, uncertainty) = (score.perplexity(), score.uncertainty());
    if args.json {
        let report = Report {
            perplexity,
            uncertainty,
            windows,
            scored_tokens: score.count,
            text_tokens: tokens.len(),
            context,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "perplexity {perplexity:.4} ± {uncertainty:.4}")?;
    }
    Ok(())
}

/// Reads one window and scores the tokens of its second half.
fn score_window(
    runner: &mut dyn Runner,
    window: &[u32],
    rows: usize,
    score: &mut Score,
) -> Result<()> {
    let vocab = runner.limits().vocab;
    let mut cache = Lockstep::new(runner.limits(), 1)
        .ok_or_else(|| anyhow!("the KV cache has no room for a window"))?;
    let (first, last) = (window.len() / 2, window.len() - 1);
    for part in window[..first].chunks(STEP_TOKENS) {
        runner.step(&cache.append(part, 0))?;
    }
    // The last token predicts nothing that is known, so it is not read.
    for start in (first..last).step_by(rows) {
        let end = (start + rows).min(last);
        let logits = runner.step(&cache.append(&window[start..end], end - start))?;
        if logits.len() != (end - start) * vocab {
            bail!("the model returned {} logits for {} rows", logits.len(), end - start);
        }
        for (row, next) in logits.chunks_exact(vocab).zip(&window[start + 1..=end]) {
            score.add(negative_log_likelihood(row, *next)?);
        }
    }
    Ok(())
}

/// `-ln softmax(logits)[token]`, in double precision.
fn negative_log_likelihood(logits: &[f32], token: u32) -> Result<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    let logit = logits
        .get(token as usize)
        .ok_or_else(|| anyhow!("token {token} is outside the model's vocabulary"))?;
    let value = sum.ln() - f64::from(logit - max);
    if value.is_finite() { Ok(value) } else { bail!("the model's logits are not finite") }
}

/// Sums of negative log-likelihoods.
#[derive(Debug, Default)]
struct Score {
    sum: f64,
    squares: f64,
    count: usize,
}

impl Score {
    fn add(&mut self, nll: f64) {
        self.sum += nll;
        self.squares += nll * nll;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// The standard error of the mean times the derivative of `exp`.
    fn uncertainty(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let variance = (self.squares / self.count as f64 - self.mean().powi(2)).max(0.0);
        (variance / (self.count - 1) as f64).sqrt() * self.perplexity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_of_a_known_distribution() {
        // ln of 1, 2 and 5: probabilities 1/8, 2/8 and 5/8, whatever is added to all.
        for offset in [0.0f32, 80.0, -80.0] {
            let logits: Vec<f32> = [1.0f32, 2.0, 5.0].iter().map(|p| p.ln() + offset).collect();
            for (token, p) in [(0, 0.125f64), (1, 0.25), (2, 0.625)] {
                let got = negative_log_likelihood(&logits, token).unwrap();
                assert!((got + p.ln()).abs() < 1e-5, "{got} for {p}");
            }
        }
        assert!(negative_log_likelihood(&[0.0], 1).is_err());
        assert!(negative_log_likelihood(&[f32::NAN, 0.0], 0).is_err());
    }

    #[test]
    fn perplexity_of_equal_odds() {
        let mut score = Score::default();
        (0..10).for_each(|_| score.add(4f64.ln()));
        assert!((score.perplexity() - 4.0).abs() < 1e-12);
        assert!(score.uncertainty() < 1e-6);
        score.add(0.0);
        assert!(score.uncertainty() > 0.0);
    }
}
