//! The routes that generate: what they answer, streamed and not.

mod support;

use serde_json::{Value, json};
use support::{CONTEXT, MODEL, chat, completion, start};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn chat_text(events: &[Value], index: u64) -> String {
    let choices = events.iter().flat_map(|e| e["choices"].as_array().unwrap());
    choices
        .filter(|choice| choice["index"] == index)
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .collect()
}

#[test]
fn a_chat_answers_the_same_streamed_and_not() {
    let server = start();
    let whole = server.ok(CHAT, &chat(json!({})));
    let choice = &whole["choices"][0];
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], MODEL);
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["finish_reason"], "length");
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 8);
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"].as_u64(), Some(prompt + 8));

    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.stream(CHAT, &chat(options));
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chat_text(&events, 0), choice["message"]["content"].as_str().unwrap());
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 8);
    let rest = &events[..events.len() - 1];
    assert!(rest.iter().all(|event| event["usage"].is_null() && event["id"] == last["id"]));
    let reasons: Vec<&str> =
        rest.iter().filter_map(|e| e["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(reasons, ["length"]);
    server.wait_until_free();
}

#[test]
fn several_choices_differ_and_are_counted_once() {
    let server = start();
    let body = chat(json!({"n": 3, "temperature": 2.0, "seed": 7}));
    let whole = server.ok(CHAT, &body);
    let texts: Vec<&str> = whole["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts.len(), 3);
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    assert_eq!(whole["usage"]["completion_tokens"], 24);
    let alone = server.ok(CHAT, &chat(json!({})));
    assert_eq!(whole["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]);
    assert_eq!(server.ok(CHAT, &body)["choices"], whole["choices"], "the seed repeats the draws");

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let events = server.stream(CHAT, &streamed);
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(chat_text(&events, index as u64), *text);
    }
}

#[test]
fn completions_of_texts_and_of_tokens() {
    let server = start();
    let tokens = server.ok("/tokenize", &json!({"content": "Hello there"}))["tokens"].clone();
    let text = server.ok(TEXT, &completion(json!({})));
    assert_eq!(text["object"], "text_completion");
    let by_tokens = server.ok(TEXT, &completion(json!({"prompt": tokens})));
    assert_eq!(by_tokens["choices"], text["choices"]);
    let both = server.ok(TEXT, &completion(json!({"prompt": [tokens, [1, 2, 3]], "n": 2})));
    let choices = both["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    assert_eq!(choices[1]["text"], text["choices"][0]["text"]);
    assert_eq!(choices[3]["index"], 3);
    let expected = text["usage"]["prompt_tokens"].as_u64().unwrap() + 3;
    assert_eq!(both["usage"]["prompt_tokens"].as_u64(), Some(expected));
    let plain = completion(json!({"max_tokens": null}));
    assert_eq!(server.ok(TEXT, &plain)["usage"]["completion_tokens"], 16);
}

#[test]
fn a_stop_string_ends_the_text() {
    let server = start();
    let whole = server.ok(TEXT, &completion(json!({"max_tokens": 32})));
    let text = whole["choices"][0]["text"].as_str().unwrap().to_string();
    let characters: Vec<char> = text.chars().collect();
    let stop: String = characters[4..7].iter().collect();
    let body = completion(json!({"max_tokens": 32, "stop": [stop]}));
    let stopped = server.ok(TEXT, &body);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let cut = stopped["choices"][0]["text"].as_str().unwrap();
    assert_eq!(Some(cut), text.split(&stop).next());
}

#[test]
fn echo_scores_the_prompt() {
    let server = start();
    let body = completion(json!({"echo": true, "logprobs": 2, "max_tokens": 1}));
    let whole = server.ok(TEXT, &body);
    let logprobs = &whole["choices"][0]["logprobs"];
    let prompt = whole["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[field].as_array().unwrap().len(), prompt + 1, "{field}");
    }
    assert!(logprobs["token_logprobs"][0].is_null());
    assert!(logprobs["token_logprobs"][1].as_f64().unwrap() < 0.0);
    assert!(logprobs["top_logprobs"][1].as_object().unwrap().len() >= 2);
    assert!(whole["choices"][0]["text"].as_str().unwrap().starts_with("Hello there"));
    // What the answer's token gets alone is what it gets as part of a prompt (but for the name).
    let score = |body| server.ok(TEXT, &body)["choices"][0]["logprobs"]["token_logprobs"].clone();
    let none = score(completion(json!({"echo": true, "logprobs": 0, "max_tokens": 0})));
    assert_eq!(none.as_array().unwrap().len(), prompt);
    assert_eq!(none[1], logprobs["token_logprobs"][1]);
}

/// Choices of one prompt share its scores, and do not pay for them again.
#[test]
fn several_choices_are_scored_once() {
    let server = start();
    let prompt: Vec<usize> = (0..200).map(|i| 5 + i * 7 % 300).collect();
    let counts = || {
        server.wait_until_free();
        let metrics = server.get("/metrics").body;
        let line = "ferrum_computed_prompt_tokens_total{model=\"tiny\"} ";
        let value = metrics.lines().find_map(|l| l.strip_prefix(line)).unwrap();
        value.parse::<usize>().unwrap()
    };
    let body = |max_tokens: usize| {
        completion(json!({"prompt": prompt, "echo": true, "logprobs": 1, "n": 4, "seed": 3,
            "temperature": 2.0, "max_tokens": max_tokens}))
    };
    let whole = server.ok(TEXT, &body(2));
    // Once for the scores and once for the others, who wait for nobody that is slowed down by them.
    assert!(counts() < 3 * prompt.len(), "{} tokens", counts());
    let choices = whole["choices"].as_array().unwrap();
    let scores = |choice: &Value| choice["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    let first = scores(&choices[0]);
    assert_eq!(first.len(), prompt.len() + 2);
    for choice in choices {
        assert_eq!(scores(choice)[..prompt.len()], first[..prompt.len()]);
    }
    assert_ne!(choices[0]["text"], choices[1]["text"]);

    let mut streamed = body(2);
    streamed["stream"] = json!(true);
    let events = server.stream(TEXT, &streamed);
    for (index, choice) in choices.iter().enumerate() {
        let of = events.iter().map(|event| &event["choices"][0]);
        let of: Vec<&Value> = of.filter(|c| c["index"] == index).collect();
        let text: String = of.iter().map(|c| c["text"].as_str().unwrap()).collect();
        assert_eq!(choice["text"], text);
        let logprobs = of.iter().filter_map(|c| c["logprobs"]["token_logprobs"].as_array());
        assert_eq!(logprobs.flatten().cloned().collect::<Vec<_>>(), scores(choice));
    }

    let none = server.ok(TEXT, &body(0));
    let choices = none["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for choice in choices {
        assert_eq!(scores(choice), first[..prompt.len()]);
    }
    assert_eq!(none["usage"]["prompt_tokens"], prompt.len());
}

#[test]
fn logprobs_of_a_chat() {
    let server = start();
    let body = chat(json!({"logprobs": true, "top_logprobs": 3}));
    let whole = server.ok(CHAT, &body);
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len(), 8);
    for entry in &content {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the token is the likeliest.
        assert_eq!(top[0]["logprob"], entry["logprob"]);
        assert!(entry["bytes"].is_array() && entry["token"].is_string());
    }
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let events = server.stream(CHAT, &streamed);
    let entries: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(entries, content);
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_with_its_counts() {
    let server = start();
    let prompt = vec![5u32; CONTEXT];
    let error = server.refused(TEXT, &completion(json!({"prompt": prompt})), 400);
    assert_eq!(error["code"], "context_length_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("2048") && message.contains("8"), "{message}");
    let body = chat(json!({"max_completion_tokens": 2048, "max_tokens": null}));
    assert_eq!(server.refused(CHAT, &body, 400)["code"], "context_length_exceeded");
    server.wait_until_free();
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    let server = start();
    for (body, param) in [
        (chat(json!({"tempratur": 1})), "tempratur"),
        (chat(json!({"temperature": -1})), "temperature"),
        (chat(json!({"temperature": "warm"})), "temperature"),
        (chat(json!({"top_p": 0})), "top_p"),
        (chat(json!({"top_k": -2})), "top_k"),
        (chat(json!({"n": 0})), "n"),
        (chat(json!({"n": 1_000_000_000_000u64})), "n"),
        (chat(json!({"max_tokens": 0})), "max_tokens"),
        (chat(json!({"max_tokens": -5})), "max_tokens"),
        (chat(json!({"max_completion_tokens": 4})), "max_completion_tokens"),
        (chat(json!({"stop": [""]})), "stop"),
        (chat(json!({"stop": vec!["a"; 100]})), "stop"),
        (chat(json!({"logit_bias": {"x": 1}})), "logit_bias"),
        (chat(json!({"logit_bias": {"99999": 1}})), "logit_bias"),
        (chat(json!({"top_logprobs": 2})), "top_logprobs"),
        (chat(json!({"logprobs": true, "top_logprobs": 99})), "logprobs"),
        (chat(json!({"messages": []})), "messages"),
        (chat(json!({"messages": [{"role": "x", "content": ""}]})), "messages.0.role"),
        (chat(json!({"messages": [{"role": "user", "content": "a", "b": 1}]})), "messages.0.b"),
        (chat(json!({"store": true})), "store"),
        (chat(json!({"modalities": ["audio"]})), "modalities"),
        (chat(json!({"stream_options": {"include_usage": true}})), "stream_options"),
        (chat(json!({"stream": true, "stream_options": {"x": 1}})), "stream_options.x"),
    ] {
        let error = server.refused(CHAT, &body, 400);
        assert_eq!(error["param"], param, "{error}");
    }
    for (body, param) in [
        (completion(json!({"best_of": 3})), "best_of"),
        (completion(json!({"suffix": "x"})), "suffix"),
        (completion(json!({"prompt": [1000]})), "prompt"),
        (completion(json!({"prompt": []})), "prompt"),
        (completion(json!({"prompt": 3})), "prompt"),
        (completion(json!({"messages": []})), "messages"),
    ] {
        let error = server.refused(TEXT, &body, 400);
        assert_eq!(error["param"], param, "{error}");
    }
    let harmless = json!({"user": "u", "metadata": {"a": 1}, "store": false, "service_tier": "auto",
        "frequency_penalty": 0, "seed": null, "audio": null, "modalities": ["text"]});
    server.ok(CHAT, &chat(harmless));
    server.wait_until_free();
}
