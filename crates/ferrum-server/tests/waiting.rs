//! Requests for models that are not there yet: what they hold meanwhile, what they hear, and what
//! becomes of them.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ferrum_server::{
    App, Limits, Metrics, Models, ModelsConfig, Offer, Patience, ServerConfig, Start,
};
use serde_json::{Value, json};
use support::{
    CONTEXT, JSON, LoadGate, MODEL, Response, Running, Setup, chat, completion, offer,
    request_bytes, start_app, wait_for,
};

const TEXT: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A server of these models, of which none is loaded.
fn serve(
    setup: Setup,
    choices: ModelsConfig,
    offers: impl FnOnce(&dyn Fn(&str) -> Offer) -> Vec<Offer>,
) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let offers = offers(&|name| offer(dir.path(), name, &setup));
    let metrics = Metrics::new().unwrap();
    let models = Models::new(offers, choices, &metrics).unwrap();
    start_app(dir, App::new(models, metrics, setup.config))
}

/// A server of one model whose load waits for the gate, and perhaps fails.
fn gated(config: ServerConfig, gate: &LoadGate, fails: bool) -> Running {
    serve(Setup { config, ..Setup::default() }, ModelsConfig::default(), |offer| {
        let mut slow = offer("slow");
        if fails {
            slow.start = Start::Model(Box::new(|_| panic!("a bug")));
        }
        vec![offer(MODEL), gate.before(slow)]
    })
}

fn send(server: &Running, path: &str, body: &Value) -> TcpStream {
    send_with(server, path, JSON, body)
}

fn send_with(server: &Running, path: &str, headers: &str, body: &Value) -> TcpStream {
    let mut socket = server.connect();
    let request = request_bytes("POST", path, headers, &body.to_string());
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

fn rest(mut socket: TcpStream) -> String {
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// Reads until `what` has come.
fn read_until(socket: &mut TcpStream, what: &str) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.contains(what) {
        assert_eq!(socket.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
    }
    text
}

/// Requests that wait for the model of this name.
fn waiting(server: &Running, name: &str) -> usize {
    server.metric("ferrum_model_waiting_requests", name).unwrap() as usize
}

#[test]
fn who_reads_slowly_keeps_no_other_model_out() {
    let choices = ModelsConfig { memory: Some(1), ..ModelsConfig::default() };
    let server = serve(Setup::default(), choices, |offer| vec![offer(MODEL), offer("second")]);
    server.ok(TEXT, &completion(json!({})));
    let more = json!({"max_tokens": 1900, "n": 2, "stream": true, "logprobs": true,
        "top_logprobs": 20});
    let mut slow = server.connect_narrow();
    let request = request_bytes("POST", CHAT, JSON, &chat(more).to_string());
    slow.write_all(request.as_bytes()).unwrap();
    wait_for(|| server.app.models.under_way() > 0, "it runs");
    // The engine ends it although nobody reads, and the model can go.
    server.ok(TEXT, &completion(json!({"model": "second"})));
    assert_eq!(server.app.models.under_way(), 1, "the answer is not read yet");
    let text = rest(slow);
    assert!(text.contains("data: [DONE]"), "it is all there");
    wait_for(|| server.app.models.under_way() == 0, "now it is");
    server.wait_until_free();
}

#[test]
fn a_load_that_failed_is_not_tried_again_at_once() {
    let retry = Duration::from_millis(300);
    let (gate, dir) = (LoadGate::default(), tempfile::tempdir().unwrap());
    gate.open();
    let setup = Setup::default();
    let broken = offer(dir.path(), "broken", &setup);
    let path = dir.path().join("broken.gguf");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "GGUF?").unwrap();
    let choices = ModelsConfig {
        patience: Patience { retry, longest_retry: Duration::from_secs(60), ..Patience::default() },
        ..ModelsConfig::default()
    };
    let server = serve(setup, choices, |offer| vec![offer(MODEL), gate.before(broken)]);
    let ask = completion(json!({"model": "broken"}));
    let refused = || {
        let response = server.post(TEXT, &ask);
        assert_eq!(response.status, 503, "{response:?}");
        let after = response.head.lines().find_map(|l| l.strip_prefix("retry-after: "));
        let error = response.json()["error"].clone();
        assert_eq!(error["code"], "model_not_loaded");
        assert!(error["message"].as_str().unwrap().contains("broken could not be"), "{error}");
        after.unwrap().trim().parse::<u64>().unwrap()
    };
    let begun = Instant::now();
    assert_eq!(refused(), 1);
    for _ in 0..3 {
        refused();
        let loads = gate.loads();
        assert!(loads == 1 || begun.elapsed() > retry, "{loads} loads");
    }
    // After a time it is tried again, and the time grows.
    while gate.loads() < 5 {
        refused();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(begun.elapsed() > 15 * retry, "{:?}", begun.elapsed());
    assert!((2..=5).contains(&refused()), "after the fifth failure it is 4.8 s");
    server.ok(TEXT, &completion(json!({})));
    // Another file is another matter.
    std::fs::write(&path, whole).unwrap();
    server.ok(TEXT, &ask);
    assert_eq!(gate.loads(), 6);
    server.wait_until_free();
}

/// A request whose body takes most of the room for bodies, and is refused for its length once it is
/// read.
fn large(model: &str) -> Value {
    completion(json!({"model": model, "prompt": "y ".repeat(30_000)}))
}

#[test]
fn requests_that_wait_for_a_model_leave_room_for_the_bodies_of_others() {
    let gate = LoadGate::default();
    let limits =
        Limits { body_bytes: 64 << 10, bodies_bytes: 0, parked_bytes: 0, ..Limits::default() };
    let server = gated(ServerConfig { limits, ..ServerConfig::default() }, &gate, false);
    server.refused(TEXT, &large(MODEL), 400);
    let first = send(&server, TEXT, &large("slow"));
    wait_for(|| waiting(&server, "slow") == 1, "it waits");
    // Its model is there.
    server.refused(TEXT, &large(MODEL), 400);
    // What waits is bounded, too; small ones are not concerned.
    let error = server.refused(TEXT, &large("slow"), 503);
    assert!(error["message"].as_str().unwrap().contains("wait for their models"), "{error}");
    let small = send(&server, TEXT, &completion(json!({"model": "slow"})));
    wait_for(|| waiting(&server, "slow") == 2, "it waits");
    gate.open();
    assert_eq!(Response::parse(&rest(first)).status, 400, "longer than {CONTEXT} tokens");
    assert_eq!(Response::parse(&rest(small)).status, 200);
    server.refused(TEXT, &large("slow"), 400);
}

#[test]
fn one_key_does_not_take_the_room_of_all() {
    let limits = Limits { body_bytes: 64 << 10, bodies_bytes: 128 << 10, ..Limits::default() };
    let api_keys = vec!["first".into(), "second".into()];
    let config = ServerConfig { limits, api_keys, ..ServerConfig::default() };
    let server = gated(config, &LoadGate::default(), false);
    let headers = |key| format!("{JSON}x-api-key: {key}\r\n");
    let text = large(MODEL).to_string();
    let ask = |key| server.request("POST", TEXT, &headers(key), &text);
    assert_eq!(ask("first").status, 400);
    let request = request_bytes("POST", TEXT, &headers("first"), &text);
    // One more at each try: what came while an earlier body was still counted has been refused.
    let mut slow = Vec::new();
    let one_more_is_refused = || {
        let mut socket = server.connect();
        socket.write_all(&request.as_bytes()[..request.len() - 1]).unwrap();
        slow.push(socket);
        ask("first").status == 429
    };
    wait_for(one_more_is_refused, "the key has its share");
    assert_eq!(ask("second").status, 400, "the other has its own");
    drop(slow);
    wait_for(|| ask("first").status == 400, "it came back");
}

#[test]
fn all_that_waits_for_a_model_counts_for_its_key() {
    let gate = LoadGate::default();
    let api_keys = vec!["first".into(), "second".into()];
    let config = ServerConfig { api_keys, per_key: Some(1), ..ServerConfig::default() };
    let server = gated(config, &gate, false);
    let headers = |key| format!("{JSON}x-api-key: {key}\r\n");
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let text = json!({"model": "slow", "content": "Hello"});
    let chat = json!({"model": "slow", "messages": messages});
    let count = json!({"model": "slow", "messages": messages, "max_tokens": 1});
    let ids = json!({"model": "slow", "tokens": [5, 6]});
    let routes = [
        ("/tokenize", &text),
        ("/detokenize", &ids),
        ("/apply-template", &chat),
        ("/v1/messages/count_tokens", &count),
        (TEXT, &completion(json!({"model": "slow"}))),
    ];
    let status = |key, (path, body): (&str, &Value)| {
        server.request("POST", path, &headers(key), &body.to_string()).status
    };
    let first = send_with(&server, "/tokenize", &headers("first"), &text);
    wait_for(|| server.app.models.places()[1] == ferrum_server::residency::Place::Loading, "wait");
    for route in routes {
        assert_eq!(status("first", route), 429, "{}", route.0);
    }
    assert_eq!(server.request("GET", "/tokenizer_info", &headers("first"), "").status, 429);
    let second = send_with(&server, "/tokenize", &headers("second"), &text);
    gate.open();
    for socket in [first, second] {
        assert_eq!(Response::parse(&rest(socket)).status, 200);
    }
    for route in routes {
        wait_for(|| status("first", route) == 200, route.0);
    }
}

#[test]
fn streams_are_alive_while_their_model_is_loaded() {
    let gate = LoadGate::default();
    let limits = Limits { keep_alive: Duration::from_millis(100), ..Limits::default() };
    let server = gated(ServerConfig { limits, ..ServerConfig::default() }, &gate, false);
    let body = |path, more: Value| {
        let mut body = if path == TEXT { completion(more) } else { chat(more) };
        body["model"] = "slow".into();
        body["stream"] = true.into();
        body
    };
    let mut socket = send(&server, TEXT, &body(TEXT, json!({})));
    let begun = Instant::now();
    let head = read_until(&mut socket, ": keep-alive");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
    assert!(begun.elapsed() >= server.app.limits.keep_alive);
    read_until(&mut socket, ": keep-alive");
    // What the model refuses comes as an event now, in the words of each API.
    let long = send(&server, CHAT, &body(CHAT, json!({"max_tokens": CONTEXT + 1})));
    let message = json!({"model": "slow", "stream": true, "max_tokens": CONTEXT + 1,
        "messages": [{"role": "user", "content": "Hello"}]});
    let anthropic = send(&server, "/v1/messages", &message);
    let ask = json!({"model": "slow", "stream": true, "input": "Hello", "max_output_tokens": 9999});
    let responses = send(&server, "/v1/responses", &ask);
    let mut others = [long, anthropic, responses];
    for socket in &mut others {
        read_until(socket, ": keep-alive");
    }
    // A client that leaves does not wait any more.
    let gone = send(&server, TEXT, &body(TEXT, json!({})));
    wait_for(|| waiting(&server, "slow") == 5, "all wait");
    drop(gone);
    wait_for(|| waiting(&server, "slow") == 4, "it waits no longer");
    gate.open();
    let text = rest(socket);
    assert!(
        text.contains("\"finish_reason\":\"length\"") && text.contains("data: [DONE]"),
        "{text}"
    );
    let [long, anthropic, responses] = others.map(rest);
    assert!(long.contains("data: {\"error\":{") && long.contains("data: [DONE]"), "{long}");
    assert!(long.contains("context_length_exceeded"), "{long}");
    assert!(anthropic.contains("event: error\ndata: {\"type\":\"error\""), "{anthropic}");
    assert!(responses.contains("event: error\ndata: {\"type\":\"error\""), "{responses}");
    // Now that the model is there, errors have their status.
    assert_eq!(server.post(CHAT, &body(CHAT, json!({"max_tokens": CONTEXT + 1}))).status, 400);
    server.wait_until_free();
}

#[test]
fn a_load_that_fails_ends_its_streams() {
    let gate = LoadGate::default();
    let limits = Limits { keep_alive: Duration::from_millis(100), ..Limits::default() };
    let server = gated(ServerConfig { limits, ..ServerConfig::default() }, &gate, true);
    let body = completion(json!({"model": "slow", "stream": true}));
    let mut socket = send(&server, TEXT, &body);
    read_until(&mut socket, ": keep-alive");
    gate.open();
    let text = rest(socket);
    assert!(text.contains("could not be loaded") && text.contains("data: [DONE]"), "{text}");
    // From memory, at once, with its status.
    let error = server.refused(TEXT, &body, 503);
    assert!(error["message"].as_str().unwrap().contains("panic"), "{error}");
    assert_eq!(gate.loads(), 1);
}

/// A model whose answers keep it busy holds its own requests back for another's sake only for a
/// while.
#[test]
fn requests_are_held_back_within_bounds() {
    let patience = Patience { drain: Duration::from_millis(200), ..Patience::default() };
    let choices = ModelsConfig { memory: Some(1), patience, ..ModelsConfig::default() };
    let server = serve(Setup::default(), choices, |offer| vec![offer(MODEL), offer("second")]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let held = runtime.block_on(server.app.models.lease(0)).ok().unwrap();
    let second = send(&server, TEXT, &completion(json!({"model": "second"})));
    wait_for(|| waiting(&server, "second") == 1, "it waits");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        // Each waits for less than the lease is held.
        server.ok(TEXT, &completion(json!({})));
    }
    assert_eq!(waiting(&server, "second"), 1);
    drop(held);
    assert_eq!(Response::parse(&rest(second)).status, 200);
    server.wait_until_free();
}
