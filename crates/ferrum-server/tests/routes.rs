//! The other routes, and errors that belong to HTTP.

mod support;

use serde_json::{Value, json};
use support::{CONTEXT, JSON, MODEL, Response, chat, start};

#[test]
fn models_are_listed_and_named() {
    let server = start();
    let list = server.get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], MODEL);
    assert_eq!(list["data"][0]["max_model_len"], CONTEXT);
    assert_eq!(server.get("/v1/models/tiny").json()["id"], MODEL);
    assert_eq!(server.get("/v1/models/little").json()["id"], MODEL);
    assert_eq!(server.get("/v1/models/other/model").status, 404);
    for name in ["tiny", "little", "default", ""] {
        server.ok("/v1/chat/completions", &chat(json!({"model": name})));
    }
    let error = server.refused("/v1/chat/completions", &chat(json!({"model": "gpt-5"})), 404);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    assert!(error["message"].as_str().unwrap().contains(MODEL));
    let error = server.refused("/v1/embeddings", &json!({"model": MODEL, "input": "x"}), 400);
    assert!(error["message"].as_str().unwrap().contains("embeddings"));
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let server = start();
    let whole = server.ok("/tokenize", &json!({"content": "Hello, Wörld", "with_pieces": true}));
    let tokens: Vec<Value> =
        whole["tokens"].as_array().unwrap().iter().map(|t| t["id"].clone()).collect();
    assert_eq!(whole["count"], tokens.len());
    let plain = server.ok("/tokenize", &json!({"prompt": "Hello, Wörld"}));
    assert_eq!(plain["tokens"], json!(tokens));
    let text = server.ok("/detokenize", &json!({"tokens": tokens}));
    assert_eq!(text["content"], "Hello, Wörld");
    server.refused("/detokenize", &json!({"tokens": [100_000]}), 400);
    server.refused("/tokenize", &json!({}), 400);

    let messages = json!([{"role": "user", "content": "Hello"}]);
    let prompt = server.ok("/apply-template", &json!({"messages": messages}))["prompt"].clone();
    assert!(prompt.as_str().unwrap().contains("Hello"));
    let of_chat = server.ok("/tokenize", &json!({"messages": messages}));
    let of_text = server.ok("/tokenize", &json!({"content": prompt, "add_special": false}));
    assert_eq!(of_chat["tokens"], of_text["tokens"]);

    let info = server.get("/tokenizer_info").json();
    assert_eq!(info["model_max_length"], CONTEXT);
    let eos = server.ok("/tokenize", &json!({"content": info["eos_token"], "add_special": false}));
    assert_eq!(eos["count"], 1, "{info}");
    assert!(info["chat_template"].as_str().unwrap().contains("messages"));
}

#[test]
fn status_routes() {
    let server = start();
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    assert_eq!(server.get("/ready").status, 200);
    server.ok("/v1/chat/completions", &chat(json!({})));
    server.wait_until_free();
    let metrics = server.get("/metrics").body;
    for line in [
        "ferrum_generated_tokens_total{model=\"tiny\"} 8",
        "ferrum_requests_finished_total{model=\"tiny\",reason=\"length\"} 1",
        "ferrum_http_responses_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
        "ferrum_ttft_seconds_count{model=\"tiny\"} 1",
        "ferrum_itl_seconds_count{model=\"tiny\"} 7",
        "ferrum_requests_running{model=\"tiny\"} 0",
        "ferrum_kv_use_ratio{model=\"tiny\"} 0",
        "ferrum_model_loaded{model=\"tiny\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
}

#[test]
fn errors_of_http_have_the_same_shape() {
    let server = start();
    let check = |response: Response, status: u16| {
        assert_eq!(response.status, status, "{response:?}");
        assert!(response.json()["error"]["message"].is_string(), "{response:?}");
    };
    check(server.get("/nothing"), 404);
    check(server.get("/v1/chat/completions"), 405);
    check(server.request("DELETE", "/v1/models", "", ""), 405);
    let path = "/v1/chat/completions";
    check(server.request("POST", path, "", "{}"), 415);
    check(server.request("POST", path, "Content-Type: text/plain\r\n", "{}"), 415);
    for body in ["", "{", "[]", "null", "{\"messages\": 3}", "\u{0}", "{\"messages\": [[[[]]]]}"] {
        check(server.request("POST", path, JSON, body), 400);
    }
    check(server.request("POST", path, JSON, &"[".repeat(1 << 20)), 400);
    check(server.request("POST", path, JSON, &" ".repeat((8 << 20) + 1)), 413);
    assert!(server.raw(b"NONSENSE\r\n\r\n").starts_with("HTTP/1.1 400"));
    server.ok(path, &chat(json!({})));
}

#[test]
fn the_document_names_the_routes_that_there_are() {
    let server = start();
    let document = server.get("/openapi.json").json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 10);
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{id}", MODEL);
            let response = server.request(&method.to_uppercase(), &path, JSON, "{}");
            assert!(![404, 405].contains(&response.status), "{method} {path}: {response:?}");
        }
    }
}
