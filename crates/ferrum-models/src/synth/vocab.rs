//! The vocabulary of synthetic models: byte-level BPE that covers any text.
//!
//! Tokens, in order: one for each byte; what the merges make; control tokens. Merges make a space
//! and a letter first, then pairs of letters, then pairs of pairs, common letters before rare ones.

use super::{SynthError, narrow};
use crate::gguf::GgufWriter;

/// Control tokens at the end of the vocabulary: end of text, and those of ChatML.
const CONTROLS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Letters by frequency in English text.
const LETTERS: &str = "etaoinshrdlucmfwypvbgkqjxz";

/// `Ġ`: how byte-level vocabularies write the space.
const SPACE: &str = "\u{120}";

/// The ChatML template: roles and turns between the control tokens.
const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Types of tokens, as GGUF numbers them.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Sets the tokenizer's metadata for a vocabulary of `count` tokens.
pub(super) fn metadata(file: &mut GgufWriter, pre: &str, count: usize) -> Result<(), SynthError> {
    let (least, all) = (256 + CONTROLS.len(), merges());
    let most = least + all.len();
    if count < least || count > most {
        return Err(SynthError::Vocab { vocab: count, least, most });
    }
    let merges = &all[..count - least];
    let mut tokens: Vec<String> = (0..=255).map(|byte| byte_char(byte).to_string()).collect();
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let mut types = vec![NORMAL; tokens.len()];
    tokens.extend(CONTROLS.map(str::to_string));
    types.resize(tokens.len(), CONTROL);
    let merges: Vec<String> = merges.iter().map(|(l, r)| format!("{l} {r}")).collect();

    let end_of_text = narrow("vocab", count - 3)?;
    file.set("tokenizer.ggml.model", "gpt2")?;
    file.set("tokenizer.ggml.pre", pre)?;
    file.set("tokenizer.ggml.tokens", tokens)?;
    file.set("tokenizer.ggml.token_type", types)?;
    file.set("tokenizer.ggml.merges", merges)?;
    file.set("tokenizer.ggml.bos_token_id", end_of_text)?;
    file.set("tokenizer.ggml.eos_token_id", end_of_text + 2)?;
    file.set("tokenizer.ggml.padding_token_id", end_of_text)?;
    file.set("tokenizer.ggml.add_bos_token", false)?;
    file.set("tokenizer.chat_template", CHAT_TEMPLATE)?;
    Ok(())
}

/// All merges, best first: 52 of a space and a letter, 676 of two letters, 676² of two pairs.
fn merges() -> Vec<(String, String)> {
    let lower: Vec<String> = LETTERS.chars().map(String::from).collect();
    let upper = lower.iter().map(|letter| letter.to_uppercase());
    let spaced = lower.iter().cloned().chain(upper).map(|letter| (SPACE.to_string(), letter));
    let pairs = product(&lower);
    let joined: Vec<String> = pairs.iter().map(|(left, right)| format!("{left}{right}")).collect();
    let fours = product(&joined);
    spaced.chain(pairs).chain(fours).collect()
}

/// Every pair of two of `parts`.
fn product(parts: &[String]) -> Vec<(String, String)> {
    parts.iter().flat_map(|l| parts.iter().map(|r| (l.clone(), r.clone()))).collect()
}

/// How byte-level vocabularies write a byte: itself where Latin-1 prints it, else one of the 68
/// characters from U+0100 in order (`bytes_to_unicode` in OpenAI's GPT-2 `encoder.py`, 2019).
fn byte_char(byte: u8) -> char {
    let prints = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if prints(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !prints(*b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}
