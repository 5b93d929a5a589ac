//! Answers of each family, whole, broken and cut anywhere.

use super::{Conventions, Delta, Output, OutputParser, ParserOptions, ToolFormat, opens_reasoning};

fn options(tools: Option<ToolFormat>) -> ParserOptions {
    let names = ["get_weather", "add", "now"].map(str::to_owned).to_vec();
    ParserOptions { tools, names, reasoning: true, opened: false, whole_calls: false }
}

/// What the pieces of an answer add up to; checks that deltas are in order and not empty.
fn read<'a>(options: &ParserOptions, pieces: impl IntoIterator<Item = &'a str>) -> Output {
    let mut parser = OutputParser::new(options.clone());
    let mut deltas: Vec<Delta> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    let mut output = Output::default();
    for delta in deltas {
        match &delta {
            Delta::Content(text) | Delta::Reasoning(text) => assert!(!text.is_empty()),
            Delta::Call { index, name } => {
                assert_eq!(*index, output.calls.len());
                assert!(!name.is_empty());
            }
            Delta::Arguments { index, json } => {
                assert_eq!(*index + 1, output.calls.len(), "arguments of the last call");
                assert!(!json.is_empty());
            }
        }
        output.add(delta);
    }
    assert_eq!(parser.calls(), output.calls.len());
    output
}

fn output(content: &str, reasoning: &str, calls: &[(&str, &str)]) -> Output {
    let calls = calls.iter().map(|(name, json)| ((*name).into(), (*json).into())).collect();
    Output { content: content.into(), reasoning: reasoning.into(), calls }
}

/// Answers and what they are, streaming.
fn cases() -> Vec<(Option<ToolFormat>, &'static str, Output)> {
    use ToolFormat::{DeepSeek, DeepSeek31, Hermes, Llama3, Mistral, MistralArgs};
    let weather = r#"{"city": "Zürich \"a}<\\", "n": [1, {"x": -2.5e3}]}"#;
    let mut cases = vec![
        (None, "<tool_call>{}</tool_call>", output("<tool_call>{}</tool_call>", "", &[])),
        (None, "<think>\nabc </think>\n\nHello\n", output("Hello\n", "abc ", &[])),
        (None, "<think>cut", output("", "cut", &[])),
        (None, " <thin", output(" <thin", "", &[])),
        (None, "a <think>b</think>", output("a <think>b</think>", "", &[])),
        (
            Some(Hermes),
            "Just text. <tool> {\"name\": 1}",
            output("Just text. <tool> {\"name\": 1}", "", &[]),
        ),
        (
            Some(Hermes),
            "<think>\n\n</think>\n\nOne moment.\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"a\": 1}, \"name\": \"add\"}\n</tool_call>\nDone.",
            output("One moment.\nDone.", "", &[("now", "{}"), ("add", "{\"a\": 1}")]),
        ),
        // The end mark is missing; the arguments are a string; there are none.
        (Some(Hermes), "<tool_call>{\"name\": \"now\"}", output("", "", &[("now", "{}")])),
        (
            Some(Hermes),
            "<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\":1}\"}</tool_call>",
            output("", "", &[("add", "{\"a\":1}")]),
        ),
        // Malformed, unknown, cut: content.
        (
            Some(Hermes),
            "<tool_call>{name: 1}</tool_call> x",
            output("<tool_call>{name: 1}</tool_call> x", "", &[]),
        ),
        (
            Some(Hermes),
            "<tool_call>\n{\"name\": \"rm\", \"arguments\": {}}",
            output("<tool_call>\n{\"name\": \"rm\", \"arguments\": {}}", "", &[]),
        ),
        (
            Some(Hermes),
            "<tool_call>\n{\"name\": \"ad",
            output("<tool_call>\n{\"name\": \"ad", "", &[]),
        ),
        (
            Some(Hermes),
            "<tool_call>{\"arguments\": [1], \"name\": \"add\"}",
            output("<tool_call>{\"arguments\": [1], \"name\": \"add\"}", "", &[]),
        ),
        (
            Some(Hermes),
            "<tool_call>oops <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>",
            output("<tool_call>oops ", "", &[("now", "{}")]),
        ),
        // It breaks when its arguments were told: what follows is content.
        (
            Some(Hermes),
            "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": x}}</tool_call>",
            output("x}}</tool_call>", "", &[("add", "{\"a\": ")]),
        ),
        (
            Some(Llama3),
            " {\"name\": \"now\", \"parameters\": {}} ",
            output("", "", &[("now", "{}")]),
        ),
        (
            Some(Llama3),
            "{\"type\": \"function\", \"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}; {\"name\": \"now\", \"parameters\": {}}",
            output("", "", &[("add", "{\"a\": 1, \"b\": 2}"), ("now", "{}")]),
        ),
        (
            Some(Llama3),
            "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}",
            output("", "", &[("now", "{}")]),
        ),
        (Some(Llama3), "<|python_tag|>print(1)", output("<|python_tag|>print(1)", "", &[])),
        (
            Some(Llama3),
            " {\"name\": \"Bob\", \"age\": 3}",
            output(" {\"name\": \"Bob\", \"age\": 3}", "", &[]),
        ),
        (Some(Llama3), "See {\"name\": \"now\"}", output("See {\"name\": \"now\"}", "", &[])),
        (
            Some(Mistral),
            "Hm.[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}, \"id\": \"x\"}, {\"name\": \"add\", \"arguments\": {\"a\": 1}}] ",
            output("Hm.", "", &[("now", "{}"), ("add", "{\"a\": 1}")]),
        ),
        (
            Some(MistralArgs),
            "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]now[CALL_ID]abc123[ARGS]{}",
            output("", "", &[("add", "{\"a\": 1}"), ("now", "{}")]),
        ),
        (Some(MistralArgs), "[TOOL_CALLS]rm[ARGS]{}", output("[TOOL_CALLS]rm[ARGS]{}", "", &[])),
        (
            Some(DeepSeek),
            "<think>why</think>Yes.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            output("Yes.", "why", &[("add", "{\"a\": 1}"), ("now", "{}")]),
        ),
        (
            Some(DeepSeek31),
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            output("", "", &[("add", "{\"a\": 1}"), ("now", "{}")]),
        ),
        (Some(DeepSeek), "<｜tool▁calls▁begin｜>no", output("<｜tool▁calls▁begin｜>no", "", &[])),
    ];
    let call =
        format!("<tool_call>{{\"name\": \"get_weather\", \"arguments\": {weather}}}</tool_call>");
    cases.push((Some(Hermes), call.leak(), output("", "", &[("get_weather", weather)])));
    cases
}

#[test]
fn answers_of_each_family() {
    for (tools, text, expected) in cases() {
        assert_eq!(read(&options(tools), [text]), expected, "{tools:?}: {text}");
    }
}

/// However an answer is cut, it adds up to the same.
#[test]
fn cuts_make_no_difference() {
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let all: Vec<_> = cases();
    let texts: Vec<&str> = all.iter().map(|(_, text, _)| *text).collect();
    // Pieces of all families, put together at random: mostly malformed.
    let mut mixed = Vec::new();
    for _ in 0..600 {
        let mut text = String::new();
        for _ in 0..=random(4) {
            let chars: Vec<char> = texts[random(texts.len())].chars().collect();
            let from = if random(2) == 0 { 0 } else { random(chars.len()) };
            let len = 1 + random(chars.len() - from);
            text.extend(&chars[from..from + len]);
        }
        mixed.push(text);
    }
    let formats: Vec<_> = all.iter().map(|(tools, ..)| *tools).collect();
    for text in mixed.iter().map(String::as_str).chain(texts) {
        let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
        for (whole_calls, opened) in [(false, false), (true, false), (false, true)] {
            let options =
                ParserOptions { whole_calls, opened, ..options(formats[random(formats.len())]) };
            let whole = read(&options, [text]);
            for round in 0..4 {
                let mut pieces = Vec::new();
                let mut at = 0;
                for &bound in bounds.iter().filter(|_| round == 0 || random(1 + 3 * round) == 0) {
                    pieces.push(&text[at..bound]);
                    at = bound;
                }
                pieces.push(&text[at..]);
                assert_eq!(read(&options, pieces.iter().copied()), whole, "{pieces:?} {options:?}");
            }
            if whole.calls.is_empty() && whole.reasoning.is_empty() && !opened {
                let solid = |text: &str| text.split_whitespace().collect::<String>();
                let tags = |text: &str| text.replace("<think>", "").replace("</think>", "");
                let (got, all) = (solid(&whole.content), solid(text));
                // Empty reasoning leaves only its marks out.
                assert_eq!(tags(&got), tags(&all), "{options:?}: something is lost");
            }
        }
    }
}

/// With whole calls, one that breaks off is text altogether.
#[test]
fn whole_calls() {
    let options = ParserOptions { whole_calls: true, ..options(Some(ToolFormat::Hermes)) };
    for text in [
        "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": x}}</tool_call>",
        "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1",
    ] {
        assert_eq!(read(&options, [text]), output(text, "", &[]));
    }
    for (tools, text, expected) in cases() {
        if expected.calls.iter().all(|(_, json)| json.ends_with('}')) {
            let options = ParserOptions { tools, ..options.clone() };
            assert_eq!(read(&options, [text]), expected, "{text}");
        }
    }
}

/// Arguments come as they are written, not at the end.
#[test]
fn arguments_stream() {
    let mut parser = OutputParser::new(options(Some(ToolFormat::Hermes)));
    assert_eq!(parser.push("Hi <tool"), [Delta::Content("Hi ".into())]);
    assert_eq!(parser.push("_call>\n{\"name\": \"add\""), []);
    let call = Delta::Call { index: 0, name: "add".into() };
    let arguments = |json: &str| Delta::Arguments { index: 0, json: json.into() };
    assert_eq!(parser.push(", \"arguments\": {\"a"), [call, arguments("{\"a")]);
    assert_eq!(parser.push("\": 1"), [arguments("\": 1")]);
    assert_eq!(parser.push("}"), [arguments("}")]);
    assert_eq!(parser.push("}\n</tool_"), []);
    assert_eq!(parser.push("call>"), []);
    assert_eq!(parser.finish(), []);
}

#[test]
fn templates_tell_the_conventions() {
    let of = Conventions::of_template;
    let tools = |source: &str| of(source).tools;
    assert_eq!(of("{{ messages }}"), Conventions::default());
    assert_eq!(tools("…<tool_call>\\n{\"name\": …"), Some(ToolFormat::Hermes));
    assert_eq!(tools("Environment: ipython"), Some(ToolFormat::Llama3));
    assert_eq!(tools("[TOOL_CALLS] ["), Some(ToolFormat::Mistral));
    assert_eq!(tools("[TOOL_CALLS]' + name + '[ARGS]"), Some(ToolFormat::MistralArgs));
    assert_eq!(tools("<｜tool▁calls▁begin｜>…```json"), Some(ToolFormat::DeepSeek));
    assert_eq!(tools("<｜tool▁calls▁begin｜>…"), Some(ToolFormat::DeepSeek31));
    assert!(of("content.split('</think>')").reasoning);
    assert!(opens_reasoning("<|assistant|><think>\n"));
    assert!(!opens_reasoning("<think>\n\n</think>\n\n"));
}
