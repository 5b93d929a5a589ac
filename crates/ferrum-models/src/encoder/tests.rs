//! Settings that are refused, and those that are read; pooling.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::pooling::normalize;
use super::sentence::check_normalizer;
use super::{EncoderSpec, Pooling, Sentence};
use crate::hf::json::Object;

fn config() -> Value {
    json!({
        "model_type": "bert", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 16,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    })
}

fn spec(key: &str, value: Value) -> Result<EncoderSpec, String> {
    let mut json = config();
    json[key] = value;
    EncoderSpec::of(Object(json.as_object().unwrap())).map_err(|e| e.to_string())
}

#[test]
fn settings_that_change_the_result_are_refused_by_name() {
    let spec_of = |key: &str, value: Value| spec(key, value).unwrap();
    assert_eq!(spec_of("pad_token_id", json!(0)).head_dim(), 8);
    for (key, value) in [
        ("model_type", json!("deberta-v2")),
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("hidden_act", json!("mish")),
        ("hidden_size", json!(0)),
        ("hidden_size", json!("32")),
        ("num_hidden_layers", Value::Null),
        ("num_attention_heads", json!(5)),
        ("layer_norm_eps", json!(-1.0)),
    ] {
        let error = spec(key, value.clone()).unwrap_err();
        let named = error.contains(key) || error.contains("model type");
        assert!(named, "{key} = {value}: {error}");
    }
}

/// A folder with the files of sentence-transformers.
fn sentence(files: &[(&str, Value)]) -> Result<Sentence, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, value.to_string()).unwrap();
    }
    Sentence::read(folder.path()).map_err(|e| e.to_string())
}

fn modules(kinds: &[&str]) -> Value {
    let module = |(i, kind): (usize, &&str)| {
        json!({"idx": i, "path": if *kind == "Pooling" { "1_Pooling" } else { "" },
               "type": format!("sentence_transformers.models.{kind}")})
    };
    kinds.iter().enumerate().map(module).collect()
}

#[test]
fn files_of_sentence_transformers_are_read() {
    let plain = sentence(&[]).unwrap();
    assert_eq!((plain.pooling, plain.normalize, plain.max_tokens), (Pooling::Mean, false, None));
    let got = sentence(&[
        ("modules.json", modules(&["Transformer", "Pooling", "Normalize"])),
        ("1_Pooling/config.json", json!({"pooling_mode_cls_token": true})),
        ("sentence_bert_config.json", json!({"max_seq_length": 7, "do_lower_case": true})),
        (
            "config_sentence_transformers.json",
            json!({"prompts": {"q": "query: "}, "default_prompt_name": "q"}),
        ),
    ])
    .unwrap();
    assert_eq!((got.pooling, got.normalize, got.max_tokens), (Pooling::Cls, true, Some(7)));
    assert_eq!((got.lowercase, got.prompt.as_str()), (true, "query: "));
    let named = |mode: &str| {
        let pooling = json!({"pooling_mode": mode});
        let files = [
            ("modules.json", modules(&["Transformer", "Pooling"])),
            ("1_Pooling/config.json", pooling),
        ];
        sentence(&files)
    };
    assert_eq!(named("lasttoken").unwrap().pooling, Pooling::Last);
    assert!(named("attention").unwrap_err().contains("attention"));
}

#[test]
fn modules_that_are_not_known_are_refused_by_name() {
    let pooling = |config: Value| ("1_Pooling/config.json", config);
    let mean = || pooling(json!({"pooling_mode_mean_tokens": true}));
    let with = |kinds: &[&str], pooling| {
        sentence(&[("modules.json", modules(kinds)), pooling]).unwrap_err()
    };
    assert!(with(&["Transformer", "Pooling", "Dense"], mean()).contains("Dense"));
    assert!(with(&["Pooling", "Transformer"], mean()).contains("Pooling, Transformer"));
    let two = json!({"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true});
    assert!(with(&["Transformer", "Pooling"], pooling(two)).contains("max_tokens"));
    let weighted = json!({"pooling_mode_weightedmean_tokens": true});
    assert!(with(&["Transformer", "Pooling"], pooling(weighted)).contains("weightedmean"));
    with(&["Transformer", "Pooling"], pooling(json!({})));
    let class = |path: &str, class: &str| json!({"type": class, "path": path});
    let pair =
        |first: Value, second: Value| sentence(&[("modules.json", json!([first, second])), mean()]);
    let transformer = || class("", "sentence_transformers.models.Transformer");
    let outside = class("../1_Pooling", "sentence_transformers.models.Pooling");
    assert!(pair(transformer(), outside).unwrap_err().contains("path"));
    let outside = class("/tmp", "sentence_transformers.models.Transformer");
    let known = || class("1_Pooling", "sentence_transformers.models.Pooling");
    assert!(pair(outside, known()).unwrap_err().contains("path"));
    // Classes of the same name from elsewhere do something else.
    let custom = pair(class("", "custom_st.Transformer"), known()).unwrap_err();
    assert!(custom.contains("type") && custom.contains("custom_st"), "{custom}");
    // Newer releases have longer names.
    let long = class("", "sentence_transformers.base.modules.transformer.Transformer");
    assert!(pair(long, known()).is_ok());
}

#[test]
fn the_network_may_have_a_folder_of_its_own() {
    let modules = json!([
        {"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]);
    let got = sentence(&[
        ("modules.json", modules),
        ("1_Pooling/config.json", json!({"pooling_mode": "cls"})),
        ("0_Transformer/sentence_bert_config.json", json!({"max_seq_length": 9})),
        ("sentence_bert_config.json", json!({"max_seq_length": 10})),
    ])
    .unwrap();
    assert!(got.folder.ends_with("0_Transformer"), "{:?}", got.folder);
    assert_eq!((got.pooling, got.max_tokens), (Pooling::Cls, Some(9)));
}

#[test]
fn what_changes_vectors_is_refused_by_name() {
    let with = |include: bool, prompt: &str| {
        sentence(&[
            ("modules.json", modules(&["Transformer", "Pooling"])),
            ("1_Pooling/config.json", json!({"pooling_mode": "mean", "include_prompt": include})),
            (
                "config_sentence_transformers.json",
                json!({"prompts": {"q": prompt}, "default_prompt_name": "q"}),
            ),
        ])
    };
    assert!(with(true, "query: ").is_ok() && with(false, "").is_ok());
    assert!(with(false, "query: ").unwrap_err().contains("include_prompt"));
    let arguments = |value: Value| sentence(&[("sentence_bert_config.json", value)]);
    assert!(arguments(json!({"model_args": {"torch_dtype": "float16"}})).is_ok());
    let error = arguments(json!({"model_args": {"rotary_scaling_factor": 2}})).unwrap_err();
    assert!(error.contains("rotary_scaling_factor"), "{error}");
}

#[test]
fn tokenizer_files_that_differ_are_refused() {
    let check = |normalizer: Value, config: Value| {
        let file = json!({"version": "1.0", "normalizer": normalizer}).to_string();
        let config = config.as_object().unwrap().clone();
        check_normalizer(file.as_bytes(), Object(&config)).map_err(|error| error.to_string())
    };
    let bert = || {
        json!({"type": "BertNormalizer", "lowercase": true, "strip_accents": null,
               "handle_chinese_chars": true, "clean_text": true})
    };
    check(bert(), json!({"do_lower_case": true, "strip_accents": null})).unwrap();
    check(bert(), json!({})).unwrap();
    check(Value::Null, json!({"do_lower_case": false})).unwrap();
    check(json!({"type": "NFC"}), json!({"do_lower_case": false})).unwrap();
    for key in ["do_lower_case", "tokenize_chinese_chars"] {
        let error = check(bert(), json!({ key: false })).unwrap_err();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn hidden_states_are_pooled() {
    let states = [1.0, -2.0, 3.0, 4.0, -4.0, 0.0, 2.0, 2.0];
    let pool = |pooling: Pooling| pooling.pool(&states, 2);
    assert_eq!(pool(Pooling::Cls), [1.0, -2.0]);
    assert_eq!(pool(Pooling::Last), [2.0, 2.0]);
    assert_eq!(pool(Pooling::Max), [3.0, 4.0]);
    assert_eq!(pool(Pooling::Mean), [0.5, 1.0]);
    assert_eq!(pool(Pooling::MeanSqrtLen), [1.0, 2.0]);
    let mut x = [3.0, -4.0];
    normalize(&mut x);
    assert_eq!(x, [0.6, -0.8]);
    let mut zero = [0.0; 2];
    normalize(&mut zero);
    assert_eq!(zero, [0.0; 2]);
    for pooling in Pooling::ALL {
        assert_eq!(pooling.name().parse(), Ok(pooling));
    }
}
