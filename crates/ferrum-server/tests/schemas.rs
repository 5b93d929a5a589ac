//! Answers within JSON schemas, over HTTP: whatever the model, an answer that ends is valid.

#[path = "../../ferrum-engine/tests/support/rng.rs"]
#[allow(dead_code, reason = "only a part is used here")]
mod rng;
#[path = "../../ferrum-engine/tests/support/schemas.rs"]
mod schemas;
mod support;

use rng::Rng;
use serde_json::{Value, json};
use support::{Running, chat, start};

/// A bias towards what closes strings, objects and lists, so that answers of random weights end.
fn closing(server: &Running) -> Value {
    let token = |text| {
        let body = json!({"content": text, "add_special": false});
        server.ok("/tokenize", &body)["tokens"][0].to_string()
    };
    ["\"", "}", "]"].map(|text| (token(text), json!(4.0))).into_iter().collect()
}

fn ask(schema: &Value, bias: &Value, seed: usize) -> Value {
    let format = json!({"type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": true}});
    chat(json!({"response_format": format, "logit_bias": bias, "seed": seed, "temperature": 1,
        "max_tokens": 1200, "ignore_eos": false}))
}

#[test]
fn answers_within_random_schemas_are_valid() {
    let server = start();
    let bias = closing(&server);
    let mut cut = 0;
    for seed in 0..200 {
        let schema = schemas::random(&mut Rng(seed as u64));
        let answer = server.ok("/v1/chat/completions", &ask(&schema, &bias, seed));
        let choice = &answer["choices"][0];
        if choice["finish_reason"] == "length" {
            cut += 1;
            continue;
        }
        assert_eq!(choice["finish_reason"], "stop");
        let text = choice["message"]["content"].as_str().expect("a text");
        let value: Value =
            serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}: {schema}"));
        let validator = jsonschema::validator_for(&schema).expect("a valid schema");
        let valid = validator.validate(&value);
        assert!(valid.is_ok(), "{valid:?}: {text}: {schema}");
    }
    assert!(cut <= 10, "{cut} of 200 answers did not end");
}

#[test]
fn schemas_that_cannot_be_enforced_are_refused() {
    let server = start();
    for (keyword, schema) in schemas::refused() {
        let error = server.refused("/v1/chat/completions", &ask(&schema, &json!({}), 1), 400);
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(keyword), "{keyword}: {message}");
    }
}
