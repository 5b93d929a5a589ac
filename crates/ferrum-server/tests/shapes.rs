//! Answers of a given form (JSON, calls of tools), and the APIs that are made of blocks. A model
//! of random weights writes nonsense, so what is well formed here is so because it must be.

mod support;

use serde_json::{Value, json};
use support::{MODEL, Running, chat, start};

const CHAT: &str = "/v1/chat/completions";

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": false,
    })
}

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather", "parameters": weather()}},
        {"type": "function", "function": {"name": "stop", "description": "Ends it"}},
    ])
}

fn check_weather(arguments: &str) {
    let value: Value = serde_json::from_str(arguments).unwrap_or_else(|_| panic!("{arguments}"));
    assert!(value["city"].as_str().unwrap().chars().count() <= 8);
    assert!(value["unit"] == "C" || value["unit"] == "F");
}

fn named() -> Value {
    json!({"type": "function", "function": {"name": "weather"}})
}

/// A request whose answer has an end of its own.
fn ask(extra: Value) -> Value {
    let mut body = chat(json!({"max_tokens": 300, "temperature": 1.0, "seed": 3}));
    body.as_object_mut().unwrap().remove("ignore_eos");
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn json_is_json() {
    let server = start();
    let schema = json!({"type": "json_schema", "json_schema": {"name": "w", "schema": weather()}});
    for seed in 0..5 {
        let body = ask(json!({"response_format": schema, "seed": seed}));
        let whole = server.ok(CHAT, &body);
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "{whole}");
        check_weather(choice["message"]["content"].as_str().unwrap());
    }
    server.ok(CHAT, &ask(json!({"response_format": {"type": "text"}})));
    server.wait_until_free();
}

#[test]
fn forms_in_the_words_of_other_servers() {
    let server = start();
    let odd = "a\"b\\c\n\t\u{1}/é|日";
    for (extra, fits) in [
        (json!({"grammar": "root ::= [0-9]{3} \"-\" [a-c]+"}), r"^[0-9]{3}-[a-c]+$"),
        (json!({"json_schema": {"type": "integer", "minimum": 100, "maximum": 999}}), r"^\d{3}$"),
        (json!({"structured_outputs": {"json": {"type": "boolean"}}}), "^(true|false)$"),
        (json!({"structured_outputs": {"regex": "[xyz]{4}"}}), "^[xyz]{4}$"),
        (json!({"structured_outputs": {"choice": ["yes", "no"]}}), "^(yes|no)$"),
        (json!({"structured_outputs": {"grammar": "root ::= \"g\""}}), "^g$"),
        (json!({"structured_outputs": {"grammar": "start: \"l\" \"k\""}}), "^lk$"),
        (json!({"structured_outputs": {"choice": [odd]}}), ""),
        (json!({"grammar": "", "json_schema": {"const": null}}), "^null$"),
    ] {
        let body = ask(extra.clone());
        let answer = server.ok(CHAT, &body)["choices"][0].clone();
        let text = answer["message"]["content"].as_str().expect("a text").to_string();
        assert_eq!(answer["finish_reason"], "stop", "{extra}: {text}");
        match fits {
            "" => assert_eq!(text, odd),
            pattern => {
                let schema = json!({"pattern": pattern});
                assert!(jsonschema::is_valid(&schema, &json!(text)), "{extra}: {text}");
            }
        }
        let mut body = body;
        body["prompt"] = json!("Hello");
        body.as_object_mut().expect("an object").remove("messages");
        let answer = server.ok("/v1/completions", &body)["choices"][0].clone();
        assert_eq!(answer["finish_reason"], "stop", "{extra}");
    }
    let answer = server.ok(CHAT, &ask(json!({"structured_outputs": {"json_object": true}})));
    assert!(answer["choices"][0]["message"]["content"].as_str().expect("a text").starts_with('{'));
}

#[test]
fn a_required_call_is_made_streamed_and_not() {
    let server = start();
    for choice in [json!("required"), named()] {
        let extra = json!({"tools": tools(), "tool_choice": choice, "parallel_tool_calls": false});
        let body = ask(extra);
        let whole = server.ok(CHAT, &body);
        let message = &whole["choices"][0]["message"];
        assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls", "{whole}");
        assert!(message["content"].is_null(), "{whole}");
        let calls = message["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
        let function = calls[0]["function"].clone();
        let arguments = function["arguments"].as_str().unwrap();
        match function["name"].as_str().unwrap() {
            "weather" => check_weather(arguments),
            name => {
                let value: Value = serde_json::from_str(arguments).unwrap();
                assert_eq!((name, value), ("stop", json!({})));
            }
        }

        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        let (mut name, mut text, mut reason) = (String::new(), String::new(), Value::Null);
        for event in server.stream(CHAT, &streamed) {
            let choice = &event["choices"][0];
            assert!(choice["delta"]["content"].as_str().unwrap_or_default().is_empty());
            let call = &choice["delta"]["tool_calls"][0];
            name.push_str(call["function"]["name"].as_str().unwrap_or_default());
            text.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
            if !choice["finish_reason"].is_null() {
                reason = choice["finish_reason"].clone();
            }
        }
        assert_eq!((json!(name), json!(text)), (function["name"].clone(), arguments.into()));
        assert_eq!(reason, "tool_calls");
    }
}

/// Free to call, the answer has the form or is a call that a strict function takes.
#[test]
fn forms_beside_strict_tools() {
    let server = start();
    let mut strict = tools();
    for tool in strict.as_array_mut().unwrap() {
        tool["function"]["strict"] = json!(true);
    }
    let schema = json!({"type": "json_schema", "json_schema": {"name": "w", "schema": weather()}});
    let forms =
        [json!({"response_format": schema}), json!({"grammar": "root ::= \"(\" [a-c]{3} \")\""})];
    let (mut texts, mut calls) = (0, 0);
    for seed in 0..8 {
        let mut body = ask(forms[seed % 2].clone());
        body["tools"] = strict.clone();
        body["seed"] = json!(seed);
        let whole = server.ok(CHAT, &body);
        assert_ne!(whole["choices"][0]["finish_reason"], "length", "{whole}");
        let message = &whole["choices"][0]["message"];
        texts += usize::from(message["content"].is_string());
        match message["content"].as_str() {
            Some(text) if seed % 2 == 0 => check_weather(text),
            Some(text) => assert!(text.len() == 5 && text.starts_with('('), "{whole}"),
            None => {}
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            calls += 1;
            let function = &call["function"];
            let arguments = function["arguments"].as_str().unwrap();
            match function["name"].as_str().unwrap() {
                "weather" => check_weather(arguments),
                name => {
                    let value: Value = serde_json::from_str(arguments).unwrap();
                    assert_eq!((name, value), ("stop", json!({})));
                }
            }
        }
    }
    assert!(texts > 0 && calls > 0, "{texts} texts, {calls} calls");
    server.ok(CHAT, &ask(json!({"tools": strict, "max_tokens": 50})));
}

#[test]
fn a_choice_may_be_any_text() {
    let choices = ["(".repeat(200), "x-guidance".into()];
    let whole = start().ok(CHAT, &ask(json!({"structured_outputs": {"choice": choices}})));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(choices.iter().any(|choice| choice == text), "{whole}");
}

#[test]
fn tools_reach_the_prompt_and_none_does_not() {
    let server = start();
    let prompt = |extra: Value| {
        let body = ask(extra);
        server.ok(CHAT, &body)["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let plain = prompt(json!({"max_tokens": 1}));
    let small = json!([{"type": "function", "function": {"name": "stop"}}]);
    assert!(prompt(json!({"max_tokens": 1, "tools": small})) > plain + 10);
    let none = json!({"max_tokens": 1, "tools": small, "tool_choice": "none"});
    assert_eq!(prompt(none), plain);
    // A conversation with a call and its result.
    let messages = json!([
        {"role": "user", "content": "Stop"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
            "function": {"name": "stop", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "stopped"},
    ]);
    prompt(json!({"max_tokens": 1, "tools": small, "messages": messages}));
}

#[test]
fn forms_that_cannot_be_had_are_refused_by_name() {
    let server = start();
    let schema = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
    for (extra, param) in [
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (schema(json!({"type": "nonsense"})), "response_format"),
        (schema(json!({"$ref": "http://example.com/schema"})), "response_format"),
        (json!({"tools": [{"type": "web_search"}]}), "tools.0.type"),
        (json!({"tools": [{"type": "function"}]}), "tools.0.function"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}),
            "tools.0.function.name",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": "sometimes"}), "tool_choice"),
        (
            json!({"tools": tools(), "tool_choice":
                {"type": "function", "function": {"name": "other"}}}),
            "tool_choice",
        ),
        (json!({"functions": []}), "functions"),
        (json!({"grammar": "root ::= a"}), "grammar"),
        (json!({"grammar": "root ::= \"a\"", "json_schema": {}}), "json_schema"),
        (json!({"json_schema": {"type": "nonsense"}}), "json_schema"),
        (json!({"structured_outputs": {}}), "structured_outputs"),
        (json!({"structured_outputs": {"regex": "("}}), "structured_outputs"),
        (json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}), "structured_outputs"),
        (json!({"structured_outputs": {"choice": []}}), "structured_outputs"),
        (
            json!({"structured_outputs": {"whitespace_pattern": " "}}),
            "structured_outputs.whitespace_pattern",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true,
                "parameters": {"type": "object", "properties": {"x": {"type": "nonsense"}}}}}]}),
            "tools",
        ),
    ] {
        let error = server.refused(CHAT, &ask(extra), 400);
        assert_eq!(error["param"], param, "{error}");
    }
}

/// The named events of a stream.
fn events(server: &Running, path: &str, body: &Value) -> Vec<(String, Value)> {
    let response = server.post(path, body);
    assert_eq!(response.status, 200, "{response:?}");
    let mut out = Vec::new();
    for event in response.body.split("\n\n").filter(|event| !event.is_empty()) {
        let (name, data) = event.split_once('\n').expect("a name and data");
        let name = name.strip_prefix("event: ").expect("a name").to_string();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], *name);
        out.push((name, data));
    }
    out
}

fn anthropic(extra: Value) -> Value {
    let mut body = json!({"model": MODEL, "max_tokens": 8, "temperature": 0, "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn anthropic_messages() {
    let server = start();
    let path = "/v1/messages";
    let whole = server.ok(path, &anthropic(json!({})));
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    let text = whole["content"][0]["text"].as_str().unwrap();
    let count = server.ok("/v1/messages/count_tokens", &anthropic(json!({})));
    let usage = &whole["usage"];
    let read = usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(
        count["input_tokens"].as_u64(),
        Some(usage["input_tokens"].as_u64().unwrap() + read)
    );

    let events = events(&server, path, &anthropic(json!({"stream": true})));
    assert_eq!(events[0].0, "message_start");
    assert_eq!(events.last().unwrap().0, "message_stop");
    let texts = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str());
    assert_eq!(texts.collect::<String>(), text);
    let delta = &events[events.len() - 2].1;
    assert_eq!(delta["delta"]["stop_reason"], whole["stop_reason"]);

    let tool = json!([{"name": "weather", "input_schema": weather()}]);
    let call = json!({"tools": tool, "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "max_tokens": 300, "temperature": 1});
    let whole = server.ok(path, &anthropic(call));
    assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
    let block = &whole["content"][0];
    assert_eq!((&block["type"], &block["name"]), (&json!("tool_use"), &json!("weather")));
    check_weather(&block["input"].to_string());
    let result = json!([{"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [block]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "rain"}]}]);
    server.ok(path, &anthropic(json!({"messages": result, "tools": tool})));

    for extra in [
        json!({"max_tokens": null}),
        json!({"messages": []}),
        json!({"mcp_servers": []}),
        json!({"thinking": {"type": "enabled"}}),
        json!({"thinking": {"type": "disabled", "budget_tokens": 1024}}),
        json!({"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
    ] {
        let response = server.post(path, &anthropic(extra));
        assert_eq!(response.status, 400, "{response:?}");
        assert_eq!(response.json()["type"], "error");
        assert_eq!(response.json()["error"]["type"], "invalid_request_error");
    }
}

#[test]
fn responses() {
    let server = start();
    let path = "/v1/responses";
    let ask = |extra: Value| {
        let mut body = json!({"model": MODEL, "input": "Hello", "max_output_tokens": 16,
            "temperature": 0});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let whole = server.ok(path, &ask(json!({})));
    assert_eq!(whole["object"], "response");
    let text = whole["output"][0]["content"][0]["text"].clone();
    let events = events(&server, path, &ask(json!({"stream": true})));
    assert_eq!(events[0].0, "response.created");
    let (last, data) = events.last().unwrap();
    assert!(last == "response.completed" || last == "response.incomplete");
    let done = events.iter().rfind(|(name, _)| name == "response.output_item.done").unwrap();
    assert_eq!(done.1["item"]["status"], data["response"]["status"]);
    assert_eq!(
        done.1["item"],
        data["response"]["output"].as_array().unwrap().last().unwrap().clone()
    );
    assert_eq!(data["response"]["output"][0]["content"][0]["text"], text);
    assert_eq!(data["response"]["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    let deltas = events.iter().filter(|(name, _)| name == "response.output_text.delta");
    let streamed: String = deltas.map(|(_, data)| data["delta"].as_str().unwrap()).collect();
    assert_eq!(json!(streamed), text);
    let numbers: Vec<u64> =
        events.iter().map(|(_, data)| data["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());

    let tool =
        json!([{"type": "function", "name": "weather", "parameters": weather(), "strict": true}]);
    let call = json!({"tools": tool, "tool_choice": "required", "parallel_tool_calls": false,
        "max_output_tokens": 300, "temperature": 1});
    let whole = server.ok(path, &ask(call));
    let item = &whole["output"][0];
    assert_eq!(item["type"], "function_call", "{whole}");
    check_weather(item["arguments"].as_str().unwrap());
    let input = json!([{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        item, {"type": "function_call_output", "call_id": item["call_id"], "output": "rain"}]);
    server.ok(path, &ask(json!({"input": input, "tools": tool})));
    let format = json!({"format": {"type": "json_schema", "name": "w", "schema": weather()}});
    let json = server.ok(path, &ask(json!({"text": format, "max_output_tokens": 300})));
    check_weather(json["output"][0]["content"][0]["text"].as_str().unwrap());

    for (extra, param) in [
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"store": true}), "store"),
        (json!({"truncation": "middle"}), "truncation"),
        (json!({"background": true}), "background"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input.0.type"),
    ] {
        let error = server.refused(path, &ask(extra), 400);
        assert_eq!(error["param"], param, "{error}");
    }
    server.wait_until_free();
}
