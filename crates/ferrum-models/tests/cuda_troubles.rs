//! What goes wrong with a card, or with the libraries and folders beside it, is told in words, and does no
//! more harm than it must.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use anyhow::{Context, Result, ensure};
use ferrum_models::cuda::Warn;
use ferrum_models::synth::SynthSpec;
use ferrum_models::{Device, LoadOptions, StepInput, load};
use support::synthetic;

fn options(card: usize) -> LoadOptions {
    LoadOptions { device: Device::Cuda(card), context: Some(64), ..LoadOptions::default() }
}

/// Two heads of keys and values, so that ranks can share them.
fn spec() -> Result<SynthSpec> {
    Ok(SynthSpec { kv_heads: 2, ..SynthSpec::preset("llama3-tiny").context("a preset")? })
}

fn one_token(token: i32) -> StepInput {
    StepInput {
        tokens: vec![token],
        positions: vec![0],
        query_starts: vec![0, 1],
        kv_lens: vec![1],
        block_tables: vec![0],
        blocks_per_seq: 1,
        sample_rows: vec![0],
        adapters: Vec::new(),
    }
}

/// On a machine that has no NCCL itself.
#[test]
fn without_nccl_several_cards_are_refused_and_one_works() -> Result<()> {
    ferrum_cuda_emulator::load_without_nccl()?;
    let model = synthetic(&spec()?)?;
    let several = LoadOptions { tensor_parallel: 2, ..options(0) };
    let error = load(&model, &several).err().context("there is no NCCL")?.to_string();
    let expected = "the cuda backend does not support several cards at once: NCCL's library \
                    (libnccl.so) is not installed";
    ensure!(error == expected, "{error}");
    load(&model, &options(0))?.step(&one_token(3))?;
    Ok(())
}

#[test]
fn a_card_that_is_lost_is_a_failure_for_good() -> Result<()> {
    ferrum_cuda_emulator::load_without_nccl()?;
    let mut runner = load(&synthetic(&spec()?)?, &options(2))?;
    runner.step(&one_token(3))?;
    // What is refused does the card no harm.
    ensure!(runner.step(&one_token(-1)).is_err() && runner.failure().is_none());
    runner.step(&one_token(3))?;
    ferrum_cuda_emulator::break_device(2);
    ensure!(runner.step(&one_token(3)).is_err());
    let why = runner.failure().context("it is lost")?;
    ensure!(why.contains("ILLEGAL_ADDRESS"), "{why}");
    Ok(())
}

#[test]
fn a_folder_that_keeps_no_kernels_is_told_once() -> Result<()> {
    ferrum_cuda_emulator::load_without_nccl()?;
    let (to, told) = std::sync::mpsc::channel();
    let file = tempfile::NamedTempFile::new()?;
    let folder = file.path().join("kernels");
    let options = LoadOptions {
        kernel_cache: Some(folder.clone()),
        warn: Warn::to(move |what| to.send(what.to_string()).expect("heard")),
        ..options(4)
    };
    load(&synthetic(&spec()?)?, &options)?.step(&one_token(3))?;
    let told: Vec<String> = told.try_iter().collect();
    ensure!(told.len() == 1, "{told:?}");
    let (name, reason) = (folder.display().to_string(), "Not a directory");
    ensure!(told[0].contains(&name) && told[0].contains(reason), "{told:?}");
    Ok(())
}
