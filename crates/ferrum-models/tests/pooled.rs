//! A causal model that makes embeddings, and a cross-encoder, beside sentence-transformers.
//!
//! The golden file was made by `tools/golden/pooled.py`. It has the models' files but for the weights,
//! which follow from the names of the tensors.

#[path = "support/filled.rs"]
mod filled;

use std::fs;

use ferrum_models::cpu::Isa;
use ferrum_models::encoder::{Embedder, Pair, TextEncoder, is_encoder, makes_embeddings};
use ferrum_models::gguf::GgufWriter;
use ferrum_models::{Device, LoadOptions, checkpoint};
use filled::Model;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    causal: Causal,
    cross: Cross,
}

#[derive(Deserialize)]
struct Causal {
    #[serde(flatten)]
    model: Model,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Cross {
    #[serde(flatten)]
    model: Model,
    pairs: Vec<(String, String)>,
    ids: Vec<Vec<u32>>,
    kinds: Vec<Vec<usize>>,
    scores: Vec<f32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("data/pooled.json")).expect("JSON")
}

/// The ways of computing, and the largest difference that each may have. Rounding by 2⁻¹³ of the
/// largest neighbour moves numbers of about 0.13 by up to 2.5e-4 here; rounding to a bfloat16, as is
/// done where the processor has AMX, by ten times more.
fn ways() -> [(LoadOptions, f32); 4] {
    let reference = LoadOptions { device: Device::Reference, ..LoadOptions::default() };
    let exact = LoadOptions { threads: Some(2), exact: true, ..LoadOptions::default() };
    let rounded = LoadOptions { exact: false, ..exact.clone() };
    let integers = LoadOptions { isa: Some(Isa::best().independent()), ..rounded.clone() };
    let best = if integers.isa == Some(Isa::best()) { 5e-4 } else { 5e-3 };
    [(reference, 2e-6), (exact, 2e-6), (integers, 5e-4), (rounded, best)]
}

fn close(got: &[f32], want: &[f32], most: f32) {
    assert_eq!(got.len(), want.len());
    let off = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("off by {off:.1e}, may be {most:.0e}");
    assert!(off <= most, "{got:?}, not {want:?}");
}

#[test]
fn the_last_token_of_a_causal_model_is_the_vector() {
    let Causal { model, texts, ids, vectors } = golden().causal;
    let folder = tempfile::tempdir().expect("a folder");
    model.write(folder.path());
    assert!(is_encoder(folder.path()).expect("readable"));
    let encoder = TextEncoder::open(folder.path(), None).expect("opened");
    // As tokenizer_config.json says; the network would take more.
    assert_eq!(encoder.max_tokens(), 128);
    for (text, want) in texts.iter().zip(&ids) {
        assert_eq!(&encoder.encode(text, false).expect("encoded"), want, "{text:?}");
    }
    for (options, most) in ways() {
        let mut embedder = Embedder::load(folder.path(), &options).expect("loaded");
        let got = embedder.embed(&ids, None).expect("embedded");
        got.iter().zip(&vectors).for_each(|(got, want)| close(got, want, most));
        // Alone as among others, and among so many that they take several steps.
        let many: Vec<_> = ids.iter().cycle().take(150).cloned().collect();
        let again = embedder.embed(&many, None).expect("embedded");
        for (i, vector) in again.iter().enumerate() {
            assert_eq!(vector, &got[i % ids.len()]);
        }
        // Cut short, vectors have the length 1 again.
        let short = embedder.embed(&ids[..1], Some(8)).expect("embedded").remove(0);
        let norm = got[0][..8].iter().map(|x| x * x).sum::<f32>().sqrt();
        let want: Vec<f32> = got[0][..8].iter().map(|x| x / norm).collect();
        close(&short, &want, 1e-6);
    }
}

#[test]
fn a_gguf_file_says_how_its_states_are_pooled() {
    let Causal { model, ids, vectors, .. } = golden().causal;
    let folder = tempfile::tempdir().expect("a folder");
    let mut plain = Model { files: model.files.clone(), tensors: model.tensors.clone() };
    // Read as a model that generates, whose head is its embedding.
    plain.files.get_mut("config.json").expect("there")["tie_word_embeddings"] = json!(true);
    plain.write(folder.path());
    let source = checkpoint::open(folder.path()).expect("opened");
    let write = |name: &str, pooling: Option<u32>| {
        let mut writer = GgufWriter::new();
        for (key, value) in source.metadata().iter() {
            writer.set(key, value.clone()).expect("a key");
        }
        if let Some(kind) = pooling {
            writer.set("qwen3.pooling_type", kind).expect("a key");
        }
        let names = source.names();
        for name in &names {
            let tensor = source.require(name).expect("there");
            writer.tensor(name, tensor.format, tensor.dims).expect("a tensor");
        }
        let path = folder.path().join(name);
        let mut out = writer.start(fs::File::create(&path).expect("made")).expect("started");
        for name in names {
            out.write(name, &source.read(name).expect("read")).expect("written");
        }
        out.finish().expect("finished");
        path
    };
    let last = write("last.gguf", Some(3));
    assert!(makes_embeddings(&last).expect("readable"));
    let mut embedder = Embedder::load(&last, &ways()[1].0).expect("loaded");
    let got = embedder.embed(&ids, None).expect("embedded");
    got.iter().zip(&vectors).for_each(|(got, want)| close(got, want, 2e-6));
    for (name, kind, says) in [("none.gguf", None, "(none)"), ("rank.gguf", Some(4), "= 4")] {
        let path = write(name, kind);
        assert_eq!(makes_embeddings(&path).expect("readable"), kind.is_some());
        let error = Embedder::load(&path, &LoadOptions::default()).err().expect("refused");
        let error = error.to_string();
        assert!(error.contains("qwen3.pooling_type") && error.contains(says), "{error}");
    }
}

#[test]
fn pairs_are_scored_as_by_a_cross_encoder() {
    let Cross { model, pairs, ids, kinds, scores } = golden().cross;
    let folder = tempfile::tempdir().expect("a folder");
    model.write(folder.path());
    let encoder = TextEncoder::open(folder.path(), None).expect("opened");
    assert!(encoder.scores_pairs());
    let encoded: Vec<Pair> =
        (pairs.iter()).map(|(a, b)| encoder.encode_pair(a, b, true).expect("encoded")).collect();
    for (pair, (ids, kinds)) in encoded.iter().zip(ids.iter().zip(&kinds)) {
        assert_eq!(&pair.ids, ids);
        assert_eq!(pair.first, kinds.iter().filter(|kind| **kind == 0).count());
    }
    let (long, _) = &pairs[5];
    assert!(encoder.encode_pair(long, long, false).is_err(), "too long");
    for (options, most) in ways() {
        let mut model = Embedder::load(folder.path(), &options).expect("loaded");
        assert_eq!(model.dimensions(), 1);
        let got = model.embed(&encoded, None).expect("scored").concat();
        close(&got, &scores, most);
    }
}

/// Scores as another `config.json` makes them.
fn scores_with(change: impl FnOnce(&mut Value)) -> Result<f32, String> {
    let Cross { mut model, pairs, .. } = golden().cross;
    change(model.files.get_mut("config.json").expect("there"));
    let folder = tempfile::tempdir().expect("a folder");
    model.write(folder.path());
    let error = |error: ferrum_models::ModelError| error.to_string();
    let encoder = TextEncoder::open(folder.path(), None).map_err(error)?;
    let mut model = Embedder::load(folder.path(), &ways()[1].0).map_err(error)?;
    let (a, b) = &pairs[0];
    let pair = encoder.encode_pair(a, b, false).expect("encoded");
    Ok(model.embed(&[pair], None).expect("scored")[0][0])
}

#[test]
fn the_function_of_scores_is_that_of_the_files() {
    let sigmoid = scores_with(|_| {}).expect("scored");
    for identity in [
        json!({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}),
        json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
    ] {
        let plain = scores_with(|config| {
            let more = identity.as_object().expect("an object").clone();
            config.as_object_mut().expect("an object").extend(more);
        });
        let plain = plain.expect("scored");
        assert!((1.0 / (1.0 + (-plain).exp()) - sigmoid).abs() < 1e-6, "{plain}, {sigmoid}");
    }
    let refused = |change: fn(&mut Value), key: &str| {
        let error = scores_with(change).expect_err("refused");
        assert!(error.contains(key), "{error}");
    };
    refused(
        |config| config["sbert_ce_default_activation_function"] = json!("torch.nn.ReLU"),
        "sbert_ce_default_activation_function",
    );
    refused(|config| config["id2label"]["1"] = json!("LABEL_1"), "num_labels");
    // Another class has another head, which would be left out.
    refused(|config| config["architectures"] = json!(["BertForTokenClassification"]), "classifier");
}
