//! GBNF grammars: the texts that they allow and no others.

#[path = "support/rng.rs"]
#[allow(dead_code, reason = "only a part is used here")]
mod rng;

use ferrum_engine::constraint::{CompileLimits, Constraint, Spelling, TokenTable};
use ferrum_engine::{ConstraintCompiler, ConstraintError, Grammar};
use rng::Rng;

const END: u32 = 256;
const CALL: u32 = 257;

/// Values with objects and lists, strings with escapes; space between the parts.
const JSON: &str = r#"
root   ::= object  # the answer
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
      string ":" ws value
      ("," ws string ":" ws value)*
  )? "}" ws

array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,2})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"#;

/// Sums and products; names with an underscore and digits.
const ARITHMETIC: &str = r#"root ::= (expr "=" term "\n")+
expr ::= term ([-+*/] term)*
term ::= ident | num | "(" expr ")"
ident ::= [a-z] [a-z0-9_]*
num ::= [0-9]+
"#;

/// Moves of chess, numbered.
const CHESS: &str = r#"
root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")*
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
"#;

fn compiler() -> ConstraintCompiler {
    let mut tokens: Vec<_> = (0..=255).map(|byte| Spelling::Text(vec![byte])).collect();
    tokens.extend(["<|end|>", "<|call|>"].map(|name| Spelling::Control(name.into())));
    tokens.extend(["ab", "{\"", "12", "\", ", "é", "O-O"].map(|t| Spelling::Text(t.into())));
    let table = TokenTable { tokens, end_of_generation: vec![END] };
    ConstraintCompiler::new(&table, CompileLimits::default()).expect("a compiler")
}

fn compile(gbnf: &str) -> Result<Constraint, ConstraintError> {
    compiler().compile(&Grammar::Gbnf(gbnf.into()))
}

/// Whether the grammar allows exactly this text.
fn allows(constraint: &Constraint, text: &str) -> bool {
    let mut state = constraint.start(true);
    for &byte in text.as_bytes() {
        if state.is_complete() || !state.mask().expect("a mask").allows(u32::from(byte)) {
            return false;
        }
        state.commit(u32::from(byte)).expect("an allowed byte");
    }
    state.is_complete() || state.accepts().expect("an answer")
}

/// A text of bytes that are drawn from the allowed ones; none if it does not end soon.
fn draw(constraint: &Constraint, seed: u64) -> Option<String> {
    let (mut state, mut rng, mut text) = (constraint.start(true), Rng(seed), Vec::new());
    for _ in 0..400 {
        if state.is_complete() {
            break;
        }
        let mask = state.mask().expect("a mask");
        // What closes is drawn more often, so that texts end.
        let closing = [END, 34, 41, 93, 125, 10, 61].into_iter().filter(|&t| mask.allows(t));
        let closing: Vec<u32> = closing.collect();
        let all: Vec<u32> = (0..=END).filter(|&token| mask.allows(token)).collect();
        assert!(!all.is_empty(), "a dead end after {:?}", String::from_utf8_lossy(&text));
        let token = match closing.is_empty() || rng.one_in(2) {
            true => rng.pick(&all),
            false => rng.pick(&closing),
        };
        if token == END {
            break;
        }
        state.commit(token).expect("an allowed token");
        text.push(token as u8);
    }
    let whole = state.is_complete() || state.accepts().expect("an answer");
    whole.then(|| String::from_utf8(text).expect("UTF-8"))
}

#[test]
fn json() {
    let constraint = compile(JSON).unwrap();
    for text in [
        "{}",
        r#"{"a": [1, -2.5e3, true], "é\n\u00e9": {"b": null}}"#,
        "{ \"a\":[ ] }",
        "{\n  \"a\": \"\" }",
    ] {
        assert!(allows(&constraint, text), "{text}");
    }
    for text in
        ["[]", "{", "{\"a\"}", "{\"a\":01}", "{'a':1}", "{\"a\":\"\n\"}", "{}}", "{\"a\":1,}"]
    {
        assert!(!allows(&constraint, text), "{text}");
    }
    let drawn: Vec<String> = (0..100).filter_map(|seed| draw(&constraint, seed)).collect();
    assert!(drawn.len() > 50 && drawn.iter().any(|text| text.len() > 20), "{}", drawn.len());
    for text in drawn {
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    }
}

#[test]
fn arithmetic() {
    let constraint = compile(ARITHMETIC).unwrap();
    for text in ["a=1\n", "a1_b+(2*c)=d\n", "((1))-x/y=(z)\n12=12\n"] {
        assert!(allows(&constraint, text), "{text}");
    }
    for text in ["", "a=1", "a==1\n", "1a=1\n", "(a=1\n", "A=1\n", "a+=1\n"] {
        assert!(!allows(&constraint, text), "{text}");
    }
}

#[test]
fn chess() {
    let constraint = compile(CHESS).unwrap();
    for text in ["1. e4 e5\n", "1. e4 e5\n2. Nf3 Nc6\n3. O-O exd5+\n", "1. a8=Q O-O-O#\n"] {
        assert!(allows(&constraint, text), "{text}");
    }
    for text in ["1. e4\n", "e4 e5\n", "1. e9 e5\n", "1. O-O-O-O e5\n", "1. e4 e5\n100. e4 e5\n"] {
        assert!(!allows(&constraint, text), "{text}");
    }
}

/// A greedy lexer would take the `x` for a letter.
#[test]
fn characters_are_not_grouped() {
    let constraint = compile("root ::= [a-z]+ \"x\" | word\nword ::= \"abc\" [0-9]").unwrap();
    for (text, allowed) in [("abx", true), ("xx", true), ("abc1", true), ("abc", false)] {
        assert_eq!(allows(&constraint, text), allowed, "{text}");
    }
}

#[test]
fn parts_of_the_notation() {
    for (gbnf, good, bad) in [
        ("root ::= \"a\"{2}", "aa", "aaa"),
        ("root ::= \"ab\"{1,2}", "abab", "aba"),
        ("root ::= \"a\"{2,} \"b\"", "aaaab", "ab"),
        ("root ::= (\"a\" | \"b\" )? [0-9]", "a1", "ab1"),
        ("root ::= . .", "é日", "a"),
        ("root ::= [^a-c] [-a] [a-]", "d--", "a--"),
        ("root ::= \"\\x41\\u00e9\\U0001F600\\t\"", "Aé😀\t", "A"),
        ("root ::= \"\" empty \"x\"\nempty ::=", "x", ""),
        ("# only this\r\nroot::=a-b|\n a_b # or that\r\na-b ::= \"1\"\r\na_b ::= \"2\"", "2", "3"),
        ("root ::= list\nlist ::= \"i\" | list \",i\"", "i,i,i", "i,"),
        ("root ::= \"/\" [/\\]\\[\\\\] \"\\\"\"", "/]\"", "/a\""),
    ] {
        let constraint = compile(gbnf).unwrap_or_else(|error| panic!("{error}: {gbnf}"));
        assert!(allows(&constraint, good), "{gbnf}: {good}");
        assert!(!allows(&constraint, bad), "{gbnf}: {bad}");
    }
    for gbnf in ["root ::= \"a\" <|call|>", "root ::= \"a\" <[257]>"] {
        let mut state = compile(gbnf).unwrap().start(true);
        state.commit(u32::from(b'a')).unwrap();
        assert!(state.mask().unwrap().allows(CALL) && !state.mask().unwrap().allows(END));
    }
}

#[test]
fn what_is_wrong_is_named() {
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
    let long = format!("root ::= \"{}\"", "a".repeat(20_000));
    for (gbnf, why) in [
        ("", "no rule `root`"),
        ("a ::= \"b\"", "no rule `root`"),
        ("root ::= \"a\" b", "no rule `b`"),
        ("root ::= \"a\"\nroot ::= \"b\"", "line 2: a second rule `root`"),
        ("root = \"a\"", "expected `::=`"),
        ("root ::= \"a", "closing `\"`"),
        ("root ::= \"a\n\"", "closing `\"`"),
        ("root ::= [a", "closing `]`"),
        ("root ::= []", "empty `[]`"),
        ("root ::= [z-a]", "range"),
        ("root ::= (\"a\"", "expected `)`"),
        ("root ::= \"a\")", "end of the rule"),
        ("root ::= \"a\"{3,2}", "below its least"),
        ("root ::= \"a\"{9999}", "up to 2000"),
        ("root ::= \"a\"{,2}", "up to 2000"),
        ("root ::= \"a\"{2", "`}`"),
        ("root ::= \"a\"**", "use brackets"),
        ("root ::= \"\\q\"", "`\\q`"),
        ("root ::= \"\\uD800\"", "4 digits"),
        ("root ::= \"\\x4\"", "2 digits"),
        ("root ::= !<[5]>", "`!`"),
        ("root ::= <[a]>", "`<[5]>`"),
        ("root ::= <", "`<[5]>`"),
        ("root ::= \"a\" $", "end of the rule"),
        (&deep, "brackets within brackets"),
        (&long, "bytes"),
    ] {
        let error = compile(gbnf).expect_err(gbnf).to_string();
        assert!(error.contains(why), "{error}: wanted {why}");
    }
    // Nothing can be built from it.
    assert!(compile("root ::= root \"a\"").is_err());
}
