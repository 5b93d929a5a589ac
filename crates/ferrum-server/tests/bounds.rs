//! Bounds that requests ask for: how much a model thinks, and what may be left out of a prompt. And
//! a draft model, which bounds nothing but the time.

mod support;

use std::sync::Arc;

use ferrum_models::chat::ChatTemplate;
use ferrum_server::{App, Metrics, Model, Models, ModelsConfig, Offer, Start};
use serde_json::{Value, json};
use support::{
    CONTEXT, MODEL, Running, Setup, chat, completion, drafting_load, offer, start, start_app,
    with_draft,
};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn serve(dir: tempfile::TempDir, offer: Offer, setup: Setup) -> Running {
    let metrics = Metrics::new().unwrap();
    let models = Models::new(vec![offer], ModelsConfig::default(), &metrics).unwrap();
    models.load(0).unwrap();
    start_app(dir, App::new(models, metrics, setup.config))
}

/// A server of a model whose template begins each answer with reasoning.
fn thinking() -> Running {
    let (dir, setup) = (tempfile::tempdir().unwrap(), Setup::default());
    let mut offer = offer(dir.path(), MODEL, &setup);
    let Start::Model(start) = offer.start else { panic!("it generates") };
    offer.start = Start::Model(Box::new(move |metrics| {
        let mut model: Model = start(metrics)?;
        let source = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}<think>\n";
        model.template = ChatTemplate::new(source, "", "", []).ok();
        model.conventions.reasoning = true;
        Ok(model)
    }));
    serve(dir, offer, setup)
}

#[test]
fn thinking_ends_with_its_budget() {
    let server = thinking();
    let ask = |max_tokens: usize, thinking: Value| {
        let body = json!({"model": MODEL, "max_tokens": max_tokens, "temperature": 0,
            "thinking": thinking, "messages": [{"role": "user", "content": "Hello"}]});
        server.ok("/v1/messages", &body)
    };
    let thought = |answer: &Value| {
        let text = answer["content"][0]["thinking"].as_str().unwrap();
        text.trim_end().to_string()
    };
    let free = ask(60, json!({"type": "enabled"}));
    let blocks = free["content"].as_array().unwrap();
    assert_eq!((blocks.len(), &blocks[0]["type"]), (1, &json!("thinking")), "it goes on thinking");
    for budget in [1usize, 8, 30] {
        let answer = ask(60, json!({"type": "enabled", "budget_tokens": budget}));
        let blocks = answer["content"].as_array().unwrap();
        let kinds: Vec<&Value> = blocks.iter().map(|block| &block["type"]).collect();
        assert_eq!(kinds, [&json!("thinking"), &json!("text")], "{budget}: {answer}");
        // It is what so many tokens give, or up to three more where a character would be cut.
        let cut = |more| thought(&ask(budget + more, json!({"type": "enabled"})));
        assert!((0..=3).map(cut).any(|cut| cut == thought(&answer)), "{budget}: {answer}");
    }
    let whole = server.ok("/v1/chat/completions", &chat(json!({"max_tokens": 20})));
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 20, "{usage}");
    let stream = json!({"model": MODEL, "max_tokens": 60, "temperature": 0, "stream": true,
        "thinking": {"type": "enabled", "budget_tokens": 8},
        "messages": [{"role": "user", "content": "Hello"}]});
    let events = server.post("/v1/messages", &stream).body;
    assert!(events.contains("thinking_delta") && events.contains("text_delta"), "{events}");
    for budget in [json!(0), json!(60), json!(1000)] {
        let mut body = stream.clone();
        body["thinking"]["budget_tokens"] = budget;
        let response = server.post("/v1/messages", &body);
        assert_eq!(response.status, 400);
        assert!(response.body.contains("thinking.budget_tokens"), "{response:?}");
    }
    server.wait_until_free();
}

/// A conversation of so many turns of a hundred words and more.
fn turns(count: usize) -> Vec<Value> {
    let mut out = vec![json!({"role": "system", "content": "You are brief."})];
    for turn in 0..count {
        out.push(json!({"role": "user", "content": format!("{turn} {}", "word ".repeat(60))}));
        out.push(
            json!({"role": "assistant", "content": format!("{turn} {}", "again ".repeat(60))}),
        );
    }
    out.push(json!({"role": "user", "content": "The last question"}));
    out
}

#[test]
fn old_turns_are_left_out_where_it_is_asked_for() {
    let server = start();
    let ask = |count: usize, more: Value| {
        let mut body = json!({"model": MODEL, "input": turns(count), "max_output_tokens": 8,
            "temperature": 0});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let auto = json!({"truncation": "auto"});
    for more in [json!({}), json!({"truncation": "disabled"})] {
        let error = server.refused("/v1/responses", &ask(20, more), 400);
        assert_eq!(error["code"], "context_length_exceeded");
        assert!(error["message"].as_str().unwrap().contains("8"), "{error}");
    }
    let input = |answer: &Value| answer["usage"]["input_tokens"].as_u64().unwrap() as usize;
    let short = server.ok("/v1/responses", &ask(1, auto.clone()));
    let plain = server.ok("/v1/responses", &ask(1, json!({})));
    assert_eq!(input(&short), input(&plain), "what fits is whole");
    assert_eq!((&short["truncation"], &plain["truncation"]), (&json!("auto"), &json!("disabled")));
    let two = input(&server.ok("/v1/responses", &ask(2, json!({}))));
    let turn = two - input(&plain);
    let long = server.ok("/v1/responses", &ask(20, auto.clone()));
    assert_eq!(long["truncation"], "auto");
    let used = input(&long);
    assert!(used + 8 <= CONTEXT && used + turn + turn / 4 + 8 > CONTEXT, "{used} of {CONTEXT}");
    // The answer itself takes room.
    let mut more = auto.clone();
    more["max_output_tokens"] = json!(1500);
    assert!(input(&server.ok("/v1/responses", &ask(20, more))) + 1500 <= CONTEXT);
    // One turn that is too long by itself.
    let alone = json!({"model": MODEL, "input": "word ".repeat(3000), "truncation": "auto"});
    assert_eq!(server.refused("/v1/responses", &alone, 400)["code"], "context_length_exceeded");
}

#[test]
fn prompts_are_cut_to_their_last_tokens_where_it_is_asked_for() {
    let server = start();
    let tokens: Vec<usize> = (0..3000).map(|i| 5 + i * 7 % 300).collect();
    let ask = |keep: Value| {
        completion(json!({"prompt": tokens, "truncate_prompt_tokens": keep, "max_tokens": 8}))
    };
    let text = |body: &Value| server.ok(TEXT, body)["choices"][0]["text"].clone();
    server.refused(TEXT, &ask(Value::Null), 400);
    let kept = server.ok(TEXT, &ask(json!(100)));
    assert_eq!(kept["usage"]["prompt_tokens"], 100);
    let last = completion(json!({"prompt": tokens[2900..], "max_tokens": 8}));
    assert_eq!(kept["choices"][0]["text"], text(&last));
    let fitting = server.ok(TEXT, &ask(json!(-1)));
    assert_eq!(fitting["usage"]["prompt_tokens"], CONTEXT - 8);
    for wrong in [0, -2] {
        let error = server.refused(TEXT, &ask(json!(wrong)), 400);
        assert_eq!(error["param"], "truncate_prompt_tokens");
    }
    let body = chat(json!({"truncate_prompt_tokens": 5}));
    assert_eq!(server.ok(CHAT, &body)["usage"]["prompt_tokens"], 5);
}

#[test]
fn a_draft_model_changes_no_answer() {
    let plain = start();
    let (dir, setup) = (tempfile::tempdir().unwrap(), Setup::default());
    let _other = offer(dir.path(), "other", &setup);
    let files = [MODEL, MODEL, "other"].map(|name| dir.path().join(format!("{name}.gguf")));
    for draft in 1..3 {
        let own = offer(dir.path(), MODEL, &setup);
        let draft = Some(files[draft].clone());
        let offer = with_draft(own, files[0].clone(), draft, drafting_load());
        let server = serve(tempfile::tempdir().unwrap(), offer, Setup::default());
        let server = Arc::new(server);
        for more in [
            json!({"max_tokens": 60}),
            json!({"max_tokens": 60, "temperature": 1.0, "seed": 5}),
            json!({"max_tokens": 60, "temperature": 1.0, "seed": 6, "n": 3}),
        ] {
            let body = completion(more);
            assert_eq!(server.ok(TEXT, &body)["choices"], plain.ok(TEXT, &body)["choices"]);
        }
        server.wait_until_free();
    }
}
