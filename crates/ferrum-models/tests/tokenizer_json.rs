//! Tokenizers of `tokenizer.json` beside Hugging Face's own, over texts of many scripts.
//!
//! The golden ids were made by `tools/golden/tokenizer_json.py`.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ferrum_models::gguf::{Gguf, GgufWriter};
use ferrum_models::tokenizer::{Beside, GgufVocabulary, Tokenizer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use unicode_normalization::is_nfc;

#[derive(Deserialize)]
struct Case {
    /// Which vocabulary.
    base: String,
    /// The file, without vocabulary and merges.
    file: Value,
    ids: Vec<Vec<u32>>,
    /// Ids of the first texts with those that the post-processor adds.
    #[serde(default)]
    around: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

fn data<T: DeserializeOwned>(name: &str) -> Result<T> {
    let path = format!("{}/tests/data/tokenizer/{name}", env!("CARGO_MANIFEST_DIR"));
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

impl Case {
    /// The whole file.
    fn json(&self) -> Result<Vec<u8>> {
        let base: Value = data(&format!("{}.json", self.base))?;
        let added = self.file["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
        let tokens = base["tokens"].as_array().map_or(&[][..], Vec::as_slice);
        // Of the characters, the first are in the vocabulary too.
        let is_added = |id: usize| self.base == "bpe" && added.iter().any(|t| t["id"] == id);
        let vocab: Map<String, Value> = tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| !is_added(*id))
            .map(|(id, text)| (text.as_str().unwrap_or_default().to_string(), json!(id)))
            .collect();
        let mut file = self.file.clone();
        file["model"]["vocab"] = Value::Object(vocab);
        file["model"]["merges"] = base["merges"].clone();
        Ok(serde_json::to_vec(&file)?)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        let beside = Beside { config: &Map::new(), ends: &[], tokens: None };
        Ok(Tokenizer::from_json(&self.json()?, &beside)?)
    }
}

#[test]
fn ids_and_texts_are_those_of_tokenizers() -> Result<()> {
    let texts: Vec<String> = data("texts.json")?;
    for (name, case) in data::<BTreeMap<String, Case>>("json.json")? {
        let tokenizer = case.tokenizer()?;
        ensure!(case.ids.len() == texts.len(), "{name}: golden ids of other texts");
        for ((text, ids), decoded) in texts.iter().zip(&case.ids).zip(&case.decoded) {
            let got = tokenizer.encode_markup(text);
            ensure!(got == *ids, "{name}: {text:?} is {got:?}, expected {ids:?}");
            let got = tokenizer.decode(ids);
            ensure!(got == *decoded, "{name}: {ids:?} is {got:?}, expected {decoded:?}");
        }
        for (text, ids) in texts.iter().zip(&case.around) {
            let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
            let eos = tokenizer.eos().filter(|_| tokenizer.add_eos());
            let within = tokenizer.encode_markup(text);
            let got: Vec<u32> = bos.into_iter().chain(within).chain(eos).collect();
            ensure!(got == *ids, "{name}: {text:?} as a whole is {got:?}, expected {ids:?}");
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Random {
    texts: Vec<String>,
    cases: BTreeMap<String, Case>,
}

/// Added tokens with every flag, and patterns that two engines could read in two ways.
#[test]
fn random_texts_are_cut_as_tokenizers_cuts_them() -> Result<()> {
    let Random { texts, cases } = data("json-random.json")?;
    let mut wrong = Vec::new();
    for (name, case) in cases {
        let tokenizer = case.tokenizer()?;
        ensure!(case.ids.len() == texts.len(), "{name}: golden ids of other texts");
        for ((text, ids), decoded) in texts.iter().zip(&case.ids).zip(&case.decoded) {
            let (got, back) = (tokenizer.encode_markup(text), tokenizer.decode(ids));
            if got != *ids || back != *decoded {
                wrong.push(format!("{name}: {text:?}: {got:?} {ids:?} {back:?} {decoded:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// WordPiece has the ids that the tests of GGUF's vocabulary have.
#[test]
fn word_piece_is_read_from_either_file() -> Result<()> {
    let vocabulary: Value = data("bert.json")?;
    let tokens = vocabulary["tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let texts: Vec<String> = data("texts.json")?;
    let golden: Value = data("golden.json")?;
    let vocab: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, text)| (text.as_str().unwrap_or_default().to_string(), json!(id)))
        .collect();
    for (name, lowercase) in [("bert/lower", true), ("bert/cased", false)] {
        let special = |id: u32| json!({"id": id, "content": tokens[id as usize], "special": true});
        let file = json!({
            "added_tokens": [special(0), special(1), special(2), special(3), special(4)],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "lowercase": lowercase,
                "handle_chinese_chars": true, "strip_accents": null},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocab,
                "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
        });
        let beside = Beside { config: &Map::new(), ends: &[], tokens: None };
        let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&file)?, &beside)?;
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(2), Some(3)));
        assert!(tokenizer.add_bos() && tokenizer.add_eos());
        let expected: Vec<Vec<u32>> = serde_json::from_value(golden[name]["text"].clone())?;
        for (text, expected) in texts.iter().zip(expected) {
            assert_eq!(tokenizer.encode_text(text), expected, "{name}: {text:?}");
        }
    }
    Ok(())
}

/// A tokenizer that is said in the words of GGUF cuts every text the same way.
#[test]
fn those_that_gguf_has_words_for_are_translated() -> Result<()> {
    let texts: Vec<String> = data("texts.json")?;
    let (mut translated, mut refused) = (Vec::new(), Vec::new());
    for (name, case) in data::<BTreeMap<String, Case>>("json.json")? {
        let tokenizer = case.tokenizer()?;
        let tokens = Some(tokenizer.vocab_size() + 3);
        let beside = Beside { config: &Map::new(), ends: &[], tokens };
        let Ok(vocabulary) = GgufVocabulary::from_json(&case.json()?, &beside) else {
            refused.push(name);
            continue;
        };
        let composed = vocabulary.notes.iter().any(|note| note.contains("normal form C"));
        let mut writer = GgufWriter::new();
        for (key, value) in vocabulary.entries {
            writer.set(&key, value)?;
        }
        let file = tempfile::NamedTempFile::new()?;
        writer.start(file.reopen()?)?.finish()?;
        let written = Tokenizer::from_metadata(Gguf::open(file.path())?.metadata())?;
        ensure!(written.vocab_size() == tokenizer.vocab_size() + 3, "{name}: rows without tokens");
        ensure!((written.bos(), written.add_bos()) == (tokenizer.bos(), tokenizer.add_bos()));
        ensure!(written.eos() == tokenizer.eos(), "{name}: another end");
        for text in texts.iter().filter(|text| !composed || is_nfc(text)) {
            let (got, expected) = (written.encode_text(text), tokenizer.encode_text(text));
            ensure!(got == expected, "{name}: {text:?} is {got:?}, expected {expected:?}");
        }
        translated.push(name);
    }
    let words = ["gemma", "gpt2", "llama2", "llama3", "qwen2", "smollm"];
    ensure!(translated == words, "translated: {translated:?}, refused: {refused:?}");
    Ok(())
}
