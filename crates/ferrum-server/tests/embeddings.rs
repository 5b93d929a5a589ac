//! `/v1/embeddings` of MiniLM, beside a model that generates and alone.

mod support;

use std::io::{Read, Write};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrum_models::LoadOptions;
use ferrum_server::{App, Limits, Metrics, Models, ModelsConfig, Offer, ServerConfig};
use serde_json::{Value, json};
use support::{MODEL, Running, Setup, chat, encoder_offer, offer, start_app, wait_for};

const PATH: &str = "/v1/embeddings";

/// A server with MiniLM, and perhaps a tiny model that generates.
fn start(generating: bool, config: ServerConfig) -> Running {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::default();
    let mut offers = if generating { vec![offer(dir.path(), MODEL, &setup)] } else { Vec::new() };
    offers.push(minilm());
    let metrics = Metrics::new().expect("metrics");
    let models = Models::new(offers, ModelsConfig::default(), &metrics).expect("models");
    start_app(dir, App::new(models, metrics, config))
}

fn minilm() -> Offer {
    let folder = ferrum_hub::testing::fetch_alias("minilm").expect("fetched");
    let offer = encoder_offer("minilm", folder, 384, LoadOptions::default());
    Offer { aliases: vec!["small".into()], context: 256, ..offer }
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

fn metric(server: &Running, name: &str) -> Option<f64> {
    server.metric(name, "minilm")
}

#[test]
fn models_of_both_kinds_share_the_memory() {
    let (dir, setup) = (tempfile::tempdir().expect("a temporary folder"), Setup::default());
    let mut offers = vec![offer(dir.path(), MODEL, &setup), minilm()];
    offers.push(offer(dir.path(), "second", &setup));
    let metrics = Metrics::new().expect("metrics");
    let config = ModelsConfig { memory: Some(2), ..ModelsConfig::default() };
    let models = Models::new(offers, config, &metrics).expect("models");
    let server = start_app(dir, App::new(models, metrics, setup.config));
    let status = |id: &str| server.get(&format!("/v1/models/{id}")).json()["loaded"].clone();
    let loaded = || [MODEL, "minilm", "second"].map(|id| status(id) == true);
    assert_eq!(loaded(), [false; 3]);
    assert_eq!(server.get("/v1/models/minilm").json()["dimensions"], 384, "without being loaded");
    let text = json!({"input": ["Hello, world!", "A man is eating food."]});
    let first = floats(&server.ok(PATH, &text), 1);
    server.ok("/v1/completions", &support::completion(json!({})));
    assert_eq!(loaded(), [true, true, false]);
    server.ok("/v1/completions", &support::completion(json!({"model": "second"})));
    assert_eq!(loaded(), [true, false, true], "it was used longest ago");
    assert_eq!(metric(&server, "ferrum_model_loaded"), Some(0.0));
    assert_eq!(floats(&server.ok(PATH, &text), 1), first, "it comes back as it was");
    assert_eq!(loaded(), [false, true, true]);
    for (name, value) in [
        ("ferrum_model_loads_total", 2.0),
        ("ferrum_model_evictions_total", 1.0),
        ("ferrum_model_loaded", 1.0),
        ("ferrum_model_memory_bytes", 1.0),
        ("ferrum_embedded_texts_total", 4.0),
        ("ferrum_prompt_tokens_total", 28.0),
        ("ferrum_request_seconds_count", 2.0),
    ] {
        assert_eq!(metric(&server, name), Some(value), "{name}");
    }
    assert!(metric(&server, "ferrum_embedding_seconds_total") > Some(0.0));
    assert_eq!(metric(&server, "ferrum_kv_blocks"), None, "it has none");
    let finished = "ferrum_requests_finished_total{model=\"minilm\",reason=\"stop\"} 2";
    assert!(server.get("/metrics").body.contains(finished));
    assert!(!server.get("/metrics").body.contains("ferrum_embedded_texts_total{model=\"tiny\"}"));
    server.wait_until_free();
}

/// Texts that make an answer of some megabytes.
fn many() -> String {
    json!({"model": "minilm", "input": vec!["a"; 800]}).to_string()
}

#[test]
fn large_answers_that_are_not_read_are_bounded() {
    let limits = Limits { answers_bytes: 6 << 20, ..Limits::default() };
    let server = start(false, ServerConfig { limits, ..ServerConfig::default() });
    let request = support::request_bytes("POST", PATH, support::JSON, &many());
    let mut slow = server.connect_narrow();
    slow.write_all(request.as_bytes()).expect("sent");
    slow.read_exact(&mut [0; 100]).expect("it begins");
    let small = json!({"input": "x"});
    wait_for(|| server.app.models.leases() == 0, "the model is free");
    let refused = server.request("POST", PATH, support::JSON, &many());
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    server.ok(PATH, &small);
    assert_eq!(server.app.models.under_way(), 1);
    let mut whole = vec![0; 1000];
    slow.read_exact(&mut whole).expect("it goes on");
    drop(slow);
    wait_for(|| server.app.models.under_way() == 0, "it is given up");
    let whole = server.request("POST", PATH, support::JSON, &many());
    assert_eq!((whole.status, whole.json()["data"].as_array().map(Vec::len)), (200, Some(800)));
    assert!(whole.head.contains(&format!("content-length: {}", whole.body.len())));
}

#[test]
fn a_server_that_stops_embeds_nothing_new() {
    let mut server = start(false, ServerConfig::default());
    server.ok(PATH, &json!({"input": "x"}));
    let body = json!({"input": "x"}).to_string();
    let request = support::request_bytes("POST", PATH, support::JSON, &body);
    let mut upload = server.connect();
    let (head, last) = request.as_bytes().split_at(request.len() - 1);
    upload.write_all(head).expect("sent");
    // An answer that is not read yet keeps the server meanwhile.
    let mut slow = server.connect_narrow();
    let large = support::request_bytes("POST", PATH, support::JSON, &many());
    slow.write_all(large.as_bytes()).expect("sent");
    slow.read_exact(&mut [0; 100]).expect("it begins");
    server.stop.stop();
    wait_for(|| server.app.models.is_closed(), "it has heard");
    upload.write_all(last).expect("sent");
    let mut text = String::new();
    upload.read_to_string(&mut text).expect("an answer");
    assert_eq!(support::Response::parse(&text).status, 503, "{text}");
    // Longer than idle connections have to close.
    std::thread::sleep(Duration::from_secs(3));
    assert!(!server.has_ended(), "somebody reads");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the rest");
    assert!(rest.ends_with(b"}"), "it is complete");
    server.end();
}
