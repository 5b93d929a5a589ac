//! A draft model in a folder of safetensors, whose tokenizer is in a file of its own.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use ferrum_models::checkpoint;
use ferrum_models::gguf::Gguf;
use ferrum_server::{
    App, Metrics, Model, ModelSpec, Models, ModelsConfig, Offer, Start, StartError,
};
use serde_json::{Map, Value, json};
use support::{CONTEXT, MODEL, Setup, completion, drafting_load, offer, start, start_app};

const TEXT: &str = "/v1/completions";

/// Width, and that of the MLP.
const HIDDEN: usize = 32;
const FFN: usize = 64;

/// The offer of the tiny model, for which the model in `draft` proposes tokens.
fn with_folder(dir: &Path, draft: PathBuf) -> Offer {
    let plain = offer(dir, MODEL, &Setup::default());
    let path = dir.join(format!("{MODEL}.gguf"));
    let (id, load) = (plain.id.clone(), drafting_load());
    let spec = ModelSpec { id, load, engine: Default::default(), queue: 8, backlog: 1000 };
    let start = move |metrics| {
        let (file, draft) = (checkpoint::open(&path)?, checkpoint::open(&draft)?);
        let load = drafting_load();
        Model::start_with(&*file, Some((&*draft, &load)), spec.clone(), metrics)
    };
    Offer { start: Start::Model(Box::new(start)), ..plain }
}

/// A folder with a model of one layer and the first `tokens` tokens of the file at `base`.
fn folder(path: PathBuf, base: &Path, tokens: usize) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    let base = Gguf::open(base).unwrap();
    let file = tokenizer(&base, tokens).to_string();
    fs::write(path.join("tokenizer.json"), file).unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "vocab_size": tokens, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu",
    });
    fs::write(path.join("config.json"), config.to_string()).unwrap();
    fs::write(path.join("model.safetensors"), weights(tokens)).unwrap();
    path
}

fn tokenizer(base: &Gguf, tokens: usize) -> Value {
    let strings = |key: &str| -> Vec<String> {
        let strings = base.metadata().need_str_array(key).unwrap();
        strings.iter().map(str::to_string).collect()
    };
    let all = strings("tokenizer.ggml.tokens");
    // The last three are control tokens.
    let controls = all.len() - 3;
    let vocab: Map<String, Value> = all
        .iter()
        .take(controls.min(tokens))
        .enumerate()
        .map(|(id, t)| (t.clone(), json!(id)))
        .collect();
    let added: Vec<Value> = (controls..tokens)
        .map(|id| {
            json!({"id": id, "content": all[id], "special": true, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let made = |merge: &String| vocab.contains_key(&merge.replacen(' ', "", 1));
    let merges: Vec<String> = strings("tokenizer.ggml.merges").into_iter().filter(made).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "post_processor": null, "decoder": {"type": "ByteLevel"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

/// A safetensors file with the weights of the layer and the embedding.
fn weights(tokens: usize) -> Vec<u8> {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let projections =
        ["q", "k", "v", "o"].map(|p| (format!("self_attn.{p}_proj"), vec![HIDDEN; 2]));
    let mlp = [("gate", [FFN, HIDDEN]), ("up", [FFN, HIDDEN]), ("down", [HIDDEN, FFN])];
    let mlp = mlp.map(|(p, shape)| (format!("mlp.{p}_proj"), shape.to_vec()));
    let norms = ["input_layernorm", "post_attention_layernorm"];
    let norms = norms.map(|name| (name.to_string(), vec![HIDDEN]));
    let mut tensors: Vec<(String, Vec<usize>)> = projections
        .into_iter()
        .chain(mlp)
        .chain(norms)
        .map(|(name, shape)| (layer(&name), shape))
        .collect();
    tensors.push(("model.embed_tokens.weight".into(), vec![tokens, HIDDEN]));
    tensors.push(("model.norm.weight".into(), vec![HIDDEN]));
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        let count: usize = shape.iter().product();
        let value = |i: usize| ((i * 7919 + start) % 1009) as f32 / 1009.0 - 0.5;
        data.extend((0..count).flat_map(|i| value(i).to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

#[test]
fn a_draft_model_in_a_folder_changes_no_answer() {
    let plain = start();
    let dir = tempfile::tempdir().unwrap();
    drop(offer(dir.path(), MODEL, &Setup::default()));
    let base = dir.path().join(format!("{MODEL}.gguf"));
    let draft = folder(dir.path().join("draft"), &base, 400);
    let metrics = Metrics::new().unwrap();
    let offer = with_folder(dir.path(), draft);
    let models = Models::new(vec![offer], ModelsConfig::default(), &metrics).unwrap();
    models.load(0).unwrap();
    let server = start_app(dir, App::new(models, metrics, Setup::default().config));
    for more in
        [json!({"max_tokens": 40}), json!({"max_tokens": 40, "temperature": 1.0, "seed": 5})]
    {
        let body = completion(more);
        assert_eq!(server.ok(TEXT, &body)["choices"], plain.ok(TEXT, &body)["choices"]);
    }
}

#[test]
fn a_draft_model_of_other_tokens_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(offer(dir.path(), MODEL, &Setup::default()));
    let base = dir.path().join(format!("{MODEL}.gguf"));
    let draft = folder(dir.path().join("draft"), &base, 399);
    let Start::Model(start) = with_folder(dir.path(), draft).start else { panic!("a model") };
    let refused = start(Metrics::new().unwrap().model(MODEL)).map(|_| ());
    assert!(matches!(refused, Err(StartError::Draft(_))), "{refused:?}");
}
