//! What the files of sentence-transformers say: `modules.json` and those it leads to.

use std::path::Path;

use serde_json::{Map, Value};

use super::Pooling;
use crate::hf::HfError;
use crate::hf::json::{self, Object};

/// Flags of `1_Pooling/config.json`. One that is not known here is refused where it is set.
const FLAGS: &[(&str, Option<Pooling>)] = &[
    ("pooling_mode_cls_token", Some(Pooling::Cls)),
    ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
    ("pooling_mode_max_tokens", Some(Pooling::Max)),
    ("pooling_mode_mean_sqrt_len_tokens", Some(Pooling::MeanSqrtLen)),
    ("pooling_mode_lasttoken", Some(Pooling::Last)),
    ("pooling_mode_weightedmean_tokens", None),
];

/// How texts become vectors, beside the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// Hidden states to one vector.
    pub pooling: Pooling,
    /// Whether vectors get the length 1.
    pub normalize: bool,
    /// Tokens of the longest text, special ones included, as far as the files say.
    pub max_tokens: Option<usize>,
    /// Texts are made lower case before they are cut.
    pub lowercase: bool,
    /// Put in front of every text.
    pub prompt: String,
}

impl Sentence {
    /// Reads the files in `folder`. A folder without `modules.json` is pooled by its mean and not
    /// normalised, as sentence-transformers does it.
    pub fn read(folder: &Path) -> Result<Self, HfError> {
        let mut out = Sentence {
            pooling: Pooling::Mean,
            normalize: false,
            max_tokens: None,
            lowercase: false,
            prompt: String::new(),
        };
        let object = |name: &str| json::read::<Map<String, Value>>(&folder.join(name));
        if let Some(modules) = json::read::<Vec<Map<String, Value>>>(&folder.join("modules.json"))?
        {
            out.modules(folder, &modules)?;
        }
        if let Some(config) = object("sentence_bert_config.json")? {
            let config = Object(&config);
            out.max_tokens = config.count("max_seq_length")?.map(|n| n as usize);
            out.lowercase = config.bool("do_lower_case")?.unwrap_or(false);
        }
        let tokenizer = object("tokenizer_config.json")?.unwrap_or_default();
        // Without a limit this is a number like 1e30.
        let longest = Object(&tokenizer).number("model_max_length")?.map(|n| n as usize);
        out.max_tokens = out.max_tokens.or(longest);
        if let Some(config) = object("config_sentence_transformers.json")? {
            out.prompt = default_prompt(Object(&config))?;
        }
        Ok(out)
    }

    fn modules(&mut self, folder: &Path, modules: &[Map<String, Value>]) -> Result<(), HfError> {
        let mut kinds = Vec::new();
        for module in modules.iter().map(Object) {
            let missing = || HfError::Missing { key: "type of a module".into() };
            let kind = module.text("type")?.ok_or_else(missing)?;
            let kind = kind.rsplit('.').next().unwrap_or(kind);
            if kind == "Pooling" {
                let path = module.text("path")?.unwrap_or_default();
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
                if path.is_empty() || !path.chars().all(plain) {
                    return Err(module.refuse("path"));
                }
                let path = folder.join(path).join("config.json");
                let config = json::read::<Map<String, Value>>(&path)?;
                self.pooling = pooling(Object(&config.ok_or(HfError::NoConfig { path })?))?;
            }
            kinds.push(kind);
        }
        match kinds.as_slice() {
            ["Transformer", "Pooling"] => {}
            ["Transformer", "Pooling", "Normalize"] => self.normalize = true,
            other => {
                // The one that is not known, or all of them where only their order is.
                let known = ["Transformer", "Pooling", "Normalize"];
                let unknown = other.iter().find(|kind| !known.contains(kind));
                let value = unknown.map_or_else(|| other.join(", "), ToString::to_string);
                return Err(HfError::Setting { key: "modules.json".into(), value });
            }
        }
        Ok(())
    }
}

/// `1_Pooling/config.json`: a name, or one flag that is set.
fn pooling(config: Object<'_>) -> Result<Pooling, HfError> {
    if let Some(name) = config.text("pooling_mode")? {
        return name.parse().map_err(|_| config.refuse("pooling_mode"));
    }
    let mut found = None;
    for (key, pooling) in FLAGS {
        if !config.bool(key)?.unwrap_or(false) {
            continue;
        }
        // Vectors that are several poolings, one after the other, are not done.
        match (pooling, found) {
            (Some(pooling), None) => found = Some(*pooling),
            _ => return Err(config.refuse(key)),
        }
    }
    found.ok_or_else(|| HfError::Missing { key: "pooling_mode_mean_tokens".into() })
}

/// The prompt that sentence-transformers puts in front of texts where none is asked for.
fn default_prompt(config: Object<'_>) -> Result<String, HfError> {
    let Some(name) = config.text("default_prompt_name")? else { return Ok(String::new()) };
    let prompts = config.object("prompts")?;
    let text = prompts.map(|p| p.text(name)).transpose()?.flatten();
    text.map(str::to_string).ok_or_else(|| config.refuse("default_prompt_name"))
}
