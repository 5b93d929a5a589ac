//! Answers that must call tools: whatever a model wants, they are calls of the tools that there
//! are, and the parser of the family reads them.

use ferrum_engine::{
    ConstraintCompiler,
    constraint::{CompileLimits, Constraint, Spelling, TokenTable},
};
use ferrum_server::output::{
    Output, OutputParser, ParserOptions, ToolFormat,
    grammar::{CallOptions, Tool, calls},
};
use serde_json::{Value, json};

const FORMATS: [ToolFormat; 6] = [
    ToolFormat::Hermes,
    ToolFormat::Llama3,
    ToolFormat::Mistral,
    ToolFormat::MistralArgs,
    ToolFormat::DeepSeek,
    ToolFormat::DeepSeek31,
];

const END: u32 = 256;

/// All bytes, an end, and the marks of a family as control tokens.
fn table(marks: &[&str]) -> TokenTable {
    let bytes = (0..=255).map(|byte| Spelling::Text(vec![byte]));
    let end = Spelling::Control("<|end|>".into());
    let marks = marks.iter().map(|mark| Spelling::Control((*mark).into()));
    TokenTable { tokens: bytes.chain([end]).chain(marks).collect(), end_of_generation: vec![END] }
}

fn tools() -> Vec<Tool> {
    let tree = json!({"type": "object", "properties": {"left": {"$ref": "#/$defs/n"}},
        "required": ["left"], "additionalProperties": false, "$defs": {"n": {"type": "integer"}}});
    let words = json!({"properties": {"s": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["a\"b", "c"]}}, "required": ["kind"], "additionalProperties": false});
    let tool = |name: &str, parameters| Tool { name: name.into(), parameters };
    vec![tool("tree", Some(tree)), tool("words-2", Some(words)), tool("now", None)]
}

/// The text of an answer of a random model that begins with `start`, marks included.
fn answer(constraint: &Constraint, table: &TokenTable, start: &str, seed: u64) -> String {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut state = constraint.start(true);
    let mut bytes = start.as_bytes().to_vec();
    for &byte in start.as_bytes() {
        assert!(state.mask().expect("a mask").allows(byte.into()), "{start}");
        state.commit(byte.into()).expect("an allowed token");
    }
    for step in 0..3000 {
        let mask = state.mask().expect("a mask");
        let all: Vec<u32> = (0..table.tokens.len() as u32).filter(|&t| mask.allows(t)).collect();
        let ends =
            |token: &&u32| **token == END || b"\"}<".iter().any(|b| u32::from(*b) == **token);
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        let at = (random >> 33) as usize;
        // What ends something is likely after a while.
        let ending = all.iter().find(ends).filter(|_| step > 40 && !at.is_multiple_of(4));
        let token = *ending.unwrap_or(&all[at % all.len()]);
        if token == END {
            break;
        }
        match &table.tokens[token as usize] {
            Spelling::Text(text) => bytes.extend(text),
            Spelling::Control(name) => bytes.extend(name.as_bytes()),
            Spelling::None => panic!("a token that is nothing"),
        }
        state.commit(token).expect("an allowed token");
        if state.is_complete() {
            break;
        }
    }
    assert!(state.is_complete() || state.accepts().unwrap(), "no end");
    String::from_utf8(bytes).expect("UTF-8")
}

fn parse(format: ToolFormat, text: &str, opened: bool) -> Output {
    let names = tools().into_iter().map(|tool| tool.name).collect();
    let options =
        ParserOptions { tools: Some(format), names, reasoning: true, opened, whole_calls: false };
    let mut parser = OutputParser::new(options);
    let mut output = Output::default();
    let deltas = parser.push(text).into_iter().chain(parser.finish());
    deltas.for_each(|delta| output.add(delta));
    output
}

#[test]
fn required_calls_are_calls() {
    for format in FORMATS {
        for (controls, opened, most) in [(true, false, 1), (false, false, 3), (true, true, 2)] {
            let marks = if controls { format.marks() } else { &[] };
            let table = table(marks);
            let compiler = ConstraintCompiler::new(&table, CompileLimits::default()).unwrap();
            let control = |text: &str| {
                let at = marks.iter().position(|mark| *mark == text)?;
                Some(END + 1 + at as u32)
            };
            let options = CallOptions { most, reasoning_opened: opened };
            let grammar = calls(format, &tools(), options, &control);
            let constraint =
                compiler.compile(&grammar).unwrap_or_else(|e| panic!("{e}: {grammar:?}"));
            let mut counts = [0; 4];
            for seed in 0..12 {
                // No random model finds the end of its reasoning.
                let start = if opened { "Hm. <b></think>" } else { "" };
                let text = answer(&constraint, &table, start, seed);
                let output = parse(format, &text, opened);
                assert!(output.content.is_empty(), "{format:?}: {text}: {output:?}");
                assert!((1..=most).contains(&output.calls.len()), "{format:?}: {text}: {output:?}");
                counts[output.calls.len()] += 1;
                for (name, arguments) in &output.calls {
                    let value: Value = serde_json::from_str(arguments).expect("JSON");
                    match name.as_str() {
                        "tree" => assert!(value["left"].is_number(), "{value}"),
                        "words-2" => assert!(value["kind"].is_string(), "{value}"),
                        _ => assert_eq!(value, json!({})),
                    }
                }
            }
            let several: i32 = counts[2..].iter().sum();
            assert!(most == 1 || several > 0, "{format:?}: several calls: {counts:?}");
        }
    }
}
