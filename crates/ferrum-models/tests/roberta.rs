//! RoBERTas beside transformers and sentence-transformers: tokens of Unigram, vectors and scores.
//!
//! The golden file was made by `tools/golden/roberta.py`. It has the models' files but for the weights,
//! which follow from the names of the tensors; the tokenizer of the XLM-Rs is kept once.

#[path = "support/filled.rs"]
mod filled;

use std::collections::BTreeMap;
use std::path::Path;

use ferrum_models::cpu::Isa;
use ferrum_models::encoder::{Embedder, Pair, TextEncoder, is_encoder};
use ferrum_models::tokenizer::{Beside, Tokenizer};
use ferrum_models::{Device, LoadOptions};
use filled::Model;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Golden {
    /// Of the XLM-Rs.
    tokenizer: Value,
    texts: Vec<String>,
    tokens: BTreeMap<String, Tokens>,
    embedder: Vectors,
    cross: Cross,
    plain: Vectors,
}

/// What a tokenizer makes of the texts.
#[derive(Deserialize)]
struct Tokens {
    /// What of the file is another.
    change: Map<String, Value>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

#[derive(Deserialize)]
struct Vectors {
    #[serde(flatten)]
    model: Model,
    #[serde(default)]
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
    /// Token ids with padding among them, and their vectors.
    #[serde(default)]
    raw: Vec<Vec<u32>>,
    #[serde(default)]
    raw_vectors: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Cross {
    #[serde(flatten)]
    model: Model,
    pairs: Vec<(String, String)>,
    ids: Vec<Vec<u32>>,
    scores: Vec<f32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("data/roberta.json")).expect("JSON")
}

fn tokenizer(json: &Value) -> Result<Tokenizer, String> {
    let beside = Beside { config: &Map::new(), ends: &[], tokens: None };
    Tokenizer::from_json(json.to_string().as_bytes(), &beside).map_err(|error| error.to_string())
}

/// The golden tokenizer with these members changed.
fn changed(base: &Value, change: &Map<String, Value>) -> Value {
    let mut json = base.clone();
    for (key, value) in change {
        if key != "model" {
            json[key] = value.clone();
            continue;
        }
        json["model"]["byte_fallback"] = value["byte_fallback"].clone();
        let bytes = (0..=255).map(|byte| json!([format!("<0x{byte:02X}>"), -20.0]));
        json["model"]["vocab"].as_array_mut().expect("a list").extend(bytes);
    }
    json
}

#[test]
fn unigram_gives_the_tokens_of_the_package() {
    let Golden { tokenizer: base, texts, tokens, .. } = golden();
    assert_eq!(tokens.len(), 5);
    for (name, Tokens { change, ids, decoded }) in &tokens {
        let tokenizer = tokenizer(&changed(&base, change)).expect(name);
        for ((text, ids), decoded) in texts.iter().zip(ids).zip(decoded) {
            assert_eq!(&tokenizer.encode_markup(text), ids, "{name}: {text:?}");
            assert_eq!(&tokenizer.decode(ids), decoded, "{name}: {text:?}");
        }
        // Nothing special comes of a user's text.
        let plain = tokenizer.encode_text("<s> a <mask></s>");
        assert!(plain.iter().all(|id| !tokenizer.is_control(*id) || *id == 3), "{plain:?}");
    }
}

#[test]
fn unigram_refuses_what_it_cannot_do() {
    let base = golden().tokenizer;
    let refused = |change: &dyn Fn(&mut Value), word: &str| {
        let mut json = base.clone();
        change(&mut json);
        let error = tokenizer(&json).err().unwrap_or_else(|| panic!("{word} was accepted"));
        assert!(error.contains(word), "{error} should name {word}");
    };
    refused(&|json| json["model"]["unk_id"] = Value::Null, "unknown token");
    refused(&|json| json["model"]["unk_id"] = json!(100_000), "unk_id");
    refused(&|json| json["model"]["vocab"][9][1] = json!("high"), "expected f64");
    refused(&|json| json["model"]["vocab"][9][0] = json!("a".repeat(5000)), "5000 bytes");
    refused(&|json| json["model"]["vocab"][9] = json!(["a"]), "tuple");
    refused(&|json| json["model"]["vocab"] = json!({"a": 0}), "vocabulary");
    let twice = |json: &mut Value| {
        json["model"]["byte_fallback"] = json!(true);
        (9..11).for_each(|id| json["model"]["vocab"][id] = json!(["<0x41>", -1.0]));
    };
    refused(&twice, "<0x41>");
    refused(&|json| json["model"]["type"] = json!("BPE"), "vocabulary");
    refused(&|json| json["model"]["type"] = json!("Other"), "Other");
    for text in ["", "AAAA", "?"] {
        let with = |json: &mut Value| json["normalizer"]["precompiled_charsmap"] = json!(text);
        refused(&with, "precompiled_charsmap");
    }
    let first = |json: &mut Value| {
        json["pre_tokenizer"]["pretokenizers"][1]["prepend_scheme"] = json!("first");
    };
    refused(&first, "WhitespaceSplit");
}

/// The ways of computing, and how far from the golden file each may be: rounding moves vectors of length 1
/// as `pooled.rs` says.
fn ways() -> [(LoadOptions, f32); 3] {
    let reference = LoadOptions { device: Device::Reference, ..LoadOptions::default() };
    let exact = LoadOptions { threads: Some(2), exact: true, ..LoadOptions::default() };
    let rounded = LoadOptions { exact: false, ..exact.clone() };
    let most = if Isa::best().independent() == Isa::best() { 5e-4 } else { 5e-3 };
    [(reference, 2e-6), (exact, 2e-6), (rounded, most)]
}

fn close(got: &[f32], want: &[f32], most: f32) {
    assert_eq!(got.len(), want.len());
    // Not all are of length 1.
    let most = most * want.iter().map(|x| x * x).sum::<f32>().sqrt().max(1.0);
    let off = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= most, "off by {off:.1e}: {got:?}, not {want:?}");
}

/// Writes a model with this tokenizer.
fn write(mut model: Model, tokenizer: Option<Value>, folder: &Path) {
    if let Some(json) = tokenizer {
        model.files.insert("tokenizer.json".into(), json);
    }
    model.write(folder);
}

fn vectors(texts: &[String], golden: Vectors, tokenizer: Option<Value>) {
    let Vectors { model, ids, vectors, raw, raw_vectors, .. } = golden;
    let folder = tempfile::tempdir().expect("a folder");
    write(model, tokenizer, folder.path());
    assert!(is_encoder(folder.path()).expect("readable"));
    let encoder = TextEncoder::open(folder.path(), None).expect("opened");
    // Two positions of 66 are not those of tokens.
    assert_eq!(encoder.max_tokens(), 64);
    for (text, want) in texts.iter().zip(&ids) {
        assert_eq!(&encoder.encode(text, true).expect("encoded"), want, "{text:?}");
    }
    for (options, most) in ways() {
        let mut embedder = Embedder::load(folder.path(), &options).expect("loaded");
        let all = [ids.clone(), raw.clone()].concat();
        let got = embedder.embed(&all, None).expect("embedded");
        let want = vectors.iter().chain(&raw_vectors);
        got.iter().zip(want).for_each(|(got, want)| close(got, want, most));
        assert!(embedder.embed(&[vec![5; 65]], None).is_err(), "too long");
    }
}

#[test]
fn an_xlm_r_makes_vectors() {
    let Golden { tokenizer, texts, embedder, .. } = golden();
    assert!(!embedder.raw.is_empty());
    vectors(&texts, embedder, Some(tokenizer));
}

#[test]
fn a_roberta_makes_vectors() {
    let plain = golden().plain;
    vectors(&plain.texts.clone(), plain, None);
}

#[test]
fn pairs_are_scored_as_by_a_cross_encoder() {
    let Golden { tokenizer, cross: Cross { model, pairs, ids, scores }, .. } = golden();
    let folder = tempfile::tempdir().expect("a folder");
    write(model, Some(tokenizer), folder.path());
    let encoder = TextEncoder::open(folder.path(), None).expect("opened");
    assert!(encoder.scores_pairs());
    let encoded: Vec<Pair> =
        (pairs.iter()).map(|(a, b)| encoder.encode_pair(a, b, true).expect("encoded")).collect();
    for (pair, ids) in encoded.iter().zip(&ids) {
        assert_eq!((&pair.ids, pair.first), (ids, ids.len()));
    }
    for (options, most) in ways() {
        let mut model = Embedder::load(folder.path(), &options).expect("loaded");
        close(&model.embed(&encoded, None).expect("scored").concat(), &scores, most);
    }
}

#[test]
fn what_would_change_the_result_is_refused() {
    let refused = |change: &dyn Fn(&mut Model, &mut Value), word: &str| {
        let Golden { mut tokenizer, cross: Cross { mut model, .. }, .. } = golden();
        change(&mut model, &mut tokenizer);
        let folder = tempfile::tempdir().expect("a folder");
        write(model, Some(tokenizer), folder.path());
        let opened = TextEncoder::open(folder.path(), None).map(|_| ());
        let loaded = opened.and_then(|()| Embedder::load(folder.path(), &ways()[0].0).map(|_| ()));
        let error = loaded.err().unwrap_or_else(|| panic!("{word} was accepted")).to_string();
        assert!(error.contains(word), "{error} should name {word}");
    };
    let config = |key: &'static str, value: Value| {
        move |model: &mut Model, _: &mut Value| {
            model.files.get_mut("config.json").expect("there")[key] = value.clone();
        }
    };
    refused(&config("pad_token_id", json!(65)), "pad_token_id");
    refused(&config("pad_token_id", json!(-1)), "pad_token_id");
    refused(&config("position_embedding_type", json!("relative_key")), "position_embedding_type");
    refused(&config("model_type", json!("roberta-prelayernorm")), "roberta-prelayernorm");
    refused(&config("architectures", json!(["XLMRobertaForTokenClassification"])), "classifier");
    refused(&config("id2label", json!({"0": "a", "1": "b"})), "num_labels");
    let no_pair = |_: &mut Model, json: &mut Value| {
        json["post_processor"]["pair"] = json!([{"Sequence": {"id": "A", "type_id": 0}}]);
    };
    refused(&no_pair, "pairs");
}
