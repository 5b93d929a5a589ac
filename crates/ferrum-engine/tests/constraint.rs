//! Constrained answers: whatever the logits, an answer is what its grammar says.
//!
//! The model is a random number generator, which tries everything that a mask allows.

#[allow(dead_code, reason = "only its random numbers are used here")]
mod support;

#[path = "support/schemas.rs"]
mod schemas;

use std::time::{Duration, Instant};

use ferrum_engine::{
    ConstraintCompiler, ConstraintError, Grammar, SamplingParams,
    constraint::{CompileLimits, Constraint, Spelling, TokenTable},
    sampler::{Sampler, Workspace},
};
use serde_json::{Value, json};
use support::rng::{self, Rng};

const END: u32 = 256;

/// All bytes, an end, a control token, and pieces that cross the borders of JSON's parts.
fn table() -> TokenTable {
    let pieces = [
        "{\"", "\":", "\", \"", "\"}", "},", "[[", "]]", "null", "true", "fals", " \"", "12",
        "999", "-1", "0.", "e9", "e999", "1e999", "e-9", ",1e9999", "é", "日本", "\\\"", "\\u00",
        "\\n", "the ", "ab", "_", "\n  ", "    ", "://", "2024-", "@a.b",
    ];
    let mut tokens: Vec<_> = (0..=255).map(|byte| Spelling::Text(vec![byte])).collect();
    tokens.push(Spelling::Control("<|end|>".into()));
    tokens.push(Spelling::Control("<|tool|>".into()));
    tokens.push(Spelling::None);
    tokens.extend(pieces.map(|piece| Spelling::Text(piece.into())));
    TokenTable { tokens, end_of_generation: vec![END] }
}

fn compiler() -> ConstraintCompiler {
    ConstraintCompiler::new(&table(), CompileLimits::default()).expect("a compiler")
}

fn compile(grammar: Grammar) -> Result<Constraint, ConstraintError> {
    compiler().compile(&grammar)
}

/// An answer of at most `most` tokens with random logits; whether it ended by itself.
fn answer(constraint: &Constraint, seed: u64, greedy: bool, most: usize) -> (Vec<u32>, bool) {
    let vocab = table().tokens.len();
    let mut rng = Rng(seed);
    let temperature = if greedy { 0.0 } else { 1.0 };
    let params = SamplingParams { temperature, seed: Some(seed), ..Default::default() };
    let mut sampler = Sampler::new(params, vocab, 0).unwrap().within(Some(constraint.start(true)));
    let (mut workspace, mut history) = (Workspace::default(), Vec::new());
    while history.len() < most {
        let mut logits: Vec<f32> = (0..vocab).map(|_| rng.below(1000) as f32 / 100.0).collect();
        // What closes is likely after a while, so that answers end.
        let closing = 0.3 * history.len().min(60) as f32;
        for byte in [b'"', b'}', b']'] {
            logits[usize::from(byte)] += closing;
        }
        logits[END as usize] += closing;
        let token = sampler.sample(&logits, &history, &mut workspace).expect("a token");
        if token == END {
            return (history, true);
        }
        history.push(token);
        if sampler.is_complete() {
            return (history, true);
        }
    }
    (history, false)
}

fn text_bytes(tokens: &[u32]) -> Vec<u8> {
    let table = table();
    let bytes = |&token: &u32| match &table.tokens[token as usize] {
        Spelling::Text(bytes) => bytes.clone(),
        other => panic!("{other:?} in an answer"),
    };
    tokens.iter().flat_map(bytes).collect()
}

fn text(tokens: &[u32]) -> String {
    String::from_utf8(text_bytes(tokens)).expect("UTF-8")
}

/// The answers of a few random models.
fn answers(constraint: &Constraint, count: u64) -> Vec<String> {
    let one = |seed| {
        let (tokens, ended) = answer(constraint, seed, seed % 2 == 0, 3000);
        assert!(ended, "no end: {}", text(&tokens));
        text(&tokens)
    };
    (0..count).map(one).collect()
}

#[test]
fn answers_of_random_schemas_parse_and_validate() {
    let compiler = compiler();
    let mut slowest = Duration::ZERO;
    for seed in 0..200 {
        let schema = schemas::random(&mut Rng(seed));
        let start = Instant::now();
        let constraint = compiler
            .compile(&Grammar::JsonSchema(schema.clone()))
            .unwrap_or_else(|error| panic!("{error}: {schema}"));
        slowest = slowest.max(start.elapsed());
        let validator = jsonschema::validator_for(&schema).expect("a valid schema");
        for text in answers(&constraint, 4) {
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}: {schema}"));
            let valid = validator.validate(&value);
            assert!(valid.is_ok(), "{valid:?}: {text}: {schema}");
        }
    }
    println!("the slowest schema took {slowest:?} to compile");
}

/// Looking ahead changes nothing, and what it foresees comes.
#[test]
fn what_must_come_is_foreseen() {
    let compiler = compiler();
    let mut foreseen = 0;
    for seed in 0..200 {
        let grammar = Grammar::JsonSchema(schemas::random(&mut Rng(seed)));
        let constraint = compiler.compile(&grammar).expect("a constraint");
        let (plain, _) = answer(&constraint, seed, false, 300);
        let mut state = constraint.start(true);
        for (at, &token) in plain.iter().enumerate() {
            let ahead = state.ahead();
            let bytes = text_bytes(&ahead);
            let rest = text_bytes(&plain[at..]);
            let come = bytes.len().min(rest.len());
            assert_eq!(bytes[..come], rest[..come], "{grammar:?}: after {:?}", &plain[..at]);
            foreseen += usize::from(ahead.first() == Some(&token));
            assert!(state.mask().expect("a mask").allows(token), "{grammar:?}");
            state.commit(token).expect("what came before");
        }
    }
    assert!(foreseen > 500, "{foreseen}");
    let free = compile(Grammar::Regex("[a-z]+".into())).unwrap().start(true);
    assert!(free.ahead().is_empty());
    // More text than a step may look through: no guess, and no harm.
    let mut long =
        compile(Grammar::Gbnf("root ::= \"x\" (\"ab\"{2000}){20}".into())).unwrap().start(true);
    for byte in *b"xababab" {
        long.ahead();
        assert!(long.mask().unwrap().allows(u32::from(byte)));
        long.commit(u32::from(byte)).unwrap();
    }
}

#[test]
fn any_json_object() {
    let constraint = compile(Grammar::JsonObject).unwrap();
    for text in answers(&constraint, 100) {
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(value.is_object(), "{text}");
    }
}

#[test]
fn numbers_are_ones_that_parsers_read() {
    let constraint = compile(Grammar::JsonSchema(json!({"type": "number"}))).unwrap();
    let mut exponents = 0;
    for text in answers(&constraint, 300) {
        let value: Result<f64, _> = serde_json::from_str(&text);
        assert!(value.is_ok_and(f64::is_finite), "{text}");
        exponents += usize::from(text.contains(['e', 'E']));
    }
    assert!(exponents > 0, "exponents are allowed");
}

#[test]
fn regular_expressions() {
    let constraint = compile(Grammar::Regex(r"(ab|[0-9]{2,4})(é|日)?/x".into())).unwrap();
    for text in answers(&constraint, 50) {
        let start = text.strip_prefix("ab").unwrap_or_else(|| {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            assert!((2..=4).contains(&digits), "{text}");
            &text[digits..]
        });
        assert!(["/x", "é/x", "日/x"].contains(&start), "{text}");
    }
}

#[test]
fn lark_grammars_and_control_tokens() {
    let lark = "start: \"call \" <|tool|> list\nlist: ITEM (\",\" ITEM){0,3} \";\"\nITEM: /[a-c]+/";
    let constraint = compile(Grammar::Lark(lark.into())).unwrap();
    for seed in 0..20 {
        let (tokens, ended) = answer(&constraint, seed, false, 2000);
        assert!(ended);
        assert_eq!(tokens.iter().filter(|&&token| token == 257).count(), 1, "the control token");
        let items: Vec<u32> = tokens.into_iter().filter(|&token| token != 257).collect();
        let items = text(&items);
        let list = items.strip_prefix("call ").and_then(|rest| rest.strip_suffix(';'));
        let list: Vec<&str> = list.expect("the frame").split(',').collect();
        assert!(list.len() <= 4 && list.iter().all(|item| !item.is_empty()), "{items}");
    }
}

#[test]
fn schemas_within_lark() {
    let object = json!({"type": "object", "properties": {"x": {"type": "integer"}},
        "required": ["x"], "additionalProperties": false});
    let parts = vec![
        ("a".into(), Grammar::JsonSchema(object)),
        ("b".into(), Grammar::JsonSchema(json!({"enum": ["p", "q"]}))),
    ];
    let lark = "start: \"A=\" @a | \"B=\" @b".to_owned();
    let constraint = compile(Grammar::Framed { lark, parts }).unwrap();
    let mut seen = [0, 0];
    for text in answers(&constraint, 40) {
        match text.split_at(2) {
            ("A=", json) => {
                let value: Value = serde_json::from_str(json).unwrap();
                assert!(value["x"].is_number(), "{text}");
                seen[0] += 1;
            }
            (_, json) => {
                assert!([r#""p""#, r#""q""#].contains(&json), "{text}");
                seen[1] += 1;
            }
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0);
}

/// The end of generation may come only where the grammar accepts; without it, only completeness
/// ends an answer.
#[test]
fn ends() {
    let constraint = compile(Grammar::Regex("ab*".into())).unwrap();
    for (with_end, token) in [(true, END), (false, END)] {
        let mut state = constraint.start(with_end);
        assert!(!state.mask().unwrap().allows(token), "nothing is accepted yet");
        assert!(!state.accepts().unwrap());
        state.commit(u32::from(b'a')).unwrap();
        assert_eq!(state.mask().unwrap().allows(token), with_end);
        assert!(state.mask().unwrap().allows(u32::from(b'b')));
        assert!(state.accepts().unwrap() && !state.is_complete());
        let mut other = state.clone();
        other.commit(u32::from(b'b')).unwrap();
        assert!(state.commit(u32::from(b'c')).is_err(), "not a token of the grammar");
        assert!(other.mask().is_ok(), "a clone goes its own way");
    }
    let constraint = compile(Grammar::Regex("ab".into())).unwrap();
    let mut state = constraint.start(true);
    for byte in *b"ab" {
        assert!(!state.is_complete());
        state.commit(u32::from(byte)).unwrap();
    }
    assert!(state.is_complete());
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    let compiler = compiler();
    for (keyword, schema) in schemas::refused() {
        let error = compiler.compile(&Grammar::JsonSchema(schema.clone())).expect_err(keyword);
        assert!(error.to_string().contains(keyword), "{keyword}: {error}");
    }
}

/// Contradictions and malformed schemas are errors, not answers.
#[test]
fn malformed_grammars_are_refused() {
    let compiler = compiler();
    let schemas = [
        json!({"type": "no type"}),
        json!({"type": "string", "pattern": "("}),
        json!({"type": "string", "pattern": "(?=a)b"}),
        json!({"type": "string", "pattern": "a^b"}),
        json!({"type": "integer", "minimum": 3, "maximum": 2}),
        json!({"properties": []}),
        json!({"anyOf": []}),
        json!(false),
        json!(7),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}}}),
    ];
    let schemas = schemas.map(Grammar::JsonSchema);
    let regexes = ["(", r"(a)\1", "[b-a]"].map(|r| Grammar::Regex(r.into()));
    let larks = [
        "",
        "start: nothing",
        "start: \"a",
        "start: start",
        "x: \"a\"",
        "start: <|no|>",
        "start: %json {\"type\":\"object\",\"x-guidance\":{\"lenient\":true}}",
        "start: @none",
    ];
    let larks = larks.map(|lark| Grammar::Lark(lark.into()));
    for grammar in schemas.into_iter().chain(regexes).chain(larks) {
        let result = compiler.compile(&grammar);
        assert!(result.is_err(), "{grammar:?}");
        let message = result.unwrap_err().to_string();
        assert!(message.len() < 400 && !message.contains("panic"), "{grammar:?}: {message}");
    }
}

/// Grammars made to cost: each is refused, or compiled in time; none breaks the process.
#[test]
fn hostile_grammars_cost_little() {
    let compiler = compiler();
    let deep = (0..100).fold(json!({}), |inner, _| json!({"items": inner}));
    let wide: serde_json::Map<_, _> =
        (0..4000).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
    let bomb: serde_json::Map<_, _> = (0..40)
        .map(|i| {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            (format!("d{i}"), json!({"allOf": [{"anyOf": [next, next]}, {"anyOf": [next, next]}]}))
        })
        .chain([("d40".to_owned(), json!({"type": "string"}))])
        .collect();
    let references: serde_json::Map<_, _> = (0..2400)
        .map(|i| (format!("{i}"), json!({"items": {"$ref": format!("#/$defs/{}", i + 1)}})))
        .chain([("2400".to_owned(), json!({"type": "string"}))])
        .collect();
    let chain: String = (0..4000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let options: Vec<_> = (0..900).map(|i| format!("{i}{}", "x".repeat(50))).collect();
    let grammars = [
        Grammar::JsonSchema(deep),
        Grammar::JsonSchema(json!({"type": "object", "properties": wide})),
        Grammar::JsonSchema(json!({"$ref": "#/$defs/d0", "$defs": bomb})),
        Grammar::JsonSchema(json!({"enum": options})),
        Grammar::JsonSchema(json!({"$ref": "#/$defs/0", "$defs": references})),
        Grammar::JsonSchema(json!({"type": "string", "minLength": 1_000_000_000_u64})),
        Grammar::JsonSchema(json!({"type": "array", "minItems": 1_000_000_000_u64})),
        Grammar::JsonSchema(json!({"type": "string", "pattern": "(.*a){20}(.*b){20}(.*c){20}"})),
        Grammar::JsonSchema(json!({"type": "string", "pattern": "^(a|b|ab)*c.{900}$"})),
        Grammar::Regex("(x+x+)+y".into()),
        Grammar::Regex(format!("{}a{}", "(".repeat(1000), ")*".repeat(1000))),
        Grammar::Regex("(.{0,1000}){0,1000}".into()),
        Grammar::Lark(format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000))),
        Grammar::Lark(format!("start: r0\n{chain}r4000: \"a\"\n")),
        Grammar::Lark("start: start start | \"a\" | \"\"".into()),
        Grammar::Lark(format!("start: A\nA: /{}/", "(a|b)?".repeat(5000))),
    ];
    for grammar in &grammars {
        let start = Instant::now();
        let result = compiler.compile(grammar);
        let took = start.elapsed();
        let name = format!("{grammar:?}");
        let name: String = name.chars().take(60).collect();
        println!("{name}: {took:?}: {:?}", result.as_ref().err().map(ToString::to_string));
        assert!(took < Duration::from_secs(3), "{name}");
        if let Ok(constraint) = result {
            // Steps are bounded too; an answer may fail, but in time.
            let mut state = constraint.start(true);
            for _ in 0..50 {
                let start = Instant::now();
                let Ok(mask) = state.mask() else { break };
                let took = start.elapsed();
                assert!(took < Duration::from_millis(500), "{name}: a mask took {took:?}");
                let allowed = (0..table().tokens.len() as u32).find(|&token| mask.allows(token));
                if allowed == Some(END) || state.commit(allowed.unwrap()).is_err() {
                    break;
                }
            }
        }
    }
}

#[test]
fn compiled_grammars_are_kept() {
    let compiler = compiler();
    let grammar = |i: usize| Grammar::Regex(format!("a{{{}}}", i + 1));
    let first = compiler.compile(&grammar(0)).unwrap();
    assert_eq!(compiler.compile(&grammar(0)).unwrap(), first);
    for i in 0..CompileLimits::default().kept {
        compiler.compile(&grammar(i + 1)).unwrap();
    }
    assert_ne!(compiler.compile(&grammar(0)).unwrap(), first, "the oldest goes");
}

#[test]
fn vocabularies_that_cannot_be_constrained() {
    for tokens in [vec![], vec![Spelling::None; 5], vec![Spelling::Text(vec![0xff])]] {
        let table = TokenTable { tokens, end_of_generation: vec![7] };
        let result = ConstraintCompiler::new(&table, CompileLimits::default());
        assert!(matches!(result, Err(ConstraintError::Vocabulary { .. })));
    }
}
