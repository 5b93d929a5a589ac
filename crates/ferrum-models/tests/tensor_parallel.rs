//! One model on several ranks: what it writes is what it writes on one, and what goes wrong on a rank is
//! an error of the step.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrum_models::convert::{Conversion, ConvertOptions, Quant};
use ferrum_models::gguf::Gguf;
use ferrum_models::synth::SynthSpec;
use ferrum_models::{
    Checkpoint, Device, KernelError, KvDType, LoadOptions, LoraSource, ModelError, Runner,
    StepInput, checkpoint, load, memory_estimate,
};
use support::hf::{Golden, distance};
use support::{Sequence, step};

/// Tokens of the prompts: within a block, over its end, and over two of them.
const PROMPTS: [usize; 3] = [5, 37, 70];
/// Steps that decode.
const WRITTEN: usize = 8;

/// A preset; Gemma's with a second head of keys and values, so that they can be shared out.
fn spec(preset: &str) -> Result<SynthSpec> {
    let spec = SynthSpec::preset(preset).context("no such preset")?;
    Ok(SynthSpec { kv_heads: spec.kv_heads.max(2), ..spec })
}

fn synthetic(spec: &SynthSpec) -> Result<Gguf> {
    let file = tempfile::NamedTempFile::new()?;
    spec.write(std::io::BufWriter::new(file.reopen()?))?.flush()?;
    Ok(Gguf::open(file.path())?)
}

/// The model with its weights in another format.
fn converted(model: &Gguf, quant: Quant) -> Result<Gguf> {
    let options = ConvertOptions { quant: Some(quant), threads: 2, ..ConvertOptions::default() };
    let file = tempfile::NamedTempFile::new()?;
    Conversion::plan(model, &options)?.write(file.reopen()?, &mut |_| true)?;
    Ok(Gguf::open(file.path())?)
}

fn options(ranks: usize) -> LoadOptions {
    LoadOptions {
        tensor_parallel: ranks,
        context: Some(96),
        max_seqs: PROMPTS.len(),
        step_tokens: 48,
        ..LoadOptions::default()
    }
}

/// Index of the highest value, the first of equals.
fn argmax(values: &[f32]) -> u32 {
    let best = values.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(i, _)| i as u32)
}

/// Reads the prompts in chunks, of which the steps of the longest have others' decodes in them, then
/// writes greedily: the logits of every step.
fn write(runner: &mut dyn Runner) -> Result<Vec<Vec<f32>>> {
    let (vocab, blocks) = (runner.limits().vocab, runner.limits().kv_blocks);
    let token = |i: usize| (i * 7919 % (vocab - 10) + 3) as u32;
    let sequence = |(i, &len): (usize, &usize)| {
        let tokens: Vec<u32> = (0..len).map(|t| token(t + 100 * i)).collect();
        Sequence::new(&tokens, i, PROMPTS.len(), blocks)
    };
    let mut sequences: Vec<Sequence> = PROMPTS.iter().enumerate().map(sequence).collect();
    let mut all = Vec::new();
    for chunks in [[5, 37, 0], [1, 1, 40], [1, 1, 30]].into_iter().chain([[1; 3]; WRITTEN]) {
        let logits = step(runner, &mut sequences, &chunks)?;
        let active = sequences.iter_mut().zip(chunks).filter(|(_, chunk)| *chunk > 0);
        for ((sequence, _), logits) in active.zip(&logits) {
            if sequence.computed == sequence.tokens.len() {
                sequence.tokens.push(argmax(logits));
            }
        }
        all.extend(logits);
    }
    Ok(all)
}

/// The model writes the same on so many ranks, its logits as near as another order of summation lets
/// them be.
fn check(model: &Gguf, ranks: &[usize], bound: f32) -> Result<()> {
    let expected = write(load(model, &options(1))?.as_mut())?;
    ensure!(
        expected.iter().any(|logits| argmax(logits) != argmax(&expected[0])),
        "always one token"
    );
    for &ranks in ranks {
        let got = write(load(model, &options(ranks))?.as_mut())?;
        ensure!(got.len() == expected.len());
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let distance = distance(got, expected);
            println!("{ranks} ranks, row {i}: {distance:.2e}");
            ensure!(distance < bound, "{ranks} ranks, row {i}: {distance:.2e}");
            ensure!(argmax(got) == argmax(expected), "{ranks} ranks, row {i}: another token");
        }
    }
    Ok(())
}

/// Weights of 16 bits meet activations as they are, so that only sums are ordered otherwise.
const EXACT: f32 = 1e-4;

#[test]
fn llama_is_the_same_on_two_ranks() -> Result<()> {
    check(&synthetic(&spec("llama3-tiny")?)?, &[2], EXACT)?;
    // With an output head of its own.
    check(&synthetic(&spec("llama-tiny")?)?, &[2], EXACT)
}
