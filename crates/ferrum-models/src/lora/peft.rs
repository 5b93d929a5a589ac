//! Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`,
//! whose tensors are `base_model.model.MODULE.lora_A.weight` and `….lora_B.weight`.
//!
//! Its settings mean what PEFT makes of them (`peft/tuners/lora/config.py`): a module's rank is `r`
//! or that of the first key of `rank_pattern` that fits its name, `alpha` likewise, and the factor is
//! `alpha / r`, or `alpha / √r` with `use_rslora` (Kalajdzievski 2023, arXiv:2312.03732).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Opened, Pair, Store};
use crate::arch;
use crate::checkpoint::Layout;
use crate::hf::json::{self, Object};
use crate::hf::{HfError, Shards, StoredTensor, module_of};
use crate::pattern::Pattern;

/// The file of the tensors.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// What PEFT puts in front of the name of a module.
const PREFIX: &str = "base_model.model.";

/// Settings that are read.
const READ: &[&str] = &[
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "init_lora_weights",
    "bias",
];

/// Settings of training, or of who made it: they say nothing of the result.
const BESIDE: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "lora_dropout",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    "qalora_group_size",
    "ensure_weight_tying",
];

/// Ways of starting the training that leave the weights of the model as they are; the others take a
/// part out of them, which is missing where the adapter is applied to the model as it was.
const PLAIN_STARTS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// What `adapter_config.json` says.
pub(super) struct Config {
    rank: f64,
    alpha: f64,
    rslora: bool,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
    targets: Modules,
    excluded: Option<Modules>,
    layers: Option<Vec<u64>>,
}

/// Which modules are meant.
enum Modules {
    /// All linears but the output head.
    AllLinear,
    /// Those whose names are, or end with, one of these.
    Names(Vec<String>),
    /// Those whose whole name this fits.
    Pattern(Pattern),
}

impl Modules {
    fn has(&self, name: &str) -> bool {
        let ends =
            |end: &String| name.strip_suffix(end.as_str()).is_some_and(|rest| rest.ends_with('.'));
        match self {
            Modules::AllLinear => name != "lm_head",
            Modules::Names(names) => names.iter().any(|end| name == end || ends(end)),
            Modules::Pattern(pattern) => pattern.matches(name),
        }
    }
}

/// An error of `adapter_config.json` in words.
fn text(error: HfError) -> String {
    match error {
        HfError::Setting { key, value } => format!("{CONFIG}: {key:?} = {value} is not supported"),
        other => other.to_string(),
    }
}

impl Config {
    /// Reads the settings; what is not honoured is refused by name.
    pub fn read(json: &Map<String, Value>) -> Result<Self, String> {
        let config = Object(json);
        for key in json.keys().filter(|key| !READ.contains(&key.as_str())) {
            if !BESIDE.contains(&key.as_str()) && config.get(key).is_some_and(|v| !is_neutral(v)) {
                return Err(text(config.refuse(key)));
            }
        }
        let known =
            [("peft_type", "\"LORA\""), ("task_type", "\"CAUSAL_LM\""), ("bias", "\"none\"")];
        config.refuse_unless(&known).map_err(text)?;
        let start = config.get("init_lora_weights");
        let plain = |v: &Value| {
            v.is_boolean() || v.as_str().is_some_and(|name| PLAIN_STARTS.contains(&name))
        };
        if start.is_some_and(|v| !plain(v)) {
            return Err(text(config.refuse("init_lora_weights")));
        }
        let number = |key: &str| match config.number(key).map_err(text)? {
            Some(n) => Ok(n),
            None => Err(format!("{CONFIG}: {key:?} is missing")),
        };
        let targets = modules(config, "target_modules")?;
        Ok(Config {
            rank: number("r")?,
            alpha: number("lora_alpha")?,
            rslora: config.bool("use_rslora").map_err(text)?.unwrap_or(false),
            ranks: patterns(config, "rank_pattern")?,
            alphas: patterns(config, "alpha_pattern")?,
            targets: targets.ok_or_else(|| format!("{CONFIG}: \"target_modules\" is missing"))?,
            excluded: modules(config, "exclude_modules")?,
            layers: layers(config)?,
        })
    }

    /// The factor of a module's product, whose matrices are of this rank.
    pub fn factor(&self, module: &str, rank: usize) -> Result<f32, String> {
        let excluded = self.excluded.as_ref().is_some_and(|modules| modules.has(module));
        if excluded || !self.targets.has(module) || !self.has_layer(module) {
            return Err(format!("{module:?} is changed, though {CONFIG} does not say so"));
        }
        let own = |patterns: &[(Pattern, f64)], general: f64| {
            patterns.iter().find(|(p, _)| p.matches(module)).map_or(general, |(_, n)| *n)
        };
        let stated = own(&self.ranks, self.rank);
        if stated != rank as f64 {
            return Err(format!("{module:?} is of rank {rank}, and {CONFIG} says {stated}"));
        }
        let divisor = if self.rslora { stated.sqrt() } else { stated };
        Ok((own(&self.alphas, self.alpha) / divisor) as f32)
    }

    fn has_layer(&self, module: &str) -> bool {
        let Some(layers) = &self.layers else { return true };
        // `.*?\.[^.]*\.(\d+)\.`: the first number after two names.
        let parts: Vec<&str> = module.split('.').collect();
        let inner = parts.len().saturating_sub(1);
        let index = parts[..inner].iter().skip(2).find_map(|part| part.parse::<u64>().ok());
        index.is_some_and(|index| layers.contains(&index))
    }
}

/// Whether a setting that is not known says nothing.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Bool(b) => !b,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Null => true,
        Value::Number(_) => false,
    }
}

fn modules(config: Object<'_>, key: &str) -> Result<Option<Modules>, String> {
    let names = |all: &[Value]| -> Option<Vec<String>> {
        all.iter().map(|name| name.as_str().map(str::to_string)).collect()
    };
    Ok(match config.get(key) {
        None => None,
        Some(Value::String(name)) if name == "all-linear" => Some(Modules::AllLinear),
        Some(Value::String(name)) if name.is_empty() => None,
        Some(Value::String(pattern)) => Some(Modules::Pattern(Pattern::whole(pattern)?)),
        Some(Value::Array(all)) => match names(all) {
            Some(names) if names.is_empty() => None,
            Some(names) => Some(Modules::Names(names)),
            None => return Err(text(config.refuse(key))),
        },
        Some(_) => return Err(text(config.refuse(key))),
    })
}

/// Numbers by pattern, in their order.
fn patterns(config: Object<'_>, key: &str) -> Result<Vec<(Pattern, f64)>, String> {
    let Some(object) = config.object(key).map_err(text)? else { return Ok(Vec::new()) };
    let one = |name: &String| match object.number(name).map_err(text)? {
        Some(number) => Ok((Pattern::tail(name)?, number)),
        None => Err(text(config.refuse(key))),
    };
    object.0.keys().map(one).collect()
}

fn layers(config: Object<'_>) -> Result<Option<Vec<u64>>, String> {
    let key = "layers_to_transform";
    let read = |all: &[Value]| all.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
    let layers = match config.get(key) {
        None => return Ok(None),
        Some(Value::Array(all)) if all.is_empty() => return Ok(None),
        Some(Value::Array(all)) => read(all),
        Some(one) => read(std::slice::from_ref(one)),
    };
    layers.map(Some).ok_or_else(|| text(config.refuse(key)))
}

/// Opens an adapter for a model of this architecture.
pub(super) fn open(folder: &Path, architecture: &str) -> Result<Opened, String> {
    let json: Option<Map<String, Value>> = json::read(&folder.join(CONFIG)).map_err(text)?;
    let Some(json) = json else {
        return Err(format!("there is no {CONFIG} in this folder, so it is no adapter"));
    };
    let config = Config::read(&json)?;
    let shards = Shards::open_single(folder, WEIGHTS).map_err(text)?;
    let pairs = pairs(&shards, &config, architecture)?;
    Ok(Opened { store: Store::Folder(shards), pairs, layout: Layout::HuggingFace })
}

fn pairs(shards: &Shards, config: &Config, architecture: &str) -> Result<Vec<Pair>, String> {
    let mut halves: BTreeMap<&str, [Option<usize>; 2]> = BTreeMap::new();
    for (index, tensor) in shards.tensors.iter().enumerate() {
        let name = &tensor.raw.name;
        let half = name.strip_prefix(PREFIX).and_then(|rest| {
            let a = rest.strip_suffix(".lora_A.weight").map(|module| (module, 0));
            a.or_else(|| rest.strip_suffix(".lora_B.weight").map(|module| (module, 1)))
        });
        let Some((module, half)) = half else {
            return Err(format!("the tensor {name:?} is not supported"));
        };
        halves.entry(module).or_default()[half] = Some(index);
    }
    let architecture = arch::by_name(architecture)
        .ok_or_else(|| format!("the architecture {architecture:?} is not known"))?;
    let pair = |(name, halves): (&str, [Option<usize>; 2])| {
        let [Some(a), Some(b)] = halves else {
            return Err(format!("lora_A and lora_B of {name:?} are not both there"));
        };
        let (a_shape, b_shape) = (matrix(&shards.tensors[a])?, matrix(&shards.tensors[b])?);
        let module = module_of(name, architecture).ok_or_else(|| {
            format!("{name:?} is no linear of this model that an adapter can change")
        })?;
        let (name, factor) = (name.to_string(), config.factor(name, a_shape[0])?);
        Ok(Pair { module, name, a, b, a_shape, b_shape, factor })
    };
    halves.into_iter().map(pair).collect()
}

fn matrix(tensor: &StoredTensor) -> Result<[usize; 2], String> {
    let raw = &tensor.raw;
    match (raw.shape.as_slice(), raw.dtype.format()) {
        ([rows, cols], Some(_)) if *rows > 0 && *cols > 0 => Ok([*rows, *cols]),
        (shape, _) => Err(format!(
            "the tensor {:?} of type {} has the shape {shape:?}, which no adapter has",
            raw.name, raw.dtype
        )),
    }
}
