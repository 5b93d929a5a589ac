//! `/v1/embeddings` of MiniLM, beside a model that generates and alone.

mod support;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrum_models::LoadOptions;
use ferrum_server::{App, Encoder, Metrics, Models, ModelsConfig, ServerConfig};
use serde_json::{Value, json};
use support::{MODEL, Running, Setup, chat, offer, start_app};

/// A server with MiniLM, and perhaps a tiny model that generates.
fn start(generating: bool, config: ServerConfig) -> Running {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::default();
    let offers = if generating { vec![offer(dir.path(), MODEL, &setup)] } else { Vec::new() };
    let metrics = Metrics::new().expect("metrics");
    let models = Models::perhaps_none(offers, ModelsConfig::default(), &metrics).expect("models");
    let folder = ferrum_hub::testing::fetch_alias("minilm").expect("fetched");
    let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let aliases = vec!["small".into()];
    let encoder = Encoder::load("minilm".into(), aliases, &folder, &options, 4).expect("loaded");
    start_app(dir, App::new(models, metrics, config).with_encoders(vec![encoder]))
}

fn floats(answer: &Value, index: usize) -> Vec<f32> {
    let list = answer["data"][index]["embedding"].as_array().expect("a list");
    list.iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

#[test]
fn texts_become_vectors() {
    let server = start(false, ServerConfig::default());
    let ask = |extra: Value| {
        let mut body = json!({"model": "minilm", "user": "me"});
        extra.as_object().expect("fields").iter().for_each(|(k, v)| body[k] = v.clone());
        server.ok("/v1/embeddings", &body)
    };
    let two = ask(json!({"input": ["Hello, world!", "A man is eating food."]}));
    assert_eq!((&two["object"], &two["model"]), (&json!("list"), &json!("minilm")));
    // [CLS] hello , world ! [SEP] and [CLS] a man is eating food . [SEP]
    assert_eq!(two["usage"], json!({"prompt_tokens": 14, "total_tokens": 14}));
    assert_eq!(
        (&two["data"][1]["index"], &two["data"][1]["object"]),
        (&json!(1), &json!("embedding"))
    );
    let (first, second) = (floats(&two, 0), floats(&two, 1));
    assert_eq!((first.len(), second.len()), (384, 384));
    assert!((first.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);

    // The same in every spelling of the input.
    assert_eq!(floats(&ask(json!({"input": "Hello, world!"})), 0), first);
    let ids = json!([101, 7592, 1010, 2088, 999, 102]);
    assert_eq!(floats(&ask(json!({"input": ids})), 0), first);
    let lists = ask(json!({"input": [[101, 102], ids], "model": "small"}));
    assert_eq!(floats(&lists, 1), first);
    let answer = ask(json!({"input": "Hello, world!", "encoding_format": "base64"}));
    let text = answer["data"][0]["embedding"].as_str().expect("a text");
    let bytes = BASE64_STANDARD.decode(text).expect("base64");
    let decoded: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(decoded, first);
    let short = floats(&ask(json!({"input": "Hello, world!", "dimensions": 16})), 0);
    let norm = first[..16].iter().map(|x| x * x).sum::<f32>().sqrt();
    let near = |(a, b): (&f32, &f32)| (a - b / norm).abs() < 1e-6;
    assert!(short.len() == 16 && short.iter().zip(&first).all(near));
    let long = ask(json!({"input": "word ".repeat(300), "truncate": true}));
    assert_eq!(long["usage"]["prompt_tokens"], 256);

    let list = server.get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], "minilm");
    assert_eq!(server.get("/v1/models/small").json()["dimensions"], 384);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = start(true, ServerConfig::default());
    for (param, body) in [
        ("input", json!({"input": []})),
        ("input", json!({"input": vec!["x"; 2049]})),
        ("input", json!({"input": [[]]})),
        ("input", json!({"input": [30522]})),
        ("input", json!({"input": "word ".repeat(300)})),
        ("dimensions", json!({"input": "x", "dimensions": 385})),
        ("dimensions", json!({"input": "x", "dimensions": 0})),
        ("encoding_format", json!({"input": "x", "encoding_format": "int8"})),
        ("surprise", json!({"input": "x", "surprise": 1})),
        ("model", json!({"input": "x", "model": MODEL})),
    ] {
        let error = server.refused("/v1/embeddings", &body, 400);
        assert_eq!(error["param"], param, "{error}");
    }
    let long = json!({"input": "word ".repeat(300)});
    let error = server.refused("/v1/embeddings", &long, 400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert!(error["message"].as_str().expect("a text").contains("302"), "{error}");
    server.refused("/v1/embeddings", &json!({}), 400);
    server.refused("/v1/embeddings", &json!({"input": "x", "model": "other"}), 404);
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let body = match path {
            "/v1/completions" => json!({"model": "minilm", "prompt": "x"}),
            _ => chat(json!({"model": "minilm"})),
        };
        let error = server.refused(path, &body, 400);
        assert!(error["message"].as_str().expect("a text").contains("/v1/embeddings"), "{error}");
    }
    // The generating model is not concerned, and without a name each route finds its own.
    server.ok("/v1/chat/completions", &chat(json!({})));
    server.ok("/v1/chat/completions", &chat(json!({"model": null})));
    server.ok("/v1/embeddings", &json!({"input": "x"}));
}

#[test]
fn without_a_generating_model() {
    let config = ServerConfig { api_keys: vec!["secret".into()], ..ServerConfig::default() };
    let server = start(false, config);
    let body = json!({"input": "x"}).to_string();
    assert_eq!(server.request("POST", "/v1/embeddings", support::JSON, &body).status, 401);
    let headers = format!("{}Authorization: Bearer secret\r\n", support::JSON);
    assert_eq!(server.request("POST", "/v1/embeddings", &headers, &body).status, 200);
    for model in [json!(null), json!("default"), json!("minilm")] {
        let body = chat(json!({"model": model})).to_string();
        assert_eq!(server.request("POST", "/v1/chat/completions", &headers, &body).status, 400);
    }
    let body = chat(json!({"model": "other"})).to_string();
    assert_eq!(server.request("POST", "/v1/chat/completions", &headers, &body).status, 404);
}
