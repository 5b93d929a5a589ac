//! Logits beside llama.cpp's, for prompts that cross chunks, blocks and the sliding window.
//!
//! The golden files were made by `tools/golden/llama_reference.py logits` with llama-cpp-python
//! 0.3.36, KV cache in f16.

mod support;

use anyhow::{Context, Result, ensure};
use ferrum_models::{Device, LoadOptions};
use serde::Deserialize;
use support::{argmax, cosine, prefill, real_model};

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

fn check(alias: &str, golden: &str, device: Device, longest: usize) -> Result<()> {
    let golden: Golden = serde_json::from_str(golden)?;
    let options = LoadOptions { device, context: Some(2048), ..LoadOptions::default() };
    let mut runner = real_model(alias, &options)?;
    for prompt in golden.prompts.iter().filter(|p| p.tokens.len() <= longest) {
        let logits = prefill(runner.as_mut(), &prompt.tokens, 512)?;
        compare(&golden, prompt, &logits)
            .with_context(|| format!("{alias}, {} tokens, {device:?}", prompt.tokens.len()))?;
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
