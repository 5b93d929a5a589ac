//! Adapters by name: `model` picks one over its base, in the same batch and apart in the prefix cache.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use ferrum_models::{LoadOptions, LoraSource};
use ferrum_server::{App, Metrics, Models, ModelsConfig, Offer, OfferError};
use serde_json::{Map, Value, json};
use support::{MODEL, Running, Setup, chat, drafting_load, offer, start_app, with_draft};

const TEXT: &str = "/v1/completions";
/// The tiny model's width, in which q and v of its layers are square.
const WIDTH: usize = 64;
const RANK: usize = 3;

/// An adapter of the tiny model as PEFT keeps it; another one for each seed.
fn adapter(path: PathBuf, seed: u32) -> PathBuf {
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 6,
                        "target_modules": ["q_proj", "o_proj"]});
    let (mut header, mut data, mut state) = (Map::new(), Vec::<u8>::new(), seed);
    for name in ["0.self_attn.q_proj", "1.self_attn.q_proj", "1.self_attn.o_proj"] {
        for (half, shape) in [("lora_A", [RANK, WIDTH]), ("lora_B", [WIDTH, RANK])] {
            let start = data.len();
            for _ in 0..RANK * WIDTH {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                data.extend(((state >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes());
            }
            let entry =
                json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(format!("base_model.model.model.layers.{name}.{half}.weight"), entry);
        }
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(path.join("adapter_model.safetensors"), bytes).unwrap();
    path
}

/// The offer of the tiny model with adapters `a` and `b`, with itself as a draft model or without.
fn offered(dir: &Path, draft: bool) -> Offer {
    let setup = Setup::default();
    let plain = offer(dir, MODEL, &setup);
    let path = dir.join(format!("{MODEL}.gguf"));
    let source = |name: &str, seed| LoraSource { path: adapter(dir.join(name), seed), scale: 1.0 };
    let adapters = vec![source("a", 1), source("b", 2)];
    let load = LoadOptions { adapters, ..drafting_load() };
    let offer = with_draft(plain, path.clone(), draft.then_some(path), load);
    Offer { adapters: vec!["a".into(), "b".into()], ..offer }
}

fn server(draft: bool) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let offer = offered(dir.path(), draft);
    let metrics = Metrics::new().unwrap();
    let models = Models::new(vec![offer], ModelsConfig::default(), &metrics).unwrap();
    models.load(0).unwrap();
    start_app(dir, App::new(models, metrics, Setup::default().config))
}

fn body(model: &str, prompt: &str) -> Value {
    json!({"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": true})
}

fn answer(server: &Running, model: &str, prompt: &str) -> Value {
    let answer = server.ok(TEXT, &body(model, prompt));
    assert_eq!(answer["model"], if model.len() == 1 { model } else { MODEL });
    answer["choices"].clone()
}

const NAMES: [&str; 3] = [MODEL, "a", "b"];

#[test]
fn adapters_are_listed_with_their_parent() {
    let server = server(false);
    let list = server.get("/v1/models").json();
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, NAMES);
    assert_eq!(list["data"][0]["parent"], Value::Null);
    for (i, name) in ["a", "b"].iter().enumerate() {
        assert_eq!(list["data"][i + 1]["parent"], MODEL);
        let one = server.get(&format!("/v1/models/{name}")).json();
        assert_eq!(one, list["data"][i + 1]);
    }
    assert_eq!(server.get(&format!("/v1/models/{MODEL}")).json()["id"], MODEL);
    assert_eq!(server.get("/v1/models/little").json()["id"], MODEL);
    let error = server.refused(TEXT, &body("c", "x"), 404);
    assert_eq!(error["code"], "model_not_found");
}

#[test]
fn every_route_takes_the_adapter_of_its_model() {
    let server = server(false);
    let prompt = "Once upon a time there was";
    let texts: Vec<Value> = NAMES.iter().map(|name| answer(&server, name, prompt)).collect();
    assert!(texts[0] != texts[1] && texts[0] != texts[2] && texts[1] != texts[2], "{texts:?}");
    for stream in [false, true] {
        let contents: Vec<String> = NAMES
            .iter()
            .map(|name| {
                let body = chat(json!({"model": name, "stream": stream, "temperature": 0}));
                let response = server.post("/v1/chat/completions", &body);
                assert_eq!(response.status, 200, "{response:?}");
                assert!(response.body.contains(&format!("\"model\":\"{name}\"")), "{response:?}");
                // All but what differs by time and name.
                let lines = response.body.split("\"choices\"").skip(1);
                lines.map(|rest| rest.split("\"usage\"").next().unwrap().to_string()).collect()
            })
            .collect();
        assert!(contents[0] != contents[1] && contents[1] != contents[2]);
    }
    for (path, input) in [("/v1/responses", "input"), ("/v1/messages", "messages")] {
        let value = match input {
            "input" => json!("Hello"),
            _ => json!([{"role": "user", "content": "Hello"}]),
        };
        let mut texts = Vec::new();
        for name in NAMES {
            let mut body = json!({"model": name, "max_tokens": 16, "temperature": 0});
            if input == "input" {
                body = json!({"model": name, "max_output_tokens": 16, "temperature": 0});
            }
            body[input] = value.clone();
            let answer = server.ok(path, &body);
            assert_eq!(answer["model"], name);
            texts.push(answer["output"][0]["content"][0]["text"].clone());
            texts.push(answer["content"][0]["text"].clone());
        }
        assert!(texts[0..2] != texts[2..4] && texts[2..4] != texts[4..6], "{texts:?}");
    }
}

#[test]
fn answers_in_one_batch_are_those_of_each_alone() {
    let server = server(false);
    let prompts = ["one two three", "the cat sat on the mat and", "x", "12 34 56 78 90 12 34 56"];
    let alone: Vec<Vec<Value>> =
        NAMES.map(|name| prompts.map(|p| answer(&server, name, p)).to_vec()).to_vec();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for (name, alone) in NAMES.iter().zip(&alone) {
                for (prompt, alone) in prompts.iter().zip(alone) {
                    let server = &server;
                    scope.spawn(move || assert_eq!(answer(server, name, prompt), *alone));
                }
            }
        });
    }
    server.wait_until_free();
}

#[test]
fn a_draft_model_changes_no_answer() {
    let (plain, drafted) = (server(false), server(true));
    for name in NAMES {
        for prompt in ["one two three", "and and and and and"] {
            assert_eq!(answer(&plain, name, prompt), answer(&drafted, name, prompt), "{name}");
        }
    }
}

#[test]
fn the_prefix_cache_keeps_adapters_apart() {
    let prompt = "All work and no play makes Jack a dull boy. ".repeat(12);
    let cached = |server: &Running, name: &str| {
        let answer = server.ok(TEXT, &body(name, &prompt));
        let tokens = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (tokens, answer["choices"].clone())
    };
    let fresh: Vec<Value> = NAMES.map(|name| cached(&server(false), name).1).to_vec();
    let server = server(false);
    for (i, name) in NAMES.iter().enumerate() {
        let (tokens, choices) = cached(&server, name);
        assert_eq!(tokens, 0, "{name} found what another computed");
        assert_eq!(choices, fresh[i], "{name}");
    }
    for (i, name) in NAMES.iter().enumerate() {
        let (tokens, choices) = cached(&server, name);
        assert!(tokens >= 32, "{name} finds its own");
        assert_eq!(choices, fresh[i], "{name}");
    }
}

#[test]
fn an_adapter_of_a_name_that_is_taken_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in [MODEL, "little", "a"] {
        let mut offer = offered(dir.path(), false);
        offer.adapters[1] = name.into();
        let metrics = Metrics::new().unwrap();
        let error = Models::new(vec![offer], ModelsConfig::default(), &metrics).err().unwrap();
        assert!(matches!(&error, OfferError::Name(taken) if taken == name), "{error}");
    }
}
