//! Logits beside llama.cpp's, for prompts that cross chunks, blocks and the sliding window.
//!
//! The golden files were made by `tools/golden/llama_reference.py logits` with llama-cpp-python
//! 0.3.36: KV cache in f16, flash attention. The bound of 0.999 is tight for Gemma 3 at 1,200
//! tokens, where llama.cpp with and without flash attention differ by 0.9989.

mod support;

use anyhow::{Context, Result, ensure};
use ferrum_models::{Device, LoadOptions, Runner};
use serde::Deserialize;
use support::{cosine, prefill, real_model, synthetic_model};

#[derive(Deserialize)]
struct Golden {
    stride: usize,
    prompts: Vec<GoldenPrompt>,
}

#[derive(Deserialize)]
struct GoldenPrompt {
    tokens: Vec<u32>,
    /// Ids of the highest logits, the highest first.
    top: Vec<usize>,
    top_logits: Vec<f32>,
    /// Every `stride`-th logit.
    sampled_logits: Vec<f32>,
}

/// Both engines round activations to 8 bits, each in its own way; a lead smaller than this can
/// change hands.
const NOISE: f32 = 0.35;

fn options(device: Device) -> LoadOptions {
    LoadOptions { device, context: Some(2048), ..LoadOptions::default() }
}

fn check(alias: &str, golden: &str, device: Device, longest: usize) -> Result<()> {
    check_runner(alias, real_model(alias, &options(device))?, golden, longest)
}

/// A preset of [`ferrum_models::synth`], which llama.cpp read from the file that
/// `cargo xtask synth` writes: the same bytes.
fn check_synthetic(preset: &str, golden: &str, device: Device) -> Result<()> {
    check_runner(preset, synthetic_model(preset, &options(device))?, golden, 1200)
}

fn check_runner(
    name: &str,
    mut runner: Box<dyn Runner>,
    golden: &str,
    longest: usize,
) -> Result<()> {
    let golden: Golden = serde_json::from_str(golden)?;
    for prompt in golden.prompts.iter().filter(|p| p.tokens.len() <= longest) {
        let logits = prefill(runner.as_mut(), &prompt.tokens, 512)?;
        compare(&golden, prompt, &logits)
            .with_context(|| format!("{name}, {} tokens", prompt.tokens.len()))?;
    }
    Ok(())
}

fn compare(golden: &Golden, prompt: &GoldenPrompt, logits: &[f32]) -> Result<()> {
    let sampled: Vec<f32> = logits.iter().copied().step_by(golden.stride).collect();
    let top: Vec<f32> = prompt.top.iter().map(|&id| logits[id]).collect();
    let (sampled, top) =
        (cosine(&sampled, &prompt.sampled_logits), cosine(&top, &prompt.top_logits));
    let (best, lead) = (argmax(logits), prompt.top_logits[0] - prompt.top_logits[1]);
    println!(
        "{} tokens: cosine {sampled:.6}, of the top 64 {top:.6}; top-1 {best}, llama.cpp's {} by {lead:.3}",
        prompt.tokens.len(),
        prompt.top[0],
    );
    ensure!(sampled >= 0.999, "cosine {sampled}");
    ensure!(top >= 0.999, "cosine of the top 64 {top}");
    ensure!(best == prompt.top[0] || lead < NOISE, "top-1 {best}, expected {}", prompt.top[0]);
    Ok(())
}

/// Index of the highest value, the first of equals.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

#[test]
fn smollm2_on_the_cpu() -> Result<()> {
    check("smollm2", include_str!("data/logits-smollm2.json"), Device::Cpu, 1200)
}

#[test]
fn gemma3_on_the_cpu() -> Result<()> {
    check("gemma3", include_str!("data/logits-gemma3.json"), Device::Cpu, 1200)
}

// The oracle is slow; 300 tokens cross blocks and chunks.
#[test]
fn smollm2_on_the_reference() -> Result<()> {
    check("smollm2", include_str!("data/logits-smollm2.json"), Device::Reference, 300)
}

#[test]
fn gemma3_on_the_reference() -> Result<()> {
    check("gemma3", include_str!("data/logits-gemma3.json"), Device::Reference, 17)
}

macro_rules! synthetic {
    ($($test:ident: $preset:literal),*) => {
        $(
            #[test]
            fn $test() -> Result<()> {
                let golden = include_str!(concat!("data/logits-", $preset, ".json"));
                check_synthetic($preset, golden, Device::Cpu)?;
                check_synthetic($preset, golden, Device::Reference)
            }
        )*
    };
}

synthetic!(
    synthetic_llama3: "llama3-tiny",
    synthetic_qwen2: "qwen2-tiny",
    synthetic_qwen3: "qwen3-tiny",
    synthetic_qwen3moe: "qwen3moe-tiny",
    synthetic_gemma3: "gemma3-tiny"
);
