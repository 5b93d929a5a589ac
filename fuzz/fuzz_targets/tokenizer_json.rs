//! Fuzzes the reader of `tokenizer.json`: any bytes are refused, or make a tokenizer that survives a
//! text.
#![no_main]

use std::hint::black_box;

use ferrum_models::tokenizer::{Beside, Tokenizer};
use libfuzzer_sys::fuzz_target;
use serde_json::Map;

const TEXT: &str = "It's  a b\u{e9}\u{304b}<s> 123\n\n";

fuzz_target!(|file: &[u8]| {
    let beside = Beside { config: &Map::new(), ends: &[], tokens: None };
    match Tokenizer::from_json(file, &beside) {
        Ok(tokenizer) => {
            for ids in [tokenizer.encode_text(TEXT), tokenizer.encode_markup(TEXT)] {
                black_box(tokenizer.decode(&ids));
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
});
