//! Several models in one server: picked by name, loaded when they are wanted, within the memory.

mod support;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferrum_server::{App, Metrics, Models, ModelsConfig, OfferError, Start};
use serde_json::{Value, json};
use support::{
    JSON, MODEL, Running, Setup, chat, completion, offer, request_bytes, start_app, wait_for,
};

const TEXT: &str = "/v1/completions";
const NAMES: [&str; 3] = [MODEL, "second", "third"];

/// A server of three models of one byte each, of which `memory` fit; none is loaded.
fn three(memory: u64, wait: Duration) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::default();
    let offers = NAMES.iter().map(|name| offer(dir.path(), name, &setup)).collect();
    let metrics = Metrics::new().unwrap();
    let config = ModelsConfig { memory: Some(memory), wait, ..ModelsConfig::default() };
    let models = Models::new(offers, config, &metrics).unwrap();
    start_app(dir, App::new(models, metrics, setup.config))
}

const WAIT: Duration = Duration::from_secs(60);

fn ask(model: &str) -> Value {
    completion(json!({"model": model}))
}

fn text(server: &Running, model: &str) -> String {
    let whole = server.ok(TEXT, &ask(model));
    assert_eq!(whole["model"], model);
    whole["choices"][0]["text"].as_str().unwrap().to_string()
}

fn loaded(server: &Running) -> Vec<String> {
    let list = server.get("/v1/models").json();
    let models = list["data"].as_array().unwrap().iter();
    let loaded = models.filter(|model| model["loaded"] == true);
    loaded.map(|model| model["id"].as_str().unwrap().to_string()).collect()
}

fn metric(server: &Running, name: &str, model: &str) -> f64 {
    server.metric(name, model).unwrap_or_else(|| panic!("{name} of {model}"))
}

#[test]
fn models_come_when_they_are_asked_for_and_make_room() {
    let server = three(2, WAIT);
    assert!(loaded(&server).is_empty());
    assert_eq!(server.get("/v1/models").json()["data"].as_array().unwrap().len(), 3);
    assert_eq!(server.get("/ready").status, 200);
    let texts = NAMES.map(|name| text(&server, name));
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "the models differ");
    // The one that was used longest ago had to go.
    assert_eq!(loaded(&server), ["second", "third"]);
    assert_eq!(text(&server, MODEL), texts[0], "it comes back as it was");
    assert_eq!(loaded(&server), [MODEL, "third"]);
    server.ok("/v1/chat/completions", &chat(json!({"model": "default"})));
    assert_eq!(loaded(&server), [MODEL, "third"], "the first is the default");
    for (name, loads, evictions, is) in
        [(MODEL, 2.0, 1.0, 1.0), ("second", 1.0, 1.0, 0.0), ("third", 1.0, 0.0, 1.0)]
    {
        assert_eq!(metric(&server, "ferrum_model_loads_total", name), loads, "{name}");
        assert_eq!(metric(&server, "ferrum_model_evictions_total", name), evictions, "{name}");
        assert_eq!(metric(&server, "ferrum_model_loaded", name), is, "{name}");
        assert!(metric(&server, "ferrum_steps_total", name) > 0.0);
    }
    assert_eq!(metric(&server, "ferrum_generated_tokens_total", "second"), 8.0);
    let error = server.refused(TEXT, &ask("fourth"), 404);
    assert_eq!(error["code"], "model_not_found");
    assert!(NAMES.iter().all(|name| error["message"].as_str().unwrap().contains(name)));
    // Naming a model does not load it.
    assert_eq!(server.get("/v1/models/second").json()["status"]["value"], "unloaded");
    server.refused("/v1/embeddings", &json!({"model": "second", "input": "x"}), 400);
    assert_eq!(loaded(&server), [MODEL, "third"]);
    server.wait_until_free();
}

#[test]
fn a_model_in_use_stays_and_others_wait_within_bounds() {
    let server = three(1, Duration::from_millis(300));
    let body = completion(json!({"max_tokens": 1900, "stream": true}));
    let mut socket = server.connect();
    socket.write_all(request_bytes("POST", TEXT, JSON, &body.to_string()).as_bytes()).unwrap();
    wait_for(|| server.app.models.leases() > 0, "it runs");
    let begun = Instant::now();
    let response = server.post(TEXT, &ask("second"));
    if response.status == 503 {
        assert!(response.head.contains("retry-after: "), "{response:?}");
        assert!(begun.elapsed() >= Duration::from_millis(300));
        // Who gave up holds nobody up.
        text(&server, MODEL);
    } else {
        assert_eq!(response.status, 200, "the answer before ended in time: {response:?}");
    }
    drop(socket);
    server.wait_until_free();
    text(&server, "second");
    assert_eq!(loaded(&server), ["second"]);
}

#[test]
fn a_model_that_cannot_be_loaded_concerns_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::default();
    let mut offers: Vec<_> = NAMES.iter().map(|name| offer(dir.path(), name, &setup)).collect();
    std::fs::write(dir.path().join("second.gguf"), "GGUF?").unwrap();
    offers[2].start = Start::Model(Box::new(|_| panic!("a bug")));
    let metrics = Metrics::new().unwrap();
    let models = Models::new(offers, ModelsConfig::default(), &metrics).unwrap();
    assert!(models.load(1).is_err());
    let server = start_app(dir, App::new(models, metrics, setup.config));
    for name in &NAMES[1..] {
        let error = server.refused(TEXT, &ask(name), 503);
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
        text(&server, MODEL);
    }
    assert_eq!(server.get("/health").status, 200);
    server.wait_until_free();
}

#[test]
fn what_cannot_be_offered_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new().unwrap();
    let offers = |change: fn(&mut ferrum_server::Offer)| {
        let mut two = [MODEL, "second"].map(|name| offer(dir.path(), name, &Setup::default()));
        change(&mut two[1]);
        let config = ModelsConfig { memory: Some(10), ..ModelsConfig::default() };
        Models::new(two.into(), config, &metrics).err().map(|error| error.to_string())
    };
    assert_eq!(offers(|_| {}), None);
    let error = offers(|second| second.bytes = 11).unwrap();
    assert!(error.contains("second") && error.contains("11"), "{error}");
    assert!(offers(|second| second.aliases = vec!["little".into()]).unwrap().contains("little"));
    let none = Models::new(Vec::new(), ModelsConfig::default(), &metrics);
    assert!(matches!(none, Err(OfferError::None)));
}

/// Clients that ask for three models at random, some of whom leave, where two models fit: the
/// budget holds at every moment, the right model answers, and every request ends.
#[test]
fn crowds_share_the_memory() {
    let server = three(2, WAIT);
    let texts = NAMES.map(|name| text(&server, name));
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (server, texts, over, answered) = (&server, &texts, &over, &answered);
        let clients: Vec<_> = (0..6u64)
            .map(|client| {
                scope.spawn(move || {
                    for turn in 0..20u64 {
                        let random = (client * 31 + turn * 17 + client * turn) % 101;
                        let index = random as usize % 3;
                        if random % 5 == 0 {
                            // One that leaves, at some moment.
                            let mut body = ask(NAMES[index]);
                            body["max_tokens"] = json!(200);
                            let mut socket = server.connect();
                            let request = request_bytes("POST", TEXT, JSON, &body.to_string());
                            socket.write_all(request.as_bytes()).unwrap();
                            std::thread::sleep(Duration::from_millis(random % 7));
                        } else {
                            assert_eq!(text(server, NAMES[index]), texts[index]);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                server.app.models.check_integrity();
                assert!(loaded(server).len() <= 2);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let ends: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok));
    });
    assert!(answered.load(Ordering::Relaxed) > 60);
    server.wait_until_free();
    let evictions = NAMES.map(|name| metric(&server, "ferrum_model_evictions_total", name));
    assert!(evictions.iter().sum::<f64>() > 3.0, "{evictions:?}");
}

/// A model that is always in use keeps nobody out for ever.
#[test]
fn constant_use_starves_nobody() {
    let server = three(1, WAIT);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (server, over) = (&server, &over);
        for _ in 0..3 {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    text(server, MODEL);
                }
            });
        }
        wait_for(|| server.app.models.leases() > 1, "it is in use");
        text(server, "second");
        text(server, "third");
        over.store(true, Ordering::Relaxed);
    });
    server.wait_until_free();
}
