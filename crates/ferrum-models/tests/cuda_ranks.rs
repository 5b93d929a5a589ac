//! Tiny models on two emulated NVIDIA cards, joined by an emulated NCCL: what they write is what one
//! processor writes, in every order in which cards may run, with steps recorded and replayed on both.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use anyhow::{Context, Result, ensure};
use ferrum_cuda_emulator::DEVICES;
use ferrum_models::synth::SynthSpec;
use ferrum_models::{Device, LoadOptions, load, memory_estimate};
use support::cards::{self, cards};
use support::greedy::{PROMPTS, argmax, write};
use support::hf::distance;
use support::{failing::Failing, synthetic};

/// Tokens that are written. The second step of a shape is recorded, later ones are replayed.
const WRITTEN: usize = 6;

fn options(device: Device, ranks: usize) -> LoadOptions {
    LoadOptions {
        device,
        tensor_parallel: ranks,
        context: Some(96),
        max_seqs: PROMPTS.len(),
        exact: device != Device::Cpu,
        ..LoadOptions::default()
    }
}

fn check(preset: &str) -> Result<()> {
    let spec = SynthSpec::preset(preset).context("no such preset")?;
    let model = synthetic(&SynthSpec { kv_heads: spec.kv_heads.max(2), ..spec })?;
    let expected = write(load(&model, &options(Device::Cpu, 1))?.as_mut(), WRITTEN)?;
    // Each with the card after it, which has the same schedule.
    for card in cards()? {
        let order = ferrum_cuda_emulator::schedule(card);
        let got = write(load(&model, &options(Device::Cuda(card), 2))?.as_mut(), WRITTEN)?;
        ensure!(got.len() == expected.len());
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let distance = distance(got, expected);
            println!("{order:?}: row {i}: {distance:.2e}");
            ensure!(distance < 1e-3, "{order:?}: row {i}: {distance:.2e}");
            ensure!(argmax(got) == argmax(expected), "{order:?}: row {i}: another token");
        }
    }
    Ok(())
}

// One test: an error that one makes would stay with the cards of the others.
#[test]
fn two_cards_write_what_a_processor_writes() -> Result<()> {
    for preset in ["llama3-tiny", "qwen3moe-tiny", "gemma3-tiny"] {
        check(preset).context(preset)?;
    }
    if cards::are_real() {
        return Ok(());
    }
    too_few_cards()?;
    a_card_that_fails_at_load()
}

fn too_few_cards() -> Result<()> {
    let model = synthetic(&SynthSpec::preset("llama3-tiny").context("no such preset")?)?;
    let (last, has) = (DEVICES - 1, format!("has {DEVICES}"));
    let beyond = format!("cards {last} to {DEVICES}");
    for (first, named) in [(last, beyond.as_str()), (usize::MAX, "cards")] {
        let options = options(Device::Cuda(first), 2);
        let error = load(&model, &options).err().context("it was loaded")?.to_string();
        ensure!(error.contains(named) && error.contains(&has), "{error}");
    }
    // What is told of memory is that of one card.
    let [one, two] = [1, 2].map(|ranks| memory_estimate(&model, &options(Device::Cuda(0), ranks)));
    let (one, two) = (one?, two?);
    ensure!(2 * two.kv_cache == one.kv_cache);
    ensure!(two.weights < one.weights * 11 / 20, "{} of {}", two.weights, one.weights);
    Ok(())
}

/// The other card waits for it in its first step, and must not wait for ever.
fn a_card_that_fails_at_load() -> Result<()> {
    let model = synthetic(&SynthSpec::preset("llama3-tiny").context("no such preset")?)?;
    let model = Failing::new(&model, "output_norm.weight", 1);
    let error = load(&model, &options(Device::Cuda(0), 2)).err().context("it was loaded")?;
    ensure!(error.to_string().contains("output_norm.weight"), "{error}");
    Ok(())
}
