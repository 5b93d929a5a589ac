//! What clients can do to a server: leave, crowd, dawdle, lack a key.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use ferrum_server::{Limits, ServerConfig};
use serde_json::json;
use support::{
    JSON, Response, Running, Setup, chat, completion, request_bytes, start, start_with, wait_for,
};

const TEXT: &str = "/v1/completions";

fn with_limits(limits: Limits) -> Running {
    let config = ServerConfig { limits, ..ServerConfig::default() };
    start_with(Setup { config, ..Setup::default() })
}

/// A request that takes some time.
fn long(stream: bool) -> String {
    let body = completion(json!({"max_tokens": 1900, "stream": stream}));
    request_bytes("POST", TEXT, JSON, &body.to_string())
}

#[test]
fn a_client_that_leaves_frees_its_blocks() {
    let server = start();
    for stream in [true, false] {
        let mut socket = server.connect();
        socket.write_all(long(stream).as_bytes()).unwrap();
        if stream {
            socket.read_exact(&mut [0; 200]).unwrap();
        }
        wait_for(|| server.app.in_flight() > 0, "the request has come");
        drop(socket);
        server.wait_until_free();
    }
    assert!(server.get("/metrics").body.contains("reason=\"abandoned\"} "));
}

#[test]
fn too_many_requests_are_told_so() {
    let limits = Limits { queue: 1, ..Limits::default() };
    let config = ServerConfig { limits, ..ServerConfig::default() };
    let server = start_with(Setup { config, max_seqs: 1, ..Setup::default() });
    let mut sockets = Vec::new();
    for n in 1..=2 {
        let mut socket = server.connect();
        socket.write_all(long(true).as_bytes()).unwrap();
        wait_for(|| server.app.in_flight() >= n, "the request has come");
        sockets.push(socket);
    }
    let response = server.post(TEXT, &completion(json!({})));
    assert_eq!(response.status, 429, "{response:?}");
    assert!(response.head.contains("retry-after: "), "{response:?}");
    assert_eq!(response.json()["error"]["type"], "rate_limit_error");
    // Asking for more than there will ever be is another mistake.
    server.refused(TEXT, &completion(json!({"n": 3})), 400);
    for mut socket in sockets {
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        assert!(text.contains("data: [DONE]"), "accepted requests are answered to the end");
    }
    server.wait_until_free();
    server.ok(TEXT, &completion(json!({})));
}

#[test]
fn a_reader_that_dawdles_is_given_up() {
    let server = with_limits(Limits { backlog: 16, ..Limits::default() });
    let limits = server.app.limits.clone();
    let body = completion(json!({"max_tokens": 450, "stream": true, "n": 4, "logprobs": 20}));
    let mut socket = server.connect();
    socket.write_all(request_bytes("POST", TEXT, JSON, &body.to_string()).as_bytes()).unwrap();
    // Nothing is read: buffers fill, then the backlog.
    let count = || server.get("/metrics").body.contains("reason=\"slow_reader\"");
    wait_for(count, "the reader is given up");
    let running = || server.app.models.resident()[0].service.stats().running;
    wait_for(|| running() == 0, "its blocks are free");
    assert_eq!(limits.backlog, 16);
    drop(socket);
    server.wait_until_free();
}

#[test]
fn a_server_that_stops_ends_its_answers() {
    let mut server = start();
    let mut socket = server.connect();
    socket.write_all(long(true).as_bytes()).unwrap();
    wait_for(|| server.app.in_flight() > 0, "the request has come");
    server.stop.stop();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert!(text.contains("data: [DONE]"), "the answer is complete");
    server.end();
    assert!(std::net::TcpStream::connect(server.address).is_err(), "it listens no more");
}

#[test]
fn a_server_that_stops_takes_no_new_work() {
    let server = start();
    let mut socket = server.connect();
    socket.write_all(long(true).as_bytes()).unwrap();
    wait_for(|| server.app.in_flight() > 0, "the request has come");
    let late = server.connect();
    server.stop.stop();
    wait_for(|| server.app.models.is_closed(), "it has heard");
    let mut late = late;
    let body = chat(json!({})).to_string();
    let request = request_bytes("POST", "/v1/chat/completions", JSON, &body);
    let mut text = String::new();
    if late.write_all(request.as_bytes()).is_ok() && late.read_to_string(&mut text).is_ok() {
        // If the first answer ended in between, the connection is closed instead.
        if !text.is_empty() {
            assert_eq!(Response::parse(&text).status, 503, "{text}");
        }
    }
}

#[test]
fn answers_that_take_too_long_end_with_the_server() {
    let drain = Duration::from_millis(50);
    let mut server = with_limits(Limits { drain, ..Limits::default() });
    let mut sockets = Vec::new();
    for _ in 0..6 {
        let mut socket = server.connect();
        socket.write_all(long(true).as_bytes()).unwrap();
        sockets.push(socket);
    }
    wait_for(|| server.app.in_flight() >= 2, "requests have come");
    let begun = Instant::now();
    server.end();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.wait_until_free();
}

#[test]
fn slow_headers_and_bodies_are_given_up() {
    let short = Duration::from_millis(200);
    let limits = Limits { header_timeout: short, body_timeout: short, ..Limits::default() };
    let server = with_limits(limits);
    let begun = Instant::now();
    let mut socket = server.connect();
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: localh").unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(10), "headers");

    let idle = server.connect();
    let mut idle = idle;
    let _ = idle.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(10), "an idle connection");

    let head =
        format!("POST {TEXT} HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: 99\r\n\r\n{{");
    let response = Response::parse(&server.raw(head.as_bytes()));
    assert_eq!(response.status, 408, "{response:?}");
}

/// Between its acceptance and its place in the engine a request is in nobody's queue: a server that
/// stops waits for it all the same.
#[test]
fn a_server_that_stops_waits_for_requests_under_way() {
    let mut server = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lease = runtime.block_on(server.app.models.lease(0)).ok().unwrap();
    server.stop.stop();
    wait_for(|| server.app.models.is_closed(), "it has heard");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!server.has_ended());
    let late = runtime.block_on(server.app.models.lease(0));
    assert_eq!(late.err().map(|error| error.status.as_u16()), Some(503));
    drop(lease);
    let begun = Instant::now();
    server.end();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn large_bodies_share_a_bound() {
    let limits = Limits { body_bytes: 64 << 10, bodies_bytes: 0, ..Limits::default() };
    let server = with_limits(limits);
    let stop = "x".repeat(500);
    let stops: Vec<&str> = vec![&stop; 32];
    let body = completion(json!({"stop": stops, "prompt": "y ".repeat(20_000)})).to_string();
    let request = request_bytes("POST", TEXT, JSON, &body);
    let refused = || server.request("POST", TEXT, JSON, &body);
    // Where one of the others comes first, it is the slow one that is refused: then another one.
    let slow = || {
        let mut slow = server.connect();
        slow.write_all(&request.as_bytes()[..request.len() - 1]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        (0..20).any(|_| refused().status == 503).then_some(slow)
    };
    let mut slow = (0..50).find_map(|_| slow()).expect("all room is taken");
    assert!(refused().head.contains("retry-after: 1"));
    server.ok(TEXT, &completion(json!({})));
    slow.write_all(b"}").unwrap();
    let mut text = String::new();
    slow.read_to_string(&mut text).unwrap();
    // It was read: the prompt is longer than the context.
    assert_eq!(Response::parse(&text).status, 400, "{text}");
    assert_eq!(refused().status, 400, "there is room again");
}

#[test]
fn every_route_but_two_needs_a_key() {
    let config = ServerConfig {
        api_keys: vec!["first".into(), "second".into()],
        per_key: Some(1),
        ..ServerConfig::default()
    };
    let server = start_with(Setup { config, ..Setup::default() });
    for path in ["/health", "/ready"] {
        assert_eq!(server.get(path).status, 200);
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
        ("GET", "/openapi.json"),
        ("GET", "/tokenizer_info"),
        ("GET", "/nothing"),
        ("GET", "/health/"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("POST", "/apply-template"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/responses"),
    ] {
        for headers in ["", "Authorization: Bearer wrong\r\n", "X-Api-Key: \r\n"] {
            let response = server.request(method, path, &format!("{JSON}{headers}"), "{}");
            assert_eq!(response.status, 401, "{method} {path} {headers}: {response:?}");
            assert!(response.json()["error"]["message"].is_string());
        }
    }
    let body = completion(json!({})).to_string();
    for key in ["Authorization: Bearer first\r\n", "x-api-key: second\r\n"] {
        let response = server.request("POST", TEXT, &format!("{JSON}{key}"), &body);
        assert_eq!(response.status, 200, "{response:?}");
    }
    // One request at once with each key.
    let key = |key| format!("{JSON}x-api-key: {key}\r\n");
    let running = long(true).replace(JSON, &key("first"));
    let mut socket = server.connect();
    socket.write_all(running.as_bytes()).unwrap();
    wait_for(|| server.app.in_flight() > 0, "the request has come");
    assert_eq!(server.request("POST", TEXT, &key("first"), &body).status, 429);
    assert_eq!(server.request("POST", TEXT, &key("second"), &body).status, 200);
}

#[test]
fn pages_of_other_sites_are_refused() {
    let server = start();
    let body = completion(json!({})).to_string();
    let with = |origin: &str| format!("{JSON}Origin: {origin}\r\n");
    assert_eq!(server.request("POST", TEXT, &with("http://evil.example"), &body).status, 403);
    assert_eq!(server.request("POST", TEXT, &with("http://localhost"), &body).status, 200);
    let foreign = request_bytes("POST", TEXT, JSON, &body).replace("localhost", "evil.example");
    assert_eq!(Response::parse(&server.raw(foreign.as_bytes())).status, 403);
    let preflight = server.request("OPTIONS", TEXT, &with("http://localhost"), "");
    assert!(!preflight.head.contains("access-control"), "{preflight:?}");
}

#[test]
fn crowds_of_broken_clients_change_nothing() {
    let server = start();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for turn in 0..12 {
                    let mut socket = server.connect();
                    let request = long((client + turn) % 2 == 0);
                    let cut = request.len() * ((client * 7 + turn * 5) % 12 + 1) / 12;
                    let _ = socket.write_all(&request.as_bytes()[..cut]);
                    if turn % 3 == 0 {
                        let _ = socket.shutdown(Shutdown::Write);
                    }
                    std::thread::sleep(Duration::from_millis(((client + turn) % 5) as u64 * 3));
                }
            });
        }
    });
    server.wait_until_free();
    server.ok(TEXT, &completion(json!({})));
}
