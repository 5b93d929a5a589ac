//! Flags on how tokens are chosen.

use clap::Args;
use ferrum_engine::SamplingParams;

/// How tokens are chosen. The defaults are those of llama.cpp's command line.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling options")]
pub struct SamplingArgs {
    /// Higher is more varied; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temperature: f32,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: u32,
    /// Keep the most likely tokens up to this probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep the tokens at least P times as likely as the likeliest; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Locally typical sampling up to this probability; 1 is off
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub typical: f32,
    /// Make tokens that came before less likely by this factor; 1 is off
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// Subtract this from the logits of tokens that came before; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtract this from a token's logit for each time it came before; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Tokens that the penalties look back; 0 is all
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub repeat_last_n: u32,
    /// Make the draws repeatable
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Add V to the logit of token ID (-inf bans it); may be given more than once
    #[arg(long, value_name = "ID=V", value_parser = logit_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
}

impl SamplingArgs {
    /// What the engine takes; it holds the values against their ranges. `entropy` seeds the draws
    /// where the user gives no seed.
    pub fn params(&self, entropy: u64) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k as usize,
            typical_p: self.typical,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_last_n: (self.repeat_last_n > 0).then_some(self.repeat_last_n as usize),
            logit_bias: self.logit_bias.clone(),
            seed: Some(self.seed.unwrap_or(entropy)),
        }
    }
}

/// `ID=V`.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, value) = text.split_once('=').ok_or("not of the form ID=V")?;
    let id = id.trim().parse().map_err(|_| format!("'{id}' is not a token id"))?;
    let value: f32 = value.trim().parse().map_err(|_| format!("'{value}' is not a number"))?;
    if value.is_nan() {
        return Err("NaN is not a bias".into());
    }
    Ok((id, value))
}
