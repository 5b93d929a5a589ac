//! A card that does nothing any more, and the server on it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use ferrum_models::{Device, LoadOptions};
use ferrum_server::{App, Metrics, Models, ModelsConfig, ServerConfig};
use serde_json::json;
use support::{Running, Setup, completion, encoder_offer, start_app, start_with, wait_for};

const TEXT: &str = "/v1/completions";

/// A supervisor hears of it, and so does whoever asks for an answer.
#[test]
fn a_lost_card_is_told_by_every_route_that_matters() {
    ferrum_cuda_emulator::load().expect("an emulated driver");
    let server = start_with(Setup { device: Device::Cuda(0), ..Setup::default() });
    let request = completion(json!({"max_tokens": 2}));
    server.ok(TEXT, &request);
    assert_eq!(server.get("/health").status, 200);

    ferrum_cuda_emulator::break_device(0);
    let failed = server.post(TEXT, &request);
    assert!(failed.status >= 500 && failed.body.contains("ILLEGAL_ADDRESS"), "{}", failed.body);
    wait_for(|| server.get("/health").status == 503, "the engine has stopped");
    is_told(&server, TEXT, &request);
}

fn is_told(server: &Running, path: &str, request: &serde_json::Value) {
    for answer in [server.get("/health"), server.get("/ready"), server.post(path, request)] {
        assert_eq!(answer.status, 503, "{}", answer.body);
        for words in ["has to be started again", "ILLEGAL_ADDRESS"] {
            assert!(answer.body.contains(words), "{}", answer.body);
        }
    }
}

/// A model that makes embeddings has no engine that could end.
#[test]
fn a_card_that_embeds_no_more_is_told_too() {
    ferrum_cuda_emulator::load().expect("an emulated driver");
    let folder = ferrum_hub::testing::fetch_alias("minilm").expect("fetched");
    let options = LoadOptions { device: Device::Cuda(2), ..LoadOptions::default() };
    let offers = vec![encoder_offer("minilm", folder, 384, options)];
    let metrics = Metrics::new().expect("metrics");
    let models = Models::new(offers, ModelsConfig::default(), &metrics).expect("models");
    models.load(0).expect("a model");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = start_app(dir, App::new(models, metrics, ServerConfig::default()));
    let (path, request) = ("/v1/embeddings", json!({"model": "minilm", "input": "x"}));
    server.ok(path, &request);
    assert_eq!(server.get("/health").status, 200);

    ferrum_cuda_emulator::break_device(2);
    let failed = server.post(path, &request);
    assert!(failed.status >= 500 && failed.body.contains("ILLEGAL_ADDRESS"), "{}", failed.body);
    is_told(&server, path, &request);
}
