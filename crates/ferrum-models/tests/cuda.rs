//! Whole tiny models on emulated NVIDIA cards: what they write is what the processor writes, in
//! every order in which a card may run its blocks, warps and lanes; and what a recorded step gives
//! is what it gives anew.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use anyhow::{Result, ensure};
use ferrum_models::{Device, LoadOptions, Runner};
use support::hf::distance;
use support::{Sequence, step, synthetic_model};

/// Tokens of the prompts: within a block, over its end, and over two of them.
const PROMPTS: [usize; 3] = [5, 37, 70];
/// Tokens that are written. The second step of a shape is recorded, later ones are replayed.
const WRITTEN: usize = 8;

fn load(preset: &str, device: Device) -> Result<Box<dyn Runner>> {
    let options = LoadOptions {
        device,
        context: Some(96),
        max_seqs: PROMPTS.len(),
        ..LoadOptions::default()
    };
    synthetic_model(preset, &options)
}

/// Index of the highest value, the first of equals.
fn argmax(values: &[f32]) -> u32 {
    let best = values.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(i, _)| i as u32)
}

/// Reads the prompts in one step, then writes greedily: the logits of every step.
fn write(runner: &mut dyn Runner) -> Result<Vec<Vec<f32>>> {
    let (vocab, blocks) = (runner.limits().vocab, runner.limits().kv_blocks);
    let token = |i: usize| (i * 7919 % (vocab - 10) + 3) as u32;
    let mut sequences: Vec<Sequence> = PROMPTS
        .iter()
        .enumerate()
        .map(|(i, &len)| {
            let tokens: Vec<u32> = (0..len).map(|t| token(t + 100 * i)).collect();
            Sequence::new(&tokens, i, PROMPTS.len(), blocks)
        })
        .collect();
    let mut all = Vec::new();
    let mut chunks = PROMPTS;
    for _ in 0..=WRITTEN {
        let logits = step(runner, &mut sequences, &chunks)?;
        for (sequence, logits) in sequences.iter_mut().zip(&logits) {
            sequence.tokens.push(argmax(logits));
        }
        all.extend(logits);
        chunks = [1; 3];
    }
    Ok(all)
}

/// One of each schedule; or a real one, for `cargo xtask gpu-check`.
fn cards() -> Result<Vec<usize>> {
    if std::env::var("FERRUM_TEST_CUDA").is_ok_and(|which| which == "card") {
        return Ok(vec![0]);
    }
    ferrum_cuda_emulator::load()?;
    Ok(ferrum_cuda_emulator::ONE_OF_EACH_SCHEDULE.into())
}

fn check(preset: &str) -> Result<()> {
    let expected = write(load(preset, Device::Cpu)?.as_mut())?;
    for card in cards()? {
        let got = write(load(preset, Device::Cuda(card))?.as_mut())?;
        let order = ferrum_cuda_emulator::schedule(card);
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let (step, sequence) = (i / PROMPTS.len(), i % PROMPTS.len());
            let distance = distance(got, expected);
            println!("{order:?}: step {step}, sequence {sequence}: {distance:.2e}");
            ensure!(distance < 1e-3, "{order:?}: step {step}, sequence {sequence}: {distance:.2e}");
            ensure!(argmax(got) == argmax(expected), "{order:?}: step {step}: another token");
        }
    }
    Ok(())
}

#[test]
fn llama() -> Result<()> {
    check("llama3-tiny")
}

#[test]
fn qwen3_with_experts() -> Result<()> {
    check("qwen3moe-tiny")
}

#[test]
fn gemma3() -> Result<()> {
    check("gemma3-tiny")
}
