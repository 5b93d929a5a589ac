//! What the files of sentence-transformers say: `modules.json` and those it leads to.

use std::path::{Path, PathBuf};

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

/// The package whose modules are known. A class of the same name from elsewhere is another class.
const PACKAGE: &str = "sentence_transformers.";

/// Arguments that sentence-transformers passes on to the classes of transformers. Those beside are
/// refused: they may change the result.
const ARGUMENTS: &[&str] = &[
    "model_args",
    "tokenizer_args",
    "config_args",
    "model_kwargs",
    "processor_kwargs",
    "config_kwargs",
    "processing_kwargs",
];

/// Arguments that say how a model is fetched, kept and laid out in memory, and not what it computes.
const HARMLESS: &[&str] = &[
    "attn_implementation",
    "cache_dir",
    "device_map",
    "dtype",
    "local_files_only",
    "padding_side",
    "revision",
    "token",
    "torch_dtype",
    "trust_remote_code",
    "use_fast",
];

/// How texts become vectors, beside the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// The folder with the network and its tokenizer: mostly that of `modules.json`, but older models
    /// have one of its own.
    pub folder: PathBuf,
    /// There is a `modules.json`.
    pub stated: bool,
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
            folder: folder.to_path_buf(),
            stated: false,
            pooling: Pooling::Mean,
            normalize: false,
            max_tokens: None,
            lowercase: false,
            prompt: String::new(),
        };
        let mut include_prompt = true;
        if let Some(modules) = modules(folder)? {
            include_prompt = out.modules(folder, &modules)?;
        }
        let object =
            |folder: &Path, name: &str| json::read::<Map<String, Value>>(&folder.join(name));
        if let Some(config) = object(&out.folder, "sentence_bert_config.json")? {
            let config = Object(&config);
            for key in ARGUMENTS {
                let Some(arguments) = config.object(key)? else { continue };
                if let Some(name) = arguments.0.keys().find(|k| !HARMLESS.contains(&k.as_str())) {
                    return Err(arguments.refuse(name));
                }
            }
            out.max_tokens = config.count("max_seq_length")?.map(|n| n as usize);
            out.lowercase = config.bool("do_lower_case")?.unwrap_or(false);
        }
        let tokenizer = object(&out.folder, "tokenizer_config.json")?.unwrap_or_default();
        // Without a limit this is a number like 1e30.
        let longest = Object(&tokenizer).number("model_max_length")?.map(|n| n as usize);
        out.max_tokens = out.max_tokens.or(longest);
        if let Some(config) = object(folder, "config_sentence_transformers.json")? {
            out.prompt = default_prompt(Object(&config))?;
        }
        if !include_prompt && !out.prompt.is_empty() {
            // The tokens of the prompt would have to be left out of the pooling.
            let (key, value) = ("include_prompt".into(), "false".into());
            return Err(HfError::Setting { key, value });
        }
        Ok(out)
    }

    /// What a GGUF file says by its `pooling_type`, which llama.cpp numbers; vectors get the length 1,
    /// as its server gives them. `None` where it says nothing, or of a kind that is not done.
    pub(super) fn of_gguf(pooling_type: Option<u32>) -> Option<Self> {
        let pooling = match pooling_type? {
            1 => Pooling::Mean,
            2 => Pooling::Cls,
            3 => Pooling::Last,
            _ => return None,
        };
        Some(Sentence {
            folder: PathBuf::new(),
            stated: true,
            pooling,
            normalize: true,
            max_tokens: None,
            lowercase: false,
            prompt: String::new(),
        })
    }

    /// Reads what `modules.json` leads to. Whether the tokens of a prompt are pooled.
    fn modules(&mut self, folder: &Path, modules: &[Map<String, Value>]) -> Result<bool, HfError> {
        self.stated = true;
        let (mut kinds, mut include_prompt) = (Vec::new(), true);
        for module in modules.iter().map(Object) {
            let missing = || HfError::Missing { key: "type of a module".into() };
            let kind = module.text("type")?.ok_or_else(missing)?;
            if !kind.starts_with(PACKAGE) {
                return Err(module.refuse("type"));
            }
            let kind = kind.rsplit('.').next().unwrap_or(kind);
            match kind {
                "Transformer" => self.folder = folder.join(module_path(module)?),
                "Pooling" if module_path(module)?.is_empty() => return Err(module.refuse("path")),
                "Pooling" => {
                    let path = folder.join(module_path(module)?).join("config.json");
                    let config = json::read::<Map<String, Value>>(&path)?;
                    let config = config.ok_or(HfError::NoConfig { path })?;
                    self.pooling = pooling(Object(&config))?;
                    include_prompt = Object(&config).bool("include_prompt")?.unwrap_or(true);
                }
                _ => {}
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
        Ok(include_prompt)
    }
}

/// `modules.json` of a folder, if it has one.
fn modules(folder: &Path) -> Result<Option<Vec<Map<String, Value>>>, HfError> {
    json::read(&folder.join("modules.json"))
}

/// The folder of a module, relative to that of `modules.json`: a plain name, or empty.
fn module_path<'a>(module: Object<'a>) -> Result<&'a str, HfError> {
    let path = module.text("path")?.unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if path.chars().all(plain) { Ok(path) } else { Err(module.refuse("path")) }
}

/// Settings of `tokenizer_config.json`, by which transformers changes the normalizer of a bert's
/// `tokenizer.json`, and what they are called there.
const NORMALIZER: &[(&str, &str)] = &[
    ("do_lower_case", "lowercase"),
    ("strip_accents", "strip_accents"),
    ("tokenize_chinese_chars", "handle_chinese_chars"),
];

/// Refuses a bert's tokenizer of which the two files say different things: transformers follows
/// `tokenizer_config.json` or the other, depending on its version.
pub(super) fn check_normalizer(tokenizer: &[u8], config: Object<'_>) -> Result<(), HfError> {
    #[derive(serde::Deserialize)]
    struct File {
        normalizer: Option<Map<String, Value>>,
    }
    // A file that is no JSON is refused elsewhere.
    let Ok(File { normalizer: Some(normalizer) }) = serde_json::from_slice(tokenizer) else {
        return Ok(());
    };
    let normalizer = Object(&normalizer);
    if normalizer.text("type")? != Some("BertNormalizer") {
        return Ok(());
    }
    for (stated, done) in NORMALIZER {
        if let (Some(stated_value), Some(done)) = (config.get(stated), normalizer.get(done))
            && stated_value != done
        {
            return Err(config.refuse(stated));
        }
    }
    Ok(())
}

/// Where the network of the model in `folder` is, and whether `modules.json` says so.
pub(super) fn network(folder: &Path) -> Result<(PathBuf, bool), HfError> {
    let Some(modules) = modules(folder)? else { return Ok((folder.to_path_buf(), false)) };
    for module in modules.iter().map(Object) {
        if module.text("type")?.is_some_and(|kind| kind.ends_with(".Transformer")) {
            return Ok((folder.join(module_path(module)?), true));
        }
    }
    Ok((folder.to_path_buf(), true))
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
