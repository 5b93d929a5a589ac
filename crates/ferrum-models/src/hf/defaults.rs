//! What a `config.json` means that leaves a setting out: the value that transformers' configuration
//! class has by itself. Many files leave out all that is as usual.
//!
//! `defaults.json` is made from those classes by `tools/golden/hf_defaults.py`.

use serde_json::{Map, Value};

const DEFAULTS: &str = include_str!("defaults.json");

/// Two names of one setting: a file that has one of them needs no default for the other.
const SAME: &[(&str, &str)] = &[("num_experts", "num_local_experts")];

/// `config` with the defaults of its model type. What is null in it stays null.
pub(super) fn completed(model_type: &str, config: &Map<String, Value>) -> Map<String, Value> {
    let model_type = if model_type == "gemma3" { "gemma3_text" } else { model_type };
    let mut all: Map<String, Value> = serde_json::from_str(DEFAULTS).unwrap_or_default();
    let mut completed = match all.remove(model_type) {
        Some(Value::Object(defaults)) => defaults,
        _ => Map::new(),
    };
    for (one, other) in SAME {
        if config.contains_key(*one) {
            completed.remove(*other);
        }
        if config.contains_key(*other) {
            completed.remove(*one);
        }
    }
    completed.extend(config.iter().map(|(key, value)| (key.clone(), value.clone())));
    completed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch;

    #[test]
    fn every_model_type_has_its_defaults() {
        for model_type in arch::model_types() {
            let all = completed(model_type, &Map::new());
            assert!(all.contains_key("rope_theta") && all.len() > 8, "{model_type}");
        }
    }

    #[test]
    fn what_is_stated_counts() {
        let stated = |key: &str, value: Value| Map::from_iter([(key.to_string(), value)]);
        let mistral = completed("mistral", &Map::new());
        assert_eq!(mistral["sliding_window"], 4096);
        let null = completed("mistral", &stated("sliding_window", Value::Null));
        assert!(null["sliding_window"].is_null());
        assert_eq!(completed("gemma3", &stated("head_dim", 64.into()))["head_dim"], 64);
        let experts = completed("qwen3_moe", &stated("num_local_experts", 4.into()));
        assert!(!experts.contains_key("num_experts"));
    }
}
