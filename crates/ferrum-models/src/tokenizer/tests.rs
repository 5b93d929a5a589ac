//! Parts of the tokenizers beside slow and obvious ones, and metadata that does not fit together.

use proptest::prelude::*;

use super::bpe::{Bpe, MergeParts, Units};
use super::pretokenize::{self, PreTokenizer};
use super::stream::Characters;
use super::vocab::{RawToken, TokenKind, Vocabulary};
use super::{Tokenizer, TokenizerError, byte_level};
use crate::gguf::{self, GgufWriter, Metadata, Value};

fn metadata(entries: &[(&str, Value)]) -> Metadata {
    let mut writer = GgufWriter::new();
    for (key, value) in entries {
        writer.set(&format!("tokenizer.ggml.{key}"), value.clone()).unwrap();
    }
    gguf::parse(&writer.start(Vec::new()).unwrap().finish().unwrap()).unwrap().metadata
}

fn strings(texts: &[&str]) -> Value {
    texts.iter().map(|text| text.to_string()).collect::<Vec<_>>().into()
}

/// A BPE model that works, with some entries replaced (or, by `None`, left out).
fn bpe_with(changes: &[(&str, Option<Value>)]) -> Result<Tokenizer, TokenizerError> {
    let mut entries = vec![
        ("model", "gpt2".into()),
        ("pre", "gpt-2".into()),
        ("tokens", strings(&["a", "b", "ab", "<|im_end|>"])),
        ("token_type", vec![1i32, 1, 1, 3].into()),
        ("merges", strings(&["a b"])),
        ("eos_token_id", 3u32.into()),
    ];
    for (key, value) in changes {
        entries.retain(|(name, _)| name != key);
        entries.extend(value.clone().map(|value| (*key, value)));
    }
    Tokenizer::from_metadata(&metadata(&entries))
}

#[test]
fn metadata_that_does_not_fit_is_refused() {
    use TokenizerError as E;
    let error = |key: &'static str, value: Value| bpe_with(&[(key, Some(value))]).err();
    assert!(bpe_with(&[]).is_ok());
    for key in ["model", "tokens", "merges"] {
        assert!(matches!(bpe_with(&[(key, None)]), Err(E::Metadata(_))), "{key}");
    }
    assert!(matches!(error("model", "t5".into()), Some(E::UnknownModel(m)) if m == "t5"));
    assert!(matches!(error("pre", "x".into()), Some(E::UnknownPreTokenizer(p)) if p == "x"));
    assert!(matches!(error("pre", 7u32.into()), Some(E::Metadata(_))));
    assert!(matches!(error("tokens", strings(&[])), Some(E::Length { .. } | E::Empty)));
    assert!(matches!(
        error("tokens", strings(&["a", "b", "a", "ab"])),
        Some(E::Duplicate { first: 0, second: 2, .. })
    ));
    assert!(matches!(
        error("token_type", vec![1i32].into()),
        Some(E::Length { found: 1, tokens: 4, .. })
    ));
    for number in [-1, 0, 7, i32::MAX] {
        let types = vec![1, 1, 1, number].into();
        // an end token is one whatever its type, but the type must still be one
        assert!(matches!(error("token_type", types), Some(E::TokenType { id: 3, .. })));
    }
    assert!(matches!(
        error("token_type", vec![1i32, 1, 6, 3].into()),
        Some(E::ByteToken { id: 2, .. })
    ));
    for merge in ["", " ", "a", "a ", " b", "a c", "c a", "b a", "a b b", "a  b", "\u{20ac} a"] {
        let merges = strings(&["a b", merge]);
        assert!(matches!(error("merges", merges), Some(E::Merge { index: 1, .. })), "{merge:?}");
    }
    for key in ["bos_token_id", "eos_token_id", "eot_token_id", "fim_rep_token_id"] {
        assert!(matches!(error(key, 4u32.into()), Some(E::SpecialId { id: 4, .. })), "{key}");
        assert!(matches!(error(key, (-1i32).into()), Some(E::Metadata(_))), "{key}");
    }
    assert!(matches!(error("add_bos_token", true.into()), Some(E::MissingSpecial { .. })));
    assert!(
        bpe_with(&[("add_bos_token", Some(true.into())), ("bos_token_id", Some(0u32.into()))])
            .is_ok_and(|t| t.add_bos())
    );
}

#[test]
fn sentence_piece_needs_scores_and_a_token_for_each_byte() {
    use TokenizerError as E;
    let build = |scores: Option<Vec<f32>>, unknown: Option<u32>| {
        let mut entries = vec![
            ("model", "llama".into()),
            ("tokens", strings(&["<unk>", "\u{2581}a"])),
            ("token_type", vec![2i32, 1].into()),
        ];
        entries.extend(scores.map(|scores| ("scores", scores.into())));
        entries.extend(unknown.map(|id| ("unknown_token_id", id.into())));
        Tokenizer::from_metadata(&metadata(&entries))
    };
    assert!(matches!(build(None, Some(0)), Err(E::Metadata(_))));
    assert!(matches!(build(Some(vec![0.0]), Some(0)), Err(E::Length { found: 1, .. })));
    assert!(matches!(build(Some(vec![0.0, f32::NAN]), Some(0)), Err(E::Score { id: 1, .. })));
    assert!(matches!(build(Some(vec![0.0; 2]), None), Err(E::MissingByte { byte: 0 })));
    let tokenizer = build(Some(vec![0.0; 2]), Some(0)).unwrap();
    // a space is put in front unless the metadata says otherwise
    assert_eq!(tokenizer.encode_text("b"), [0; 4]);
}

#[test]
fn ends_are_known_by_id_and_by_text() {
    let changes = [
        ("tokens", Some(strings(&["a", "b", "ab", "<|im_end|>", "<end_of_turn>"]))),
        ("token_type", Some(vec![1i32, 1, 1, 3, 1].into())),
        ("eot_token_id", Some(1u32.into())),
    ];
    let tokenizer = bpe_with(&changes).unwrap();
    assert_eq!(tokenizer.end_of_generation(), [1, 3, 4]);
    assert!(tokenizer.is_control(4));
    assert!(!tokenizer.is_control(5) && tokenizer.kind(5).is_none());
    assert_eq!(tokenizer.special("<|im_end|>"), Some(3));
    assert_eq!(tokenizer.special("ab"), None);
}

#[test]
fn the_byte_alphabet_has_one_character_a_byte() {
    let mut bytes: Vec<u8> =
        (0..0x200u32).filter_map(char::from_u32).filter_map(byte_level::byte_of).collect();
    assert_eq!(bytes.len(), 256);
    bytes.sort_unstable();
    bytes.dedup();
    assert_eq!(bytes.len(), 256);
    // the examples that everyone knows from GPT-2's vocabulary
    assert_eq!(byte_level::decode("ĠtheĊ"), Some(b" the\n".to_vec()));
    assert_eq!(byte_level::decode("a b"), None);
}

#[test]
fn pre_tokenizers_cut_where_their_patterns_say() {
    let cut = |name: &str, text: &str| -> Vec<String> {
        let words = PreTokenizer::new(&pretokenize::spec(name).unwrap()).unwrap();
        words.split(text).into_iter().map(|range| text[range].to_string()).collect()
    };
    assert_eq!(
        cut("gpt-2", "I'm  12345 ok\n\n x"),
        ["I", "'m", " ", " 12345", " ok", "\n\n", " x"]
    );
    assert_eq!(cut("smollm", "a 123"), ["a", " ", "1", "2", "3"]);
    assert_eq!(
        cut("llama-bpe", "DON'T 12345\n\n x"),
        ["DON", "'T", " ", "123", "45", "\n\n", " x"]
    );
    assert_eq!(cut("qwen2", "x=12;\n"), ["x", "=", "1", "2", ";\n"]);
    assert_eq!(cut("gpt-4o", "HTTPServer's"), ["HTTPServer's"]);
    assert_eq!(cut("tekken", "camelCase a/\n"), ["camel", "Case", " a", "/\n"]);
    assert_eq!(cut("deepseek-v3", "日本1234"), ["日本", "123", "4"]);
    assert_eq!(cut("gpt-2", ""), [""; 0]);
    assert!(pretokenize::spec("no such name").is_none());
}

proptest! {
    /// Every text is cut into words that make it up again.
    #[test]
    fn words_make_up_the_text(text in "(\\PC|[ \n\r\ta-zA-Z0-9'.]){0,40}") {
        for name in ["default", "gpt-2", "smollm", "llama-bpe", "qwen35", "gpt-4o", "tekken", "deepseek-llm", "deepseek-v3"] {
            let words = PreTokenizer::new(&pretokenize::spec(name).unwrap()).unwrap().split(&text);
            let mut at = 0;
            for word in words {
                prop_assert_eq!(word.start, at);
                prop_assert!(word.end > at);
                at = word.end;
            }
            prop_assert_eq!(at, text.len());
        }
    }

    /// Bytes in pieces of any size make the text that they make at once.
    #[test]
    fn characters_come_out_whole(bytes: Vec<u8>, text in "\\PC{0,20}", cuts: Vec<prop::sample::Index>) {
        for bytes in [bytes, text.into_bytes()] {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            ends.push(bytes.len());
            ends.sort_unstable();
            let (mut characters, mut out, mut at) = (Characters::default(), String::new(), 0);
            for end in ends {
                characters.push(&bytes[at..end], &mut out);
                at = end;
            }
            characters.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }

    /// The heap merges what a search over all pairs merges.
    #[test]
    fn merging_is_that_of_the_definition(order in Just(PAIRS.to_vec()).prop_shuffle(), text in "[abc]{0,24}") {
        let texts: Vec<String> =
            ["a", "b", "c"].map(str::to_string).into_iter().chain(order.iter().map(|(l, r)| format!("{l}{r}"))).collect();
        let tokens = texts.iter().map(|text| {
            Ok(RawToken { text, key: Some(text.clone().into_bytes()), kind: TokenKind::Normal })
        });
        let vocab = Vocabulary::new(tokens).unwrap();
        let words = PreTokenizer::new(&pretokenize::spec("gpt-2").unwrap()).unwrap();
        let merges = order.iter().map(|(left, right)| Some(MergeParts { left, right }));
        let bpe = Bpe::new(words, false, Units::bytes(&vocab), &vocab, merges).unwrap();
        let mut ids = Vec::new();
        bpe.encode(&vocab, &text, &mut ids);
        let expected: Vec<u32> =
            merge_slowly(&text, &order).iter().map(|part| vocab.find(part.as_bytes()).unwrap()).collect();
        prop_assert_eq!(ids, expected);
    }
}

/// Merges whose results are parts of others' sides.
const PAIRS: [(&str, &str); 9] = [
    ("a", "b"),
    ("b", "c"),
    ("a", "a"),
    ("ab", "c"),
    ("aa", "b"),
    ("b", "b"),
    ("bb", "c"),
    ("aa", "aa"),
    ("c", "ab"),
];

/// Sennrich et al., algorithm 1: apply the first pair of the list that occurs, at its first place.
fn merge_slowly(text: &str, order: &[(&str, &str)]) -> Vec<String> {
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    while let Some(at) = order.iter().find_map(|(left, right)| {
        parts.windows(2).position(|pair| pair[0] == *left && pair[1] == *right)
    }) {
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
    parts
}
