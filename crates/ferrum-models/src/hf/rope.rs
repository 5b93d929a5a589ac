//! RoPE as `config.json` states it: `rope_parameters` of transformers 5, or `rope_theta` and
//! `rope_scaling` of before. Formulas: `modeling_rope_utils.py` of transformers.

use super::config::Settings;
use super::error::HfError;
use super::json::Object;

/// What a model's RoPE is, beyond the settings that were written.
pub(super) struct Rope {
    /// Positions that can be reached, where scaling adds to those of the configuration.
    pub context: Option<u32>,
    /// Tensors of divisors that GGUF keeps, by name.
    pub divisors: Vec<(&'static str, Vec<f32>)>,
}

/// Writes the settings of the RoPE of `config`.
pub(super) fn write(config: Object<'_>, out: &mut Settings) -> Result<Rope, HfError> {
    let parameters = config.object("rope_parameters")?;
    // Models with local layers have one set of parameters for each kind of layer.
    let nested = |kind| match parameters {
        Some(all) => all.object(kind),
        None => Ok(None),
    };
    let (full, sliding) = (nested("full_attention")?, nested("sliding_attention")?);
    let main = full.or(parameters);
    let number = |key: &str| match main.map(|p| p.number(key)).transpose()?.flatten() {
        Some(value) => Ok(Some(value)),
        None => config.number(key),
    };
    if let Some(theta) = number("rope_theta")? {
        out.number("rope.freq_base", theta)?;
    }
    let local = match sliding {
        Some(sliding) => {
            check_default(sliding)?;
            sliding.number("rope_theta")?
        }
        None => config.number("rope_local_base_freq")?,
    };
    if let Some(theta) = local {
        out.number("rope.freq_base_swa", theta)?;
    }
    let rotary_dim = rotary_dim(config, number("partial_rotary_factor")?)?;
    if let Some(dim) = rotary_dim.partial {
        out.count("rope.dimension_count", dim)?;
    }
    let scaling = match main {
        Some(main) => Some(main),
        None => config.object("rope_scaling")?,
    };
    if main.is_some() && config.object("rope_scaling")?.is_some() {
        // Two newer and older words for one thing.
        return Err(config.refuse("rope_scaling"));
    }
    let theta = number("rope_theta")?.unwrap_or(10_000.0);
    match scaling {
        Some(object) => Scaling { config, object, theta, rotary_dim: rotary_dim.whole }.write(out),
        None => Ok(Rope { context: None, divisors: Vec::new() }),
    }
}

/// Local layers have plain RoPE.
fn check_default(parameters: Object<'_>) -> Result<(), HfError> {
    match parameters.text("rope_type")? {
        None | Some("default") => Ok(()),
        Some(_) => Err(parameters.refuse("rope_type")),
    }
}

struct RotaryDim {
    /// Where it is less than a head.
    partial: Option<u32>,
    whole: u32,
}

fn rotary_dim(config: Object<'_>, factor: Option<f64>) -> Result<RotaryDim, HfError> {
    let head_dim = super::config::head_dim(config)?;
    match factor {
        None | Some(1.0) => Ok(RotaryDim { partial: None, whole: head_dim }),
        Some(factor) if factor > 0.0 && factor < 1.0 => {
            let dim = (f64::from(head_dim) * factor) as u32;
            Ok(RotaryDim { partial: Some(dim), whole: dim })
        }
        Some(factor) => {
            Err(HfError::Setting { key: "partial_rotary_factor".into(), value: factor.to_string() })
        }
    }
}

/// `rope_scaling`, or `rope_parameters` of one kind of layer.
struct Scaling<'a> {
    config: Object<'a>,
    object: Object<'a>,
    theta: f64,
    rotary_dim: u32,
}

impl Scaling<'_> {
    fn need(&self, key: &str) -> Result<f64, HfError> {
        let missing = || HfError::Missing { key: format!("rope_scaling.{key}") };
        self.object.number(key)?.filter(|v| *v > 0.0).ok_or_else(missing)
    }

    /// Positions of the model before its context was extended.
    fn original(&self) -> Result<u32, HfError> {
        const KEY: &str = "original_max_position_embeddings";
        // Phi 3 has it outside.
        let stated = self.config.count(KEY)?.or(self.object.count(KEY)?);
        let found = stated.or(self.config.count("max_position_embeddings")?);
        found.filter(|n| *n > 0).ok_or_else(|| HfError::Missing { key: KEY.into() })
    }

    fn write(&self, out: &mut Settings) -> Result<Rope, HfError> {
        let kind = self.object.text("rope_type")?.or(self.object.text("type")?);
        let plain = Rope { context: None, divisors: Vec::new() };
        match kind {
            None | Some("default") => Ok(plain),
            Some("linear") => {
                let factor = self.need("factor")?;
                out.text("rope.scaling.type", "linear")?;
                out.number("rope.scaling.factor", factor)?;
                Ok(plain)
            }
            Some("dynamic") => {
                let (factor, original) = (self.need("factor")?, self.original()?);
                out.text("rope.scaling.type", "dynamic")?;
                out.number("rope.scaling.factor", factor)?;
                out.count("rope.scaling.original_context_length", original)?;
                Ok(Rope { context: Some(times(original, factor)), ..plain })
            }
            Some("llama3") => {
                Ok(Rope { divisors: vec![("rope_freqs.weight", self.llama3()?)], ..plain })
            }
            // The first files of Phi 3 called it so.
            Some("yarn") if self.object.get("short_factor").is_none() => self.yarn(out),
            Some("longrope" | "su" | "yarn") => self.longrope(out),
            Some(_) => {
                let key = if self.object.get("rope_type").is_some() { "rope_type" } else { "type" };
                Err(self.object.refuse(key))
            }
        }
    }

    /// Divisors of the frequencies: 1 for the fast, `factor` for the slow, and between them what
    /// leaves `f · (s + (1 - s) / factor)`, `s` from 0 to 1.
    fn llama3(&self) -> Result<Vec<f32>, HfError> {
        let factor = self.need("factor")?;
        let (low, high) = (self.need("low_freq_factor")?, self.need("high_freq_factor")?);
        let original = f64::from(self.original()?);
        let pairs = self.rotary_dim / 2;
        let divisor = |i: u32| {
            let frequency = self.theta.powf(-f64::from(i) / f64::from(pairs));
            let turns = original * frequency / std::f64::consts::TAU;
            if turns < low {
                factor
            } else if turns > high {
                1.0
            } else {
                let smooth = (turns - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Ok((0..pairs).map(|i| divisor(i) as f32).collect())
    }

    fn yarn(&self, out: &mut Settings) -> Result<Rope, HfError> {
        let original = self.original()?;
        let positions = self.config.count("max_position_embeddings")?;
        let factor = match self.object.number("factor")? {
            Some(factor) if factor > 0.0 => factor,
            Some(_) => return Err(self.object.refuse("factor")),
            None => f64::from(positions.unwrap_or(original)) / f64::from(original),
        };
        out.text("rope.scaling.type", "yarn")?;
        out.number("rope.scaling.factor", factor)?;
        out.count("rope.scaling.original_context_length", original)?;
        for key in ["beta_fast", "beta_slow"] {
            if let Some(beta) = self.object.number(key)? {
                out.number(&format!("rope.scaling.yarn_{key}"), beta)?;
            }
        }
        if let Some(truncate) = self.object.bool("truncate")? {
            out.bool("rope.scaling.yarn_truncate", truncate)?;
        }
        // GGUF states the factor on cosine and sine relative to the usual one.
        let usual = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let attention = match self.object.number("attention_factor")? {
            Some(attention) => attention,
            None => match (self.object.number("mscale")?, self.object.number("mscale_all_dim")?) {
                (Some(a), Some(b)) if a != 0.0 && b != 0.0 => usual(a) / usual(b),
                _ => usual(1.0),
            },
        };
        out.number("rope.scaling.attn_factor", attention / usual(1.0))?;
        Ok(Rope { context: Some(times(original, factor)), divisors: Vec::new() })
    }

    fn longrope(&self, out: &mut Settings) -> Result<Rope, HfError> {
        let original = self.original()?;
        let positions = self.config.count("max_position_embeddings")?.unwrap_or(original);
        let factor = match self.object.number("factor")? {
            Some(factor) => factor,
            None => f64::from(positions) / f64::from(original),
        };
        let attention = match self.object.number("attention_factor")? {
            Some(attention) => attention,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / f64::from(original).ln()).sqrt(),
        };
        out.text("rope.scaling.type", "longrope")?;
        out.number("rope.scaling.attn_factor", attention)?;
        out.count("rope.scaling.original_context_length", original)?;
        let divisors = |key: &str| {
            let missing = || HfError::Missing { key: format!("rope_scaling.{key}") };
            self.object.numbers(key)?.ok_or_else(missing)
        };
        Ok(Rope {
            context: None,
            divisors: vec![
                ("rope_factors_short.weight", divisors("short_factor")?),
                ("rope_factors_long.weight", divisors("long_factor")?),
            ],
        })
    }
}

/// So many times the positions.
fn times(positions: u32, factor: f64) -> u32 {
    (f64::from(positions) * factor) as u32
}
