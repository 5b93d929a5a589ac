//! Folders with floats of eight bits on emulated cards: kept as they are where tensor cores multiply them.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use anyhow::{Context, Result, ensure};
use ferrum_kernels::E4m3;
use ferrum_models::{Checkpoint, Device, LoadOptions, load, memory_estimate};
use serde_json::{Value, json};
use support::hf::{Golden, distance, options};
use support::prefill;
use support::quantized::{Quantize, Tensor, floats, folders};

/// More than kernels for few tokens take.
const PROMPT: usize = 90;

/// The nearest floats of eight bits to rows with these scales.
fn rounded(values: &[f32], cols: usize, scales: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut meant) = (Vec::new(), Vec::new());
    for (i, v) in values.iter().enumerate() {
        let scale = scales[i / cols % scales.len()];
        let code = E4m3::from_f32(v / scale);
        bytes.push(code.to_bits());
        meant.push(code.to_f32() * scale);
    }
    (bytes, meant)
}

/// By which the largest of these is the largest float of eight bits.
fn scale(values: &[f32]) -> f32 {
    values.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 448.0
}

/// compressed-tensors: a scale for each row.
fn channel(module: &str, values: &[f32], [rows, cols]: [usize; 2]) -> (Vec<Tensor>, Vec<f32>) {
    let scales: Vec<f32> = values.chunks_exact(cols).map(scale).collect();
    let (bytes, meant) = rounded(values, cols, &scales);
    let tensors = vec![
        (format!("{module}.weight"), "F8_E4M3", vec![rows, cols], bytes),
        (format!("{module}.weight_scale"), "F32", vec![rows, 1], floats(&scales)),
    ];
    (tensors, meant)
}

/// One scale for all.
fn tensor(module: &str, values: &[f32], [rows, cols]: [usize; 2]) -> (Vec<Tensor>, Vec<f32>) {
    let scales = [scale(values)];
    let (bytes, meant) = rounded(values, cols, &scales);
    let tensors = vec![
        (format!("{module}.weight"), "F8_E4M3", vec![rows, cols], bytes),
        (format!("{module}.weight_scale"), "F32", vec![], floats(&scales)),
    ];
    (tensors, meant)
}

fn channel_settings() -> Value {
    let weights = json!({"num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel"});
    let group = json!({"group_0": {"targets": ["Linear"], "weights": weights}});
    json!({"quant_method": "compressed-tensors", "format": "float-quantized",
           "config_groups": group, "ignore": ["lm_head"]})
}

const LLAMA: &str = include_str!("data/hf/llama.json");
const MIXTURE: &str = include_str!("data/hf/qwen3-moe.json");

fn with_card(ordinal: usize, exact: bool) -> LoadOptions {
    let device = Device::Cuda(ordinal);
    LoadOptions { exact, ..long(device) }
}

fn long(device: Device) -> LoadOptions {
    LoadOptions { context: Some(128), step_tokens: PROMPT, ..options(device) }
}

/// Logits after the prompt, which is read in such chunks.
fn logits(model: &dyn Checkpoint, options: &LoadOptions, chunk: usize) -> Result<Vec<f32>> {
    let tokens: Vec<u32> = (0..PROMPT as u32).map(|i| i * 37 % 120 + 3).collect();
    prefill(load(model, options)?.as_mut(), &tokens, chunk)
}

/// The bounds. In chunks of few tokens nothing is rounded but to single precision and to two numbers of 16
/// bits. At once each activation is rounded by at most 2^-4 of itself, by 2.5 % in the mean. The errors of
/// the linears that lie one behind the other, eight, add up in squares, to 7 % of the logits; that of the
/// worst of 128 is three times as large, and so is the largest logit.
fn check(golden: &str, settings: Value, quantize: Quantize) -> Result<()> {
    let golden: Golden = serde_json::from_str(golden)?;
    let folder = tempfile::tempdir()?;
    let [quantized, plain] = folders(&golden, settings, quantize, folder.path())?;
    let model = quantized.as_ref();
    let expected = logits(plain.as_ref(), &long(Device::Reference), PROMPT)?;
    ferrum_cuda_emulator::load()?;
    let old = with_card(0, false);
    let eight_bits = logits(model, &old, PROMPT)?;
    for card in ferrum_cuda_emulator::WITH_FP8 {
        let options = with_card(card, false);
        let few = logits(model, &options, 9)?;
        let many = logits(model, &options, PROMPT)?;
        let (of_few, of_many) = (distance(&few, &expected), distance(&many, &expected));
        println!(
            "card {card}: {of_few:.2e}, {of_many:.2e}; Q8_0 {:.2e}",
            distance(&eight_bits, &expected)
        );
        ensure!(of_few < 1e-4, "card {card}: {of_few:.2e} with few tokens");
        ensure!((1e-3..0.15).contains(&of_many), "card {card}: {of_many:.2e} with many tokens");
    }
    // Elsewhere they become Q8_0.
    let exact = with_card(ferrum_cuda_emulator::WITH_FP8[0], true);
    ensure!(logits(model, &exact, PROMPT)? == eight_bits, "another format with --exact");
    let weights = |options: &LoadOptions| memory_estimate(model, options).map(|all| all.weights);
    ensure!(weights(&exact)? == weights(&old)?);
    ensure!(weights(&with_card(ferrum_cuda_emulator::WITH_FP8[0], false))? < weights(&old)?);
    Ok(())
}

#[test]
fn scales_of_rows() -> Result<()> {
    check(LLAMA, channel_settings(), channel)
}

#[test]
fn scales_of_tensors() -> Result<()> {
    check(LLAMA, json!({"quant_method": "fp8"}), tensor)
}

#[test]
fn experts() -> Result<()> {
    check(MIXTURE, channel_settings(), channel)
}

/// Each rank has its rows' scales, and all of them of its columns.
#[test]
fn several_ranks() -> Result<()> {
    let golden: Golden = serde_json::from_str(LLAMA)?;
    let folder = tempfile::tempdir()?;
    let [quantized, plain] = folders(&golden, channel_settings(), channel, folder.path())?;
    let expected = logits(plain.as_ref(), &long(Device::Reference), PROMPT)?;
    ferrum_cuda_emulator::load()?;
    let ranks = LoadOptions { tensor_parallel: 2, ..with_card(6, false) };
    let distance = distance(&logits(quantized.as_ref(), &ranks, 9)?, &expected);
    ensure!(distance < 1e-4, "{distance:.2e}");
    Ok(())
}

/// What is no number is refused, and where it is said.
#[test]
fn what_is_no_number() -> Result<()> {
    fn broken(module: &str, values: &[f32], shape: [usize; 2]) -> (Vec<Tensor>, Vec<f32>) {
        let (mut tensors, meant) = channel(module, values, shape);
        if module.ends_with("layers.1.mlp.up_proj") {
            tensors[0].3[777] = 0xff;
        }
        (tensors, meant)
    }
    let golden: Golden = serde_json::from_str(LLAMA)?;
    let folder = tempfile::tempdir()?;
    let [quantized, _] = folders(&golden, channel_settings(), broken, folder.path())?;
    ferrum_cuda_emulator::load()?;
    for card in [0, 6] {
        let loaded = load(quantized.as_ref(), &with_card(card, false)).map(|_| ());
        let error = loaded.err().context("no error")?.to_string();
        ensure!(error.contains("layers.1.mlp.up_proj"), "card {card}: {error}");
    }
    Ok(())
}
