//! `/v1/rerank` of a tiny cross-encoder, whose scores are those of sentence-transformers.

#[path = "../../ferrum-models/tests/support/filled.rs"]
mod filled;
mod support;

use ferrum_models::LoadOptions;
use ferrum_server::{App, Metrics, Models, ModelsConfig, ServerConfig};
use serde_json::{Value, json};
use support::{Running, encoder_offer, start_app};

const GOLDEN: &str = include_str!("../../ferrum-models/tests/data/pooled.json");

/// The golden file's cross-encoder, and a server with it and with a model that makes vectors.
fn start() -> (Running, Value) {
    let golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = LoadOptions { exact: true, ..LoadOptions::default() };
    let mut offers = Vec::new();
    for (name, dimensions) in [("cross", 1), ("causal", 64)] {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).expect("made");
        let model: filled::Model = serde_json::from_value(golden[name].clone()).expect("a model");
        model.write(&folder);
        offers.push(encoder_offer(name, folder, dimensions, options.clone()));
    }
    let metrics = Metrics::new().expect("metrics");
    let models = Models::new(offers, ModelsConfig::default(), &metrics).expect("models");
    let app = App::new(models, metrics, ServerConfig::default());
    (start_app(dir, app), golden["cross"].clone())
}

#[test]
fn documents_come_in_the_order_of_their_scores() {
    let (server, golden) = start();
    // Two pairs that have their query in common with none: each is asked for with the other's document.
    let (query, own) = (&golden["pairs"][0][0], &golden["pairs"][0][1]);
    let documents = json!([golden["pairs"][1][1], own, {"text": "king"}, "king"]);
    let body = json!({"model": "cross", "query": query, "documents": documents});
    for path in ["/v1/rerank", "/rerank"] {
        let answer = server.ok(path, &body);
        let results = answer["results"].as_array().expect("a list");
        assert_eq!((&answer["model"], results.len()), (&json!("cross"), 4));
        let scores: Vec<f64> =
            results.iter().map(|r| r["relevance_score"].as_f64().expect("a score")).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        let of = |index: usize| results.iter().position(|r| r["index"] == index).expect("there");
        let want = golden["scores"][0].as_f64().expect("a score");
        assert!((scores[of(1)] - want).abs() < 1e-5, "{scores:?}, {want}");
        // A text alone and as an object is the same, and of equal ones the first is the first.
        assert_eq!((scores[of(2)], of(3)), (scores[of(3)], of(2) + 1));
        assert!(results.iter().all(|r| r.get("document").is_none()));
        assert!(answer["usage"]["total_tokens"].as_u64().expect("a number") > 30);
    }
    let mut short = body;
    short["top_n"] = json!(2);
    short["return_documents"] = json!(true);
    let answer = server.ok("/v1/rerank", &short);
    let results = answer["results"].as_array().expect("a list");
    assert_eq!(results.len(), 2);
    for result in results {
        let index = result["index"].as_u64().expect("a number") as usize;
        let text = documents[index].get("text").unwrap_or(&documents[index]);
        assert_eq!(&result["document"]["text"], text);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (server, _) = start();
    let long = "stone ".repeat(80);
    for (param, body) in [
        ("documents", json!({"query": "x", "documents": []})),
        ("documents", json!({"query": "x", "documents": vec!["x"; 2049]})),
        ("documents", json!({"query": "x", "documents": [long]})),
        ("top_n", json!({"query": "x", "documents": ["x"], "top_n": 0})),
        ("surprise", json!({"query": "x", "documents": ["x"], "surprise": 1})),
        ("model", json!({"query": "x", "documents": ["x"], "model": "causal"})),
    ] {
        let error = server.refused("/v1/rerank", &body, 400);
        assert_eq!(error["param"], param, "{error}");
    }
    server.refused("/v1/rerank", &json!({"query": "x"}), 400);
    server.refused("/v1/rerank", &json!({"query": "x", "documents": [{"image": "x"}]}), 400);
    server.ok("/v1/rerank", &json!({"query": "x", "documents": [long], "truncate": true}));
    let error = server.refused("/v1/embeddings", &json!({"model": "cross", "input": "x"}), 400);
    assert!(error["message"].as_str().expect("a text").contains("/v1/rerank"), "{error}");
    let vector = server.ok("/v1/embeddings", &json!({"model": "causal", "input": ["a", "the"]}));
    assert_eq!(vector["data"][1]["embedding"].as_array().map(Vec::len), Some(64));
}
