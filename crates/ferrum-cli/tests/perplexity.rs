//! Perplexity of the real models beside llama.cpp's, on the opening chapters of "The Adventures of Tom
//! Sawyer" (Mark Twain, 1876; public domain): over 11,000 tokens, context 512.
//!
//! The references were made with llama-cpp-python 0.3.36 on the same file by
//! `tools/golden/llama_reference.py perplexity MODEL tools/golden/tom_sawyer.txt --context 512`.

use std::path::Path;
use std::process::Command;

/// llama.cpp and Ferrum may differ by half a percent.
const TOLERANCE: f64 = 0.005;

fn perplexity(alias: &str) -> f64 {
    let model = ferrum_hub::testing::fetch_alias(alias).expect("the model");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/golden/tom_sawyer.txt");
    let output = Command::new(env!("CARGO_BIN_EXE_ferrum"))
        .args(["perplexity".as_ref(), model.as_os_str(), text.as_os_str()])
        .args(["--context", "512"])
        .output()
        .expect("ferrum runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    let last = out.lines().last().unwrap_or_default();
    let value = last.split_whitespace().nth(1).and_then(|v| v.parse().ok());
    value.unwrap_or_else(|| panic!("no value in the last line: {last:?}"))
}

fn check(alias: &str, reference: f64) {
    let value = perplexity(alias);
    let off = value / reference - 1.0;
    assert!(
        off.abs() <= TOLERANCE,
        "{alias}: {value}, llama.cpp {reference}: {:+.2} %",
        100.0 * off
    );
}

#[test]
fn smollm2() {
    check("smollm2", 31.7498);
}

#[test]
fn gemma3() {
    check("gemma3", 30.4235);
}
