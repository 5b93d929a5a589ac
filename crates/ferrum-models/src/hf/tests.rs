//! Folders that are no models, or none that Ferrum runs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Folder, HfError};
use crate::checkpoint::Checkpoint;
use crate::{ModelError, arch};

/// A Llama of one layer.
fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16,
        "rms_norm_eps": 1e-5, "vocab_size": 4, "tie_word_embeddings": true, "hidden_act": "silu",
    })
}

/// Its tensors, all of zeros.
fn tensors() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("model.embed_tokens.weight", vec![4, 32]),
        ("model.norm.weight", vec![32]),
        ("model.layers.0.input_layernorm.weight", vec![32]),
        ("model.layers.0.post_attention_layernorm.weight", vec![32]),
        ("model.layers.0.self_attn.q_proj.weight", vec![32, 32]),
        ("model.layers.0.self_attn.k_proj.weight", vec![16, 32]),
        ("model.layers.0.self_attn.v_proj.weight", vec![16, 32]),
        ("model.layers.0.self_attn.o_proj.weight", vec![32, 32]),
        ("model.layers.0.mlp.gate_proj.weight", vec![8, 32]),
        ("model.layers.0.mlp.up_proj.weight", vec![8, 32]),
        ("model.layers.0.mlp.down_proj.weight", vec![32, 8]),
    ]
}

fn safetensors(dtype: &str, tensors: &[(&str, Vec<usize>)]) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * if dtype == "F32" { 4 } else { 1 };
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert((*name).to_string(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut out = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    out.resize(out.len() + end, 0);
    out
}

fn folder(config: &Value, tensors: &[(&str, Vec<usize>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("model.safetensors"), safetensors("F32", tensors)).unwrap();
    folder
}

fn with(key: &str, value: Value) -> Value {
    let mut config = config();
    config[key] = value;
    config
}

/// The error of opening the folder, or of reading its spec.
fn error(path: &Path) -> String {
    match Folder::open(path) {
        Err(error) => error.to_string(),
        Ok(folder) => arch::spec(&folder).unwrap_err().to_string(),
    }
}

#[test]
fn settings_and_tensors_have_the_names_of_gguf() {
    let place = folder(&config(), &tensors());
    let model = Folder::open(place.path()).unwrap();
    assert_eq!(model.metadata().u32("llama.embedding_length").unwrap(), Some(32));
    assert_eq!(model.find("blk.0.ffn_norm.weight").map(|t| t.dims.to_vec()), Some(vec![32]));
    assert_eq!(model.find("blk.0.attn_k.weight").map(|t| (t.cols(), t.rows())), Some((32, 16)));
    assert_eq!(model.name_in_file("blk.0.attn_k.weight"), "model.layers.0.self_attn.k_proj.weight");
    let missing = model.require("blk.1.attn_k.weight").unwrap_err().to_string();
    assert!(missing.contains("model.layers.1.self_attn.k_proj.weight"), "{missing}");
    assert!(arch::spec(&model).is_ok());
    assert_eq!(crate::memory_estimate(&model, &Default::default()).map(|_| ()).ok(), Some(()));
}

#[test]
fn folders_without_a_model_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Folder::open(empty.path()), Err(HfError::NoConfig { .. })));
    fs::write(empty.path().join("config.json"), config().to_string()).unwrap();
    assert!(matches!(Folder::open(empty.path()), Err(HfError::NoWeights { .. })));
    for name in ["pytorch_model.bin", "consolidated.00.pth", "model.ckpt"] {
        let path = empty.path().join(name);
        fs::write(&path, b"x").unwrap();
        let error = Folder::open(empty.path()).unwrap_err();
        assert!(matches!(error, HfError::Pickle { .. }), "{name}: {error}");
        assert!(error.to_string().contains("pickle"));
        fs::remove_file(path).unwrap();
    }
    for json in ["", "[]", "{", "1", &format!("{{\"a\":{}", "[".repeat(1 << 16))] {
        fs::write(empty.path().join("config.json"), json).unwrap();
        assert!(matches!(Folder::open(empty.path()), Err(HfError::Json { .. })));
    }
}

#[test]
fn indices_stay_in_their_folder_and_tell_the_truth() {
    let place = folder(&config(), &tensors());
    let path = place.path();
    fs::rename(path.join("model.safetensors"), path.join("a.safetensors")).unwrap();
    let mut map: serde_json::Map<String, Value> =
        tensors().iter().map(|(name, _)| (name.to_string(), "a.safetensors".into())).collect();
    let open = |map: &serde_json::Map<String, Value>| {
        let index = json!({ "weight_map": map }).to_string();
        fs::write(path.join("model.safetensors.index.json"), index).unwrap();
        Folder::open(path)
    };
    assert!(open(&map).is_ok());
    for name in [
        "../a.safetensors",
        "/a.safetensors",
        "x/a.safetensors",
        "..\\a.safetensors",
        "c:a.safetensors",
        ".a.safetensors",
        "a.bin",
        "",
    ] {
        map.insert("model.norm.weight".into(), name.into());
        assert!(matches!(open(&map), Err(HfError::ShardName { .. })), "{name}");
    }
    map.insert("model.norm.weight".into(), "b.safetensors".into());
    assert!(matches!(open(&map), Err(HfError::Io { .. })));
    map.insert("model.norm.weight".into(), "a.safetensors".into());
    map.insert("more".into(), "a.safetensors".into());
    assert!(matches!(open(&map), Err(HfError::NotInShard { name, .. }) if name == "more"));
    map.remove("more");
    map.remove("model.norm.weight");
    assert!(matches!(open(&map), Err(HfError::NotInIndex { .. })));
    map.insert("model.norm.weight".into(), "b.safetensors".into());
    let one = [("model.norm.weight", vec![8])];
    fs::write(path.join("b.safetensors"), safetensors("F32", &one)).unwrap();
    assert!(matches!(open(&map), Err(HfError::Duplicate { .. })));
}

#[test]
fn what_is_not_supported_is_named() {
    let named = |config: Value, word: &str| {
        let place = folder(&config, &tensors());
        let error = error(place.path());
        assert!(error.contains(word), "{error} should name {word}");
    };
    named(with("model_type", "mamba".into()), "mamba");
    named(with("hidden_act", "relu".into()), "relu");
    named(with("hidden_size", "8".into()), "hidden_size");
    named(with("hidden_size", json!(-8)), "hidden_size");
    named(with("rms_norm_eps", Value::Null), "rms_epsilon");
    named(with("attention_chunk_size", json!(8)), "attention_chunk_size");
    named(with("layer_types", json!(["linear_attention"])), "linear_attention");
    named(with("final_logit_softcapping", json!(30.0)), "final_logit_softcapping");
    named(with("rope_scaling", json!({"rope_type": "mrope"})), "mrope");
    named(with("rope_scaling", json!({"type": "linear"})), "factor");
    named(with("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})), "low_freq_factor");
    named(with("partial_rotary_factor", json!(1.5)), "partial_rotary_factor");
    named(with("quantization_config", json!({"quant_method": "bitsandbytes"})), "bitsandbytes");
    // Nothing is sized by these before they are looked at.
    named(with("head_dim", json!(u32::MAX)), "head_dim");
    named(with("num_hidden_layers", json!(u32::MAX)), "num_hidden_layers");
    let mut both = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 1e6}));
    both["rope_scaling"] = json!({"rope_type": "linear", "factor": 2.0});
    named(both, "rope_scaling");
    // A list that the model itself would pass over.
    named(with("layer_types", json!(["sliding_attention"])), "layer_types");
    let mut mistral = with("model_type", "mistral".into());
    mistral["layer_types"] = json!(["full_attention"]);
    named(mistral, "layer_types");
}

/// Metadata of a model of four layers, with these settings.
fn metadata(model_type: &str, settings: Value) -> crate::gguf::Metadata {
    let mut config = json!({"model_type": model_type, "num_hidden_layers": 4});
    let settings = settings.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(settings);
    let config = super::config::translate(super::json::Object(config.as_object().unwrap()));
    config.unwrap().metadata
}

#[test]
fn what_is_left_out_is_what_transformers_takes_then() {
    let window = |model_type: &str, name: &str, settings: Value| {
        let key = format!("{name}.attention.sliding_window");
        metadata(model_type, settings).u32(&key).unwrap()
    };
    assert_eq!(window("mistral", "llama", json!({})), Some(4096));
    assert_eq!(window("mistral", "llama", json!({"sliding_window": null})), None);
    assert_eq!(window("mixtral", "llama", json!({})), None);
    // Llama has no window, whatever is stated.
    assert_eq!(window("llama", "llama", json!({"sliding_window": 8})), None);
    assert_eq!(window("qwen2", "qwen2", json!({})), None);
    assert_eq!(window("qwen2", "qwen2", json!({"use_sliding_window": true})), Some(4096));
    let local = |model_type: &str, name: &str, settings: Value| {
        let key = format!("{name}.attention.sliding_window_pattern");
        metadata(model_type, settings).get(&key).cloned()
    };
    // Of 28 layers on, which four layers have none of.
    let none = Some(vec![false; 4].into());
    assert_eq!(local("qwen3", "qwen3", json!({"use_sliding_window": true})), none);
    let used = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1});
    assert_eq!(local("qwen3_moe", "qwen3moe", used.clone()), None);
    let unrotated = Some(vec![false, false, false, true].into());
    assert_eq!(local("smollm3", "smollm3", used), unrotated);
    let number = |model_type: &str, key: &str| metadata(model_type, json!({})).f32(key).unwrap();
    assert_eq!(number("granite", "granite.attention.scale"), Some(1.0));
    assert_eq!(number("gemma2", "gemma2.attention.scale"), Some(0.0625));
    assert_eq!(number("smollm3", "smollm3.rope.freq_base"), Some(2e6));
    assert_eq!(number("olmo2", "olmo2.attention.layer_norm_rms_epsilon"), Some(1e-5));
    // Gemma 3 as it is published: little is stated.
    let text = json!({"text_config": {"hidden_size": 2560, "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}});
    let gemma = metadata("gemma3", text);
    let count = |key: &str| gemma.u32(key).unwrap();
    assert_eq!(count("gemma3.attention.head_count"), Some(8));
    assert_eq!(count("gemma3.attention.key_length"), Some(256));
    assert_eq!(gemma.f32("gemma3.rope.freq_base").unwrap(), Some(1e6));
}

/// Qwen's files state a window, and layers for it, that are not used.
#[test]
fn a_window_that_is_not_used_is_none() {
    let window = |used: Option<bool>| {
        let mut config = with("model_type", "qwen2".into());
        config["num_hidden_layers"] = json!(4);
        config["max_window_layers"] = json!(3);
        config["sliding_window"] = json!(8);
        if let Some(used) = used {
            config["use_sliding_window"] = used.into();
        }
        let place = folder(&config, &tensors());
        let model = Folder::open(place.path()).unwrap();
        model.metadata().u32("qwen2.attention.sliding_window").unwrap()
    };
    assert_eq!([window(None), window(Some(false)), window(Some(true))], [None, None, Some(8)]);
}

#[test]
fn tensors_that_are_no_part_of_the_model_are_named() {
    let load = |tensors: &[(&str, Vec<usize>)]| {
        let place = folder(&config(), tensors);
        let model = Folder::open(place.path())?;
        crate::load(&model, &crate::LoadOptions::default()).map(|_| ())
    };
    assert!(load(&tensors()).is_ok());
    let extra = |name: &'static str| [tensors(), vec![(name, vec![8])]].concat();
    for name in ["model.layers.0.self_attn.o_proj.bias", "model.layers.0.other.weight", "x"] {
        let error = load(&extra(name));
        assert!(
            matches!(&error, Err(ModelError::UnusedTensor { name: n }) if n == name),
            "{error:?}"
        );
    }
    // Of what the settings say anyway, there may be a copy.
    assert!(load(&extra("model.layers.0.self_attn.rotary_emb.inv_freq")).is_ok());
    assert!(load(&extra("lm_head.weight")).is_ok());
    let untied = folder(&with("tie_word_embeddings", false.into()), &tensors());
    assert!(matches!(Folder::open(untied.path()), Err(HfError::NoHead)));
    let mut wrong = tensors();
    wrong[5].1 = vec![8, 8];
    assert!(matches!(load(&wrong), Err(ModelError::TensorShape { .. })));
    wrong.remove(5);
    assert!(matches!(load(&wrong), Err(ModelError::Gguf(_))));
    let place = folder(&config(), &tensors());
    fs::write(place.path().join("model.safetensors"), safetensors("I8", &tensors())).unwrap();
    assert!(matches!(Folder::open(place.path()), Err(HfError::Dtype { .. })));
}
