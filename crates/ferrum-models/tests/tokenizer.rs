//! Token ids beside llama.cpp's and Hugging Face's, over texts of many scripts.
//!
//! The golden ids were made by `tools/golden/tokenizer.py`, which says what is compared with what.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ferrum_models::gguf::{self, Gguf, GgufWriter, Metadata, Value};
use ferrum_models::tokenizer::{Segment, Tokenizer};
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A small vocabulary.
#[derive(Deserialize)]
struct Vocabulary {
    tokens: Vec<String>,
    #[serde(default)]
    types: Vec<i32>,
    #[serde(default)]
    merges: Vec<String>,
    #[serde(default)]
    scores: Vec<f32>,
}

/// The ids of every text.
#[derive(Deserialize)]
struct Golden {
    text: Vec<Vec<u32>>,
    /// With the texts of special tokens as these tokens.
    markup: Option<Vec<Vec<u32>>>,
    /// Numbers of texts where the reference departs from the model.
    #[serde(default)]
    skip: Vec<usize>,
}

fn data<T: DeserializeOwned>(name: &str) -> Result<T> {
    let path = format!("{}/tests/data/tokenizer/{name}", env!("CARGO_MANIFEST_DIR"));
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

fn metadata(entries: Vec<(&str, Value)>) -> Result<Metadata> {
    let mut writer = GgufWriter::new();
    for (key, value) in entries {
        writer.set(&format!("tokenizer.ggml.{key}"), value)?;
    }
    let file = writer.start(Vec::new())?.finish()?;
    Ok(gguf::parse(&file)?.metadata)
}

fn bpe(pre: &str) -> Result<Tokenizer> {
    let vocabulary: Vocabulary = data("bpe.json")?;
    Ok(Tokenizer::from_metadata(&metadata(vec![
        ("model", "gpt2".into()),
        ("pre", pre.into()),
        ("tokens", vocabulary.tokens.into()),
        ("token_type", vocabulary.types.into()),
        ("merges", vocabulary.merges.into()),
    ])?)?)
}

fn spm(space_prefix: bool) -> Result<Tokenizer> {
    let vocabulary: Vocabulary = data("spm.json")?;
    Ok(Tokenizer::from_metadata(&metadata(vec![
        ("model", "llama".into()),
        ("tokens", vocabulary.tokens.into()),
        ("token_type", vocabulary.types.into()),
        ("scores", vocabulary.scores.into()),
        ("add_space_prefix", space_prefix.into()),
        ("unknown_token_id", 0u32.into()),
        ("bos_token_id", 1u32.into()),
        ("eos_token_id", 2u32.into()),
    ])?)?)
}

fn bert(lowercase: bool) -> Result<Tokenizer> {
    let vocabulary: Vocabulary = data("bert.json")?;
    let special = |token: &str| token.len() > 2 && token.starts_with('[') && token.ends_with(']');
    let types: Vec<i32> =
        vocabulary.tokens.iter().map(|t| if special(t) { 3 } else { 1 }).collect();
    // as converters write them: the beginning of a word is marked instead of its continuation
    let tokens: Vec<String> = vocabulary
        .tokens
        .iter()
        .map(|token| match token.strip_prefix("##") {
            Some(rest) => rest.to_string(),
            None if special(token) => token.clone(),
            None => format!("\u{2581}{token}"),
        })
        .collect();
    Ok(Tokenizer::from_metadata(&metadata(vec![
        ("model", "bert".into()),
        ("tokens", tokens.into()),
        ("token_type", types.into()),
        ("unknown_token_id", 1u32.into()),
        ("bos_token_id", 2u32.into()),
        ("seperator_token_id", 3u32.into()),
        ("normalizer.lowercase", lowercase.into()),
    ])?)?)
}

fn real(alias: &str) -> Result<Tokenizer> {
    let path = ferrum_hub::testing::fetch_alias(alias)?;
    Ok(Tokenizer::from_metadata(Gguf::open(&path)?.metadata())?)
}

fn check(name: &str, tokenizer: &Tokenizer) -> Result<()> {
    let texts: Vec<String> = data("texts.json")?;
    let mut golden: BTreeMap<String, Golden> = data("golden.json")?;
    let golden = golden.remove(name).with_context(|| format!("no golden ids for {name}"))?;
    ensure!(golden.text.len() == texts.len(), "{name}: golden ids of other texts");
    for (i, (text, expected)) in texts.iter().zip(&golden.text).enumerate() {
        if golden.skip.contains(&i) {
            continue;
        }
        let ids = tokenizer.encode_text(text);
        ensure!(ids == *expected, "{name}: {text:?} as text is {ids:?}, expected {expected:?}");
    }
    for (i, (text, expected)) in texts.iter().zip(golden.markup.iter().flatten()).enumerate() {
        if golden.skip.contains(&i) {
            continue;
        }
        let ids = tokenizer.encode_markup(text);
        ensure!(ids == *expected, "{name}: {text:?} as markup is {ids:?}, expected {expected:?}");
    }
    Ok(())
}

#[test]
fn smollm2_gives_llama_cpps_ids() -> Result<()> {
    let tokenizer = real("smollm2")?;
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.add_bos()), (Some(1), Some(2), false));
    // <|endoftext|>, <|im_end|> and <reponame>, as llama.cpp has it
    assert_eq!(tokenizer.end_of_generation(), [0, 2, 4]);
    check("smollm2", &tokenizer)
}

#[test]
fn gemma3_gives_llama_cpps_ids() -> Result<()> {
    let tokenizer = real("gemma3")?;
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.add_bos()), (Some(2), Some(1), true));
    // <eos>, <end_of_turn> and </s>, as llama.cpp has it
    assert_eq!(tokenizer.end_of_generation(), [1, 106, 212]);
    check("gemma3", &tokenizer)?;
    // every byte has a token, so nothing is lost; U+2581 is how this vocabulary writes a space
    for text in data::<Vec<String>>("texts.json")? {
        let expected = text.replace('\u{2581}', " ");
        assert_eq!(tokenizer.decode(&tokenizer.encode_text(&text)), expected);
    }
    Ok(())
}

#[test]
fn each_pre_tokenizer_cuts_as_the_models_own() -> Result<()> {
    let names = [
        "default",
        "gpt-2",
        "smollm",
        "starcoder",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "gpt-4o",
        "tekken",
        "deepseek-llm",
        "deepseek-coder",
        "deepseek-v3",
    ];
    let texts: Vec<String> = data("texts.json")?;
    for name in names {
        let tokenizer = bpe(name)?;
        check(&format!("bpe/{name}"), &tokenizer)?;
        for text in &texts {
            assert_eq!(tokenizer.decode(&tokenizer.encode_text(text)), *text, "{name}");
        }
    }
    Ok(())
}

#[test]
fn sentence_piece_with_and_without_space_prefix() -> Result<()> {
    check("spm/prefix", &spm(true)?)?;
    check("spm/plain", &spm(false)?)?;
    let tokenizer = spm(false)?;
    for text in data::<Vec<String>>("texts.json")? {
        // U+2581 in a text is a space to such a vocabulary
        let expected = text.replace('\u{2581}', " ");
        assert_eq!(tokenizer.decode(&tokenizer.encode_text(&text)), expected);
    }
    Ok(())
}

#[test]
fn word_piece_cased_and_not() -> Result<()> {
    check("bert/lower", &bert(true)?)?;
    check("bert/cased", &bert(false)?)
}

#[test]
fn pieces_of_a_stream_are_whole_characters_and_add_up() -> Result<()> {
    for tokenizer in [bpe("gpt-2")?, spm(false)?] {
        for text in data::<Vec<String>>("texts.json")? {
            let ids = tokenizer.encode_text(&text);
            // a token more in the middle of a character, if there is one
            for cut in [ids.len(), ids.len() / 2] {
                let mut stream = tokenizer.stream();
                let mut streamed: String = ids[..cut].iter().map(|id| stream.push(*id)).collect();
                streamed += &stream.finish();
                assert_eq!(streamed, tokenizer.decode(&ids[..cut]));
            }
        }
    }
    Ok(())
}

/// Texts on which an algorithm that looks at everything again for each piece takes hours.
#[test]
fn long_monotonous_texts_take_no_longer_than_others() -> Result<()> {
    const LEN: usize = 1 << 18;
    let spaces_and_letters = " ".repeat(LEN - 1) + "x";
    let texts = [
        " ".repeat(LEN),
        spaces_and_letters,
        "a".repeat(LEN),
        "A".repeat(LEN),
        "1".repeat(LEN),
        "\n".repeat(LEN),
        " \n".repeat(LEN / 2),
        "\n ".repeat(LEN / 2) + "x",
        "'".repeat(LEN),
        "e\u{301}".repeat(LEN / 3),
        "<|im_start|".repeat(LEN / 11),
        "\u{20000}".repeat(LEN / 4),
    ];
    let names = ["default", "llama-bpe", "gpt-4o", "deepseek-llm"];
    let mut tokenizers = names.map(bpe).into_iter().collect::<Result<Vec<_>>>()?;
    tokenizers.extend([spm(true)?, bert(true)?]);
    for tokenizer in &tokenizers {
        for text in &texts {
            let ids = tokenizer.encode_markup(text);
            // a space may become three bytes, and there may be one in front
            assert!(ids.len() <= 3 * text.len() + 3);
        }
    }
    Ok(())
}

fn pieces() -> impl Strategy<Value = Vec<(String, bool)>> {
    let special = prop_oneof![
        Just("<|im_start|>"),
        Just("<|im_end|>"),
        Just("<|im_"),
        Just("end|>"),
        Just("\n\n"),
        Just("\n"),
        Just("  "),
        Just("<td>"),
        Just("<"),
    ];
    let piece = prop_oneof![special.prop_map(str::to_string), "\\PC{0,6}", "[a-z0-9' ]{0,8}"];
    proptest::collection::vec((piece, any::<bool>()), 0..12)
}

fn segments(pieces: &[(String, bool)]) -> Vec<Segment<'_>> {
    pieces
        .iter()
        .map(|(text, markup)| if *markup { Segment::Markup(text) } else { Segment::Text(text) })
        .collect()
}

proptest! {
    /// What users write never becomes a control token, and how it is divided does not matter.
    #[test]
    fn text_stays_text(pieces in pieces()) {
        for tokenizer in [bpe("qwen2").unwrap(), spm(true).unwrap(), spm(false).unwrap()] {
            let texts: Vec<_> = pieces.iter().map(|(text, _)| Segment::Text(text)).collect();
            let ids = tokenizer.encode(&texts);
            prop_assert!(!ids.iter().any(|id| tokenizer.is_control(*id)));
            let whole: String = pieces.iter().map(|(text, _)| text.as_str()).collect();
            prop_assert_eq!(&ids, &tokenizer.encode_text(&whole));
        }
    }

    /// A control token comes out for each of its texts that is markup from end to end.
    #[test]
    fn control_tokens_are_markup_from_end_to_end(pieces in pieces()) {
        let tokenizer = bpe("qwen2").unwrap();
        let ids = tokenizer.encode(&segments(&pieces));
        let mut runs = vec![String::new()];
        for (text, markup) in pieces.iter().filter(|(text, _)| !text.is_empty()) {
            if *markup { runs.last_mut().unwrap().push_str(text) } else { runs.push(String::new()) }
        }
        let expected: usize = runs
            .iter()
            .map(|run| run.matches("<|im_start|>").count() + run.matches("<|im_end|>").count())
            .sum();
        let found = ids.iter().filter(|id| tokenizer.is_control(**id)).count();
        prop_assert_eq!(found, expected);
    }
}
