//! Which files of a repository make a model that is a folder.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{HubError, Result};
use crate::reference::safe_relative_path;

/// Without these there is no model.
const REQUIRED: &[&str] = &["config.json", "tokenizer.json"];

/// Read where they are there.
const OPTIONAL: &[&str] = &[
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

pub(crate) const SINGLE: &str = "model.safetensors";
/// Says which file holds which tensor.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The longest index that is read.
pub(crate) const MAX_INDEX: u64 = 64 << 20;

/// Ends of names of files that hold Python objects.
const PICKLES: &[&str] = &[".bin", ".pt", ".pth", ".ckpt", ".pkl"];

/// Where the tensors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weights {
    /// In one file.
    Single,
    /// In the files that the index names.
    Sharded,
}

/// Whether these are the files of a folder, rather than of GGUF models.
pub(crate) fn weights(names: &[&str]) -> Option<Weights> {
    match (names.contains(&INDEX), names.contains(&SINGLE)) {
        // The reader of folders takes the index too where there are both.
        (true, _) => Some(Weights::Sharded),
        (false, true) => Some(Weights::Single),
        (false, false) => None,
    }
}

/// The files beside the weights; an error names one that must be there and is not.
pub(crate) fn beside(repo: &str, names: &[&str]) -> Result<Vec<String>> {
    if let Some(missing) = REQUIRED.iter().find(|name| !names.contains(name)) {
        return Err(HubError::NotInRepository {
            repo: repo.to_string(),
            wanted: (*missing).to_string(),
            available: shown(names),
        });
    }
    let known =
        |name: &&str| REQUIRED.contains(name) || OPTIONAL.contains(name) || is_module_file(name);
    Ok(names.iter().copied().filter(known).map(str::to_string).collect())
}

/// Whether it is a file of a module of sentence-transformers: `1_Pooling/config.json`.
fn is_module_file(name: &str) -> bool {
    let Some((folder, file)) = name.split_once('/') else { return false };
    let numbered = folder.split_once('_').is_some_and(|(number, _)| {
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    });
    numbered && matches!(file, "config.json" | SINGLE)
}

/// The files that an index names.
pub(crate) fn shards(index: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| format!("{INDEX}: {e}"))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    let shard = |name: &String| {
        name.ends_with(".safetensors") && !name.contains('/') && safe_relative_path(name).is_ok()
    };
    match names.iter().find(|name| !shard(name)) {
        Some(name) => Err(format!("{INDEX} names {}, no shard", name.escape_default())),
        None if names.is_empty() => Err(format!("{INDEX} names no file")),
        None => Ok(names),
    }
}

/// Why a repository without safetensors and without GGUF files is of no use.
pub(crate) fn no_weights(repo: &str, names: &[&str]) -> HubError {
    let repo = repo.to_string();
    let pickle = |name: &&&str| PICKLES.iter().any(|end| name.to_ascii_lowercase().ends_with(end));
    match names.iter().find(pickle) {
        Some(file) => HubError::Pickle { repo, file: file.escape_default().to_string() },
        None => HubError::NotInRepository {
            repo,
            wanted: format!("{SINGLE}, {INDEX} or a GGUF model"),
            available: shown(names),
        },
    }
}

/// Some names, fit for a message.
fn shown(names: &[&str]) -> String {
    const MOST: usize = 20;
    let mut shown: Vec<String> =
        names.iter().take(MOST).map(|n| n.escape_default().to_string()).collect();
    match names.len() {
        0 => return "no file".into(),
        n if n > MOST => shown.push(format!("and {} more", n - MOST)),
        _ => {}
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_read_is_chosen() {
        let names = [
            ".gitattributes",
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model.safetensors",
            "onnx/config.json",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer.model",
            "x_y/config.json",
        ];
        assert_eq!(weights(&names), Some(Weights::Single));
        let beside = beside("o/r", &names).unwrap();
        assert_eq!(beside, ["1_Pooling/config.json", "config.json", "tokenizer.json"]);
        let error = super::beside("o/r", &["config.json", "tokenizer.model"]).unwrap_err();
        assert!(error.to_string().contains("'tokenizer.json'"), "{error}");
        assert_eq!(weights(&["config.json", "pytorch_model.bin"]), None);
    }

    #[test]
    fn an_index_names_files_of_its_folder() {
        let index = |names: &[&str]| {
            let map: BTreeMap<String, &str> =
                names.iter().enumerate().map(|(i, n)| (format!("t{i}"), *n)).collect();
            serde_json::to_vec(&serde_json::json!({ "metadata": {}, "weight_map": map })).unwrap()
        };
        let shards = |names: &[&str]| shards(&index(names));
        assert_eq!(shards(&["b.safetensors", "a.safetensors", "b.safetensors"]).unwrap().len(), 2);
        for bad in
            ["../a.safetensors", "a.bin", "d/a.safetensors", ".safetensors", "a\0.safetensors"]
        {
            assert!(shards(&[bad]).is_err(), "{bad}");
        }
        assert!(shards(&[]).is_err() && super::shards(b"{}").is_err());
    }

    #[test]
    fn pickles_are_refused_with_a_word_on_why() {
        let text = no_weights("o/r", &["config.json", "pytorch_model.bin"]).to_string();
        assert!(text.contains("pytorch_model.bin") && text.contains("pickle"), "{text}");
        let text = no_weights("o/r", &["tf_model.h5"]).to_string();
        assert!(text.contains("it has: tf_model.h5"), "{text}");
    }
}
