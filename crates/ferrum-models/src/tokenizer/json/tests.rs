//! Parts of `tokenizer.json` that are refused, and those that are read.

use serde_json::{Map, Value, json};

use super::super::{Tokenizer, TokenizerError};
use super::Beside;

/// A byte-level tokenizer that works.
fn bytes() -> Value {
    json!({
        "added_tokens": [
            {"id": 3, "content": "<s>", "special": true, "rstrip": true},
            {"id": 4, "content": "<td>", "special": false, "lstrip": true},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    })
}

/// One of characters that works.
fn characters() -> Value {
    json!({
        "added_tokens": [{"id": 0, "content": "<unk>", "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true,
            "vocab": {"<unk>": 0, "<0xC3>": 1, "<0xA9>": 2, "a": 3, "\u{2581}": 4, "\u{2581}a": 5},
            "merges": [["\u{2581}", "a"]],
        },
    })
}

fn build(json: &Value) -> Result<Tokenizer, TokenizerError> {
    build_beside(json, &Map::new(), &[])
}

fn build_beside(
    json: &Value,
    config: &Map<String, Value>,
    ends: &[u32],
) -> Result<Tokenizer, TokenizerError> {
    let text = serde_json::to_vec(json).unwrap();
    Tokenizer::from_json(&text, &Beside { config, ends, tokens: None })
}

/// `json` with the value at a path replaced.
fn with(mut json: Value, path: &str, value: Value) -> Value {
    match json.pointer_mut(path) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = path.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    json
}

#[test]
fn tokens_are_made_as_the_file_says() {
    let tokenizer = build(&bytes()).unwrap();
    assert_eq!(tokenizer.encode_markup("abba<s>  \n b <td>a"), [2, 1, 0, 3, 1, 4, 0]);
    assert_eq!(tokenizer.encode_text("a<s>"), [0]);
    let tokenizer = build(&characters()).unwrap();
    // é is spelled in bytes, ü's second byte has no token, so it is unknown; x is too.
    assert_eq!(tokenizer.encode_text("a a\u{e9}"), [5, 5, 1, 2]);
    assert_eq!(tokenizer.encode_text("a\u{fc}xa"), [5, 0, 3]);
    assert_eq!(tokenizer.decode(&[5, 5, 1, 2]), "a a\u{e9}");
}

#[test]
fn tokens_around_a_text_and_ends() {
    let template = json!({"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
    ]});
    let json = with(bytes(), "/post_processor", template);
    let tokenizer = build(&json).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.add_bos(), tokenizer.add_eos()), (Some(3), true, false));
    let config = json!({"add_bos_token": false, "eos_token": {"content": "<s>"}});
    let tokenizer = build_beside(&json, config.as_object().unwrap(), &[1]).unwrap();
    assert!(!tokenizer.add_bos());
    assert_eq!((tokenizer.eos(), tokenizer.end_of_generation()), (Some(3), &[1, 3][..]));
    let outside = build_beside(&json, &Map::new(), &[5]);
    assert!(matches!(outside, Err(TokenizerError::SpecialId { id: 5, tokens: 5, .. })));
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let named = |json: Value, name: &str| match build(&json) {
        Err(error) => assert!(error.to_string().contains(name), "{error} should name {name}"),
        Ok(_) => panic!("{name} was accepted"),
    };
    let part = |kind: &str| json!({"type": kind});
    named(with(bytes(), "/normalizer", part("Precompiled")), "Precompiled");
    named(with(bytes(), "/pre_tokenizer", part("UnicodeScripts")), "UnicodeScripts");
    named(with(bytes(), "/post_processor", part("Other")), "Other");
    named(with(bytes(), "/decoder", part("CTC")), "CTC");
    named(with(bytes(), "/model/type", "Unigram".into()), "Unigram");
    // A kilobyte that would make 10^12 bytes of one letter.
    let tenfold = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(10)});
    let bomb = json!({"type": "Sequence", "normalizers": vec![tenfold; 12]});
    named(with(bytes(), "/normalizer", bomb), "many times longer");
    let nothing = json!({"type": "Replace", "pattern": {"Regex": "a*|$"}, "content": "b"});
    named(with(bytes(), "/normalizer", nothing), "may be nothing");
    named(with(bytes(), "/model/dropout", json!(0.1)), "dropout");
    named(with(bytes(), "/model/end_of_word_suffix", "</w>".into()), "end_of_word_suffix");
    named(with(characters(), "/decoder", Value::Null), "null");
    named(with(characters(), "/model/unk_token", "<x>".into()), "<x>");
    named(with(bytes(), "/model/merges", json!(["a c"])), "a c");
    named(with(bytes(), "/model/merges", json!(["ac"])), "merge");
    named(with(bytes(), "/added_tokens/0/id", json!(1)), "token 1");
    named(with(bytes(), "/added_tokens/0/id", json!(4_000_000_000u32)), "too large");
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
        ]})
    };
    for pattern in ["a?+b", r"(?<=a)b", "[a--b]", "a(?!b)", "("] {
        named(with(bytes(), "/pre_tokenizer", split(pattern)), "pattern");
    }
    assert!(build(&with(bytes(), "/pre_tokenizer", split(r"\p{L}+|\s+(?!\S)|\s+"))).is_ok());
}

#[test]
fn added_tokens_have_their_flags() {
    let word = with(bytes(), "/added_tokens/1/content", "t".into());
    let word = build(&with(word, "/added_tokens/1/single_word", true.into())).unwrap();
    assert_eq!(word.encode_text("t at ta a t-t"), [4, 0, 0, 0, 4, 4]);
    // A control token within the white space that went with the one before it.
    let space = json!({"id": 5, "content": " ", "special": true});
    let mut space = with(bytes(), "/added_tokens/1", space);
    space["added_tokens"][0]["rstrip"] = true.into();
    assert_eq!(build(&space).unwrap().encode_markup("<s>  a"), [3, 5, 5, 0]);
    let lower = with(bytes(), "/normalizer", json!({"type": "Lowercase"}));
    let lower = with(lower, "/added_tokens/1/content", "<TD>".into());
    let normalized = with(lower.clone(), "/added_tokens/1/normalized", true.into());
    assert_eq!(build(&normalized).unwrap().encode_text("a <Td>B"), [0, 4, 1]);
    let as_it_is = build(&with(lower.clone(), "/added_tokens/1/normalized", false.into())).unwrap();
    assert_eq!(as_it_is.encode_text("A <TD>b<td>"), [0, 4, 1]);
    // What a changed text has of markup is not known.
    let special = with(
        lower,
        "/added_tokens/0",
        json!({"id": 3, "content": "<S>", "special": true, "normalized": true}),
    );
    let error = build(&special).err().unwrap().to_string();
    assert!(error.contains("normalized"), "{error}");
    let config = json!({"added_tokens_decoder": {"3": {"content": "<S>", "normalized": false}}});
    let tokenizer = build_beside(&special, config.as_object().unwrap(), &[]).unwrap();
    assert_eq!(tokenizer.encode_markup("<S>A"), [3, 0]);
}

#[test]
fn decoders_that_do_something_else_are_refused() {
    let refused = |json: Value, decoder: Value, word: &str| {
        let error = build(&with(json, "/decoder", decoder)).err().map(|e| e.to_string());
        assert!(error.as_ref().is_some_and(|e| e.contains(word)), "{error:?} should name {word}");
    };
    let part = |kind: &str| json!({"type": kind});
    let sequence = |parts: Vec<Value>| json!({"type": "Sequence", "decoders": parts});
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let strip = |content: &str, start: u32, stop: u32| json!({"type": "Strip", "content": content, "start": start, "stop": stop});
    let (mark, fallback, fuse) = (replace("\u{2581}", " "), part("ByteFallback"), part("Fuse"));
    let of = |first: Value, last: Vec<Value>| {
        sequence([vec![first, fallback.clone(), fuse.clone()], last].concat())
    };
    assert!(build(&with(characters(), "/decoder", of(mark.clone(), vec![]))).is_ok());
    refused(bytes(), Value::Null, "null");
    refused(bytes(), sequence(vec![part("ByteLevel"), part("ByteLevel")]), "ByteLevel, ByteLevel");
    refused(characters(), of(replace("\u{2581}", ""), vec![]), "Replace");
    refused(characters(), of(replace("_", " "), vec![]), "Replace");
    let regex = json!({"type": "Replace", "pattern": {"Regex": "\u{2581}"}, "content": " "});
    refused(characters(), of(regex, vec![]), "Replace");
    for wrong in [strip("_", 1, 0), strip(" ", 2, 0), strip(" ", 1, 1)] {
        refused(characters(), of(mark.clone(), vec![wrong]), "Strip");
    }
    refused(characters(), sequence(vec![mark.clone(), fuse.clone()]), "ByteFallback");
    refused(characters(), sequence(vec![fuse, fallback, mark]), "the sequence Fuse");
    let metaspace =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first"});
    refused(characters(), metaspace.clone(), "Metaspace without ByteFallback");
    let other = json!({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"});
    refused(characters(), other, "another mark");
    let plain = with(characters(), "/model/byte_fallback", false.into());
    let plain = build(&with(plain, "/decoder", metaspace)).unwrap();
    assert_eq!(plain.decode(&[4, 5, 3]), " aa", "all marks of the first token go");
}

#[test]
fn any_json_is_survived() {
    for text in ["", "{", "[]", "{}", "null", r#"{"model":{}}"#, r#"{"model":{"vocab":[]}}"#] {
        let beside = Beside { config: &Map::new(), ends: &[], tokens: None };
        assert!(Tokenizer::from_json(text.as_bytes(), &beside).is_err(), "{text}");
    }
    let deep = format!(r#"{{"model":{{"vocab":{}"#, "[".repeat(1 << 20));
    let beside = Beside { config: &Map::new(), ends: &[], tokens: None };
    assert!(Tokenizer::from_json(deep.as_bytes(), &beside).is_err());
}
