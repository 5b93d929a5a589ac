//! A crowd that asks for more models than fit, some of whom read slowly, leave, send half a request
//! or ask for a model that cannot be loaded: every request ends, nothing stays held, and nobody waits
//! for ever.

mod support;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ferrum_server::{App, Metrics, Models, ModelsConfig, Patience};
use serde_json::{Value, json};
use support::{
    JSON, MODEL, Response, Running, Setup, completion, offer, request_bytes, start_app, wait_for,
};

const TEXT: &str = "/v1/completions";
const NAMES: [&str; 3] = [MODEL, "second", "third"];
const BROKEN: &str = "broken";
const CLIENTS: u64 = 8;
const TURNS: usize = 40;

/// Three models that can be loaded, of which two fit, and one that cannot be.
fn start() -> Running {
    let (dir, setup) = (tempfile::tempdir().unwrap(), Setup::default());
    let names = NAMES.iter().chain([&BROKEN]);
    let offers = names.map(|name| offer(dir.path(), name, &setup)).collect();
    std::fs::write(dir.path().join("broken.gguf"), "GGUF?").unwrap();
    let short = Duration::from_millis(20);
    let patience = Patience { drain: short, retry: short, ..Patience::default() };
    let config = ModelsConfig { memory: Some(2), wait: Duration::from_secs(60), patience };
    let metrics = Metrics::new().unwrap();
    let models = Models::new(offers, config, &metrics).unwrap();
    start_app(dir, App::new(models, metrics, setup.config))
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

fn ask(model: &str, more: Value) -> Value {
    let mut body = completion(more);
    body["model"] = model.into();
    body
}

/// One who comes again and again; returns how many requests were answered.
fn client(server: &Running, texts: &[String], seed: u64) -> usize {
    let (mut random, mut answered) = (Random(seed), 0);
    for _ in 0..TURNS {
        let index = random.below(NAMES.len());
        let name = NAMES[index];
        match random.below(6) {
            0 | 1 => {
                let whole = server.post(TEXT, &ask(name, json!({})));
                if ended_well(&whole) {
                    assert_eq!(whole.json()["choices"][0]["text"], texts[index]);
                    answered += 1;
                }
            }
            2 => {
                let more = json!({"stream": true, "n": 2, "max_tokens": 200, "logprobs": 20});
                let text = read_slowly(server, &ask(name, more));
                let whole = Response::parse(&text);
                assert!(!ended_well(&whole) || text.contains("data: [DONE]"), "{text}");
            }
            3 => {
                let more = json!({"stream": random.below(2) == 0, "max_tokens": 1500});
                let text = ask(name, more).to_string();
                let request = request_bytes("POST", TEXT, JSON, &text);
                let sent = request.len() * (random.below(4) + 1) / 4;
                let mut socket = server.connect();
                let _ = socket.write_all(&request.as_bytes()[..sent]);
                std::thread::sleep(Duration::from_millis(random.below(30) as u64));
            }
            4 => {
                assert_eq!(server.refused(TEXT, &ask(BROKEN, json!({})), 503)["param"], json!(null))
            }
            _ => {
                let tokens = server.post("/tokenize", &json!({"model": name, "content": "Hello"}));
                assert!(!ended_well(&tokens) || tokens.json()["count"].as_u64() > Some(0));
            }
        }
    }
    answered
}

/// Whether it was answered; a refusal says when to come again.
fn ended_well(response: &Response) -> bool {
    let refused = matches!(response.status, 429 | 503);
    assert!(response.status == 200 || refused, "{response:?}");
    assert!(!refused || response.head.contains("retry-after: "), "{response:?}");
    !refused
}

/// All of an answer, by and by.
fn read_slowly(server: &Running, body: &Value) -> String {
    let mut socket = server.connect_narrow();
    let request = request_bytes("POST", TEXT, JSON, &body.to_string());
    socket.write_all(request.as_bytes()).unwrap();
    let (mut out, mut some) = (Vec::new(), [0; 8 << 10]);
    loop {
        match socket.read(&mut some).expect("it does not stall") {
            0 => return String::from_utf8(out).unwrap(),
            n => out.extend_from_slice(&some[..n]),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_request_of_a_crowd_ends_and_nothing_stays_held() {
    let mut server = start();
    let plain = |name: &&str| {
        let whole = server.ok(TEXT, &ask(name, json!({})));
        whole["choices"][0]["text"].as_str().unwrap().to_string()
    };
    let texts: Vec<String> = NAMES.iter().map(plain).collect();
    let (over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    let answered: usize = std::thread::scope(|scope| {
        let (server, texts, over, most) = (&server, &texts, &over, &most);
        let clients: Vec<_> =
            (0..CLIENTS).map(|seed| scope.spawn(move || client(server, texts, seed))).collect();
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                server.app.models.check_integrity();
                most.fetch_max(server.app.models.resident().len(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let answered = clients.into_iter().map(|client| client.join());
        let answered: Vec<_> = answered.collect();
        over.store(true, Ordering::Relaxed);
        answered.into_iter().map(|answered| answered.expect("no client fails")).sum()
    });
    assert!(answered > TURNS, "{answered} answers");
    assert_eq!(most.into_inner(), 2);
    wait_for(|| server.app.models.under_way() == 0, "all answers are read or given up");
    server.wait_until_free();
    assert_eq!(server.app.in_flight(), 0);
    let value = |name: &str, model: &str| server.metric(name, model).unwrap();
    for name in NAMES.iter().chain([&BROKEN]) {
        assert_eq!(value("ferrum_model_waiting_requests", name), 0.0, "{name}");
    }
    assert_eq!(value("ferrum_model_loads_total", BROKEN), 0.0);
    let evictions: f64 = NAMES.iter().map(|n| value("ferrum_model_evictions_total", n)).sum();
    assert!(evictions > 3.0, "{evictions} evictions");
    // It is as good as new, and ends.
    for (name, text) in NAMES.iter().zip(&texts) {
        assert_eq!(server.ok(TEXT, &ask(name, json!({})))["choices"][0]["text"], **text);
    }
    server.end();
}
