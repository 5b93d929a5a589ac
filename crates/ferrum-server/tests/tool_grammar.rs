//! Answers that must call tools: whatever a model wants, they are calls of the tools that there
//! are, and the parser of the family reads them.

use ferrum_engine::{
    ConstraintCompiler, Grammar,
    constraint::{CompileLimits, Constraint, Spelling, TokenTable},
};
use ferrum_server::output::{
    Output, OutputParser, ParserOptions, ToolFormat,
    grammar::{AnswerOptions, Reasoning, Text, Tool, answer},
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

/// The tokens of a text, marks as their tokens.
fn spell(table: &TokenTable, text: &str) -> Vec<u32> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(letter) = rest.chars().next() {
        let mark = table.tokens.iter().zip(0..).find_map(|(token, id)| match token {
            Spelling::Control(name) => rest.strip_prefix(name.as_str()).map(|after| (id, after)),
            _ => None,
        });
        let (letter, after) = rest.split_at(letter.len_utf8());
        rest = match mark {
            Some((token, after)) => {
                tokens.push(token);
                after
            }
            None => {
                tokens.extend(letter.bytes().map(u32::from));
                after
            }
        };
    }
    tokens
}

/// The text of an answer of a random model that begins with `start`, marks included.
fn random_answer(constraint: &Constraint, table: &TokenTable, start: &str, seed: u64) -> String {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut state = constraint.start(true);
    let mut bytes = start.as_bytes().to_vec();
    for token in spell(table, start) {
        assert!(state.mask().expect("a mask").allows(token), "{start}: {token}");
        state.commit(token).expect("an allowed token");
    }
    for step in 0..3000 {
        let mask = state.mask().expect("a mask");
        let all: Vec<u32> = (0..table.tokens.len() as u32).filter(|&t| mask.allows(t)).collect();
        // The ends of all, of reasoning, and of strings, objects and tags.
        let thought =
            |token: &u32| table.tokens[*token as usize] == Spelling::Control("</think>".into());
        let closing = |token: &u32| b"\"}<".iter().any(|b| u32::from(*b) == *token);
        let end = all.iter().find(|token| **token == END || thought(token));
        let end = end.or_else(|| all.iter().find(|token| closing(token)));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        let at = (random >> 33) as usize;
        // What ends something is likely after a while.
        let ending = end.filter(|_| step > 40 && !at.is_multiple_of(4));
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

/// A grammar for the family, and the tokens that it is for.
fn compiled(
    format: ToolFormat,
    controls: bool,
    options: AnswerOptions,
) -> (TokenTable, Constraint) {
    let all = [format.marks(), &["<think>", "</think>"]].concat();
    let marks = if controls { all.as_slice() } else { &[] };
    let table = table(marks);
    let compiler = ConstraintCompiler::new(&table, CompileLimits::default()).unwrap();
    let control = |text: &str| {
        let at = marks.iter().position(|mark| *mark == text)?;
        Some(END + 1 + at as u32)
    };
    let grammar = answer(format, options, &control);
    let constraint = compiler.compile(&grammar).unwrap_or_else(|e| panic!("{e}: {grammar:?}"));
    (table, constraint)
}

/// Calls follow the schemas of their tools.
fn check(output: &Output) {
    for (name, arguments) in &output.calls {
        let value: Value = serde_json::from_str(arguments).expect("JSON");
        match name.as_str() {
            "tree" => assert!(value["left"].is_number(), "{value}"),
            "words-2" => assert!(value["kind"].is_string(), "{value}"),
            _ => assert_eq!(value, json!({})),
        }
    }
}

#[test]
fn required_calls_are_calls() {
    for format in FORMATS {
        for (controls, opened, most) in [(true, false, 1), (false, false, 3), (true, true, 2)] {
            let reasoning = if opened { Reasoning::Opened } else { Reasoning::Never };
            let options =
                AnswerOptions { tools: tools(), most_calls: most, text: Text::None, reasoning };
            let (table, constraint) = compiled(format, controls, options);
            let mut counts = [0; 4];
            for seed in 0..12 {
                // No random model finds the end of its reasoning.
                let start = if opened { "Hm. <b></think>" } else { "" };
                let text = random_answer(&constraint, &table, start, seed);
                let output = parse(format, &text, opened);
                assert!(output.content.is_empty(), "{format:?}: {text}: {output:?}");
                assert!((1..=most).contains(&output.calls.len()), "{format:?}: {text}: {output:?}");
                counts[output.calls.len()] += 1;
                check(&output);
            }
            let several: i32 = counts[2..].iter().sum();
            assert!(most == 1 || several > 0, "{format:?}: several calls: {counts:?}");
        }
    }
}

/// Strict tools that the model need not call: any words may come, but what begins like a call is
/// one that follows its schema.
#[test]
fn free_words_and_strict_calls() {
    for format in FORMATS {
        for controls in [true, false] {
            let options = |reasoning| AnswerOptions {
                tools: tools(),
                most_calls: 2,
                text: Text::Words,
                reasoning,
            };
            let (table, constraint) = compiled(format, controls, options(Reasoning::Possible));
            let opening = format.marks()[0];
            let think = if controls { "<think>{ <b> or so</think>\n" } else { "" };
            let starts = [
                String::new(),
                opening.into(),
                format!("Well. {opening}"),
                format!("{think}A {opening}"),
            ];
            for seed in 0..6 {
                for start in &starts {
                    let text = random_answer(&constraint, &table, start, seed);
                    let output = parse(format, &text, false);
                    check(&output);
                    let calls = output.calls.len();
                    if start.is_empty() {
                        assert!(
                            calls > 0 || output.content.trim() == text.trim(),
                            "{text:?} {output:?}"
                        );
                    } else {
                        assert!((1..=2).contains(&calls), "{format:?}: {text}: {output:?}");
                        assert!(["", "Well.", "A"].contains(&output.content.trim()), "{output:?}");
                    }
                }
            }
            // The mark in letters would be read as one as well.
            if controls {
                let mut state = constraint.start(true);
                let (last, letters) = opening.as_bytes().split_last().unwrap();
                letters.iter().for_each(|&byte| state.commit(byte.into()).unwrap());
                assert!(!state.mask().unwrap().allows((*last).into()), "{opening}");
                assert!(state.mask().unwrap().allows(b'x'.into()), "{opening}");
            }
        }
    }
}

/// A form beside tools: the answer has the form, or it is calls.
#[test]
fn a_form_or_calls() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}},
        "required": ["n"], "additionalProperties": false});
    for (reasoning, start) in [(Reasoning::Never, ""), (Reasoning::Opened, "Hm.</think>")] {
        let form = Grammar::JsonSchema(schema.clone());
        let options =
            AnswerOptions { tools: tools(), most_calls: 1, text: Text::Form(form), reasoning };
        let (table, constraint) = compiled(ToolFormat::Hermes, false, options);
        for (form, seed) in [(true, 1), (false, 2), (true, 3), (false, 4)] {
            let start = format!("{start}{}", if form { "{" } else { "<" });
            let text = random_answer(&constraint, &table, &start, seed);
            let output = parse(ToolFormat::Hermes, &text, reasoning == Reasoning::Opened);
            check(&output);
            assert_eq!(output.calls.is_empty(), form, "{text}: {output:?}");
            if form {
                let value: Value = serde_json::from_str(&output.content).expect("JSON");
                assert!(value["n"].is_number(), "{value}");
            }
        }
    }
}
