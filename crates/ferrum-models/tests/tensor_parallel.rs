//! One model on several ranks: what it writes is what it writes on one, and what goes wrong on a rank is
//! an error of the step.

mod support;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrum_models::convert::{Conversion, ConvertOptions, Quant};
use ferrum_models::gguf::Gguf;
use ferrum_models::synth::SynthSpec;
use ferrum_models::{
    Checkpoint, Device, KernelError, KvDType, LoadOptions, LoraSource, Runner, StepInput,
    checkpoint, load, memory_estimate,
};
use support::greedy::{PROMPTS, argmax, sequences};
use support::hf::{Golden, distance};
use support::{Sequence, failing::Failing, prefill, step, synthetic};

/// Steps that decode.
const WRITTEN: usize = 8;

/// A preset; Gemma's with a second head of keys and values, so that they can be shared out.
fn spec(preset: &str) -> Result<SynthSpec> {
    let spec = SynthSpec::preset(preset).context("no such preset")?;
    Ok(SynthSpec { kv_heads: spec.kv_heads.max(2), ..spec })
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

/// Reads the prompts in chunks, of which the steps of the longest have others' decodes in them, then
/// writes what is likeliest by its own logits, or by those of another run: the logits of every step.
fn write(runner: &mut dyn Runner, other: Option<&[Vec<f32>]>) -> Result<Vec<Vec<f32>>> {
    let mut sequences = sequences(runner);
    let mut all: Vec<Vec<f32>> = Vec::new();
    for chunks in [[5, 37, 0], [1, 1, 40], [1, 1, 30]].into_iter().chain([[1; 3]; WRITTEN]) {
        let first = all.len();
        all.extend(step(runner, &mut sequences, &chunks)?);
        let active = sequences.iter_mut().zip(chunks).filter(|(_, chunk)| *chunk > 0);
        let rows = other.unwrap_or(&all).get(first..).context("fewer steps")?;
        for ((sequence, _), logits) in active.zip(rows) {
            if sequence.computed == sequence.tokens.len() {
                sequence.tokens.push(argmax(logits));
            }
        }
    }
    Ok(all)
}

/// How near logits on several ranks are to those on one.
#[derive(Clone, Copy)]
struct Nearness {
    device: Device,
    kv_dtype: KvDType,
    /// The largest difference over the largest logit.
    bound: f32,
    /// The same text, too.
    text: bool,
}

/// Weights of 16 bits meet activations as they are, so that only sums are ordered otherwise.
const EXACT: Nearness =
    Nearness { device: Device::Cpu, kv_dtype: KvDType::F32, bound: 1e-4, text: true };

/// The model writes the same on so many ranks.
fn check(model: &Gguf, ranks: &[usize], near: Nearness) -> Result<()> {
    let Nearness { device, kv_dtype, .. } = near;
    let load = |ranks| load(model, &LoadOptions { device, kv_dtype, ..options(ranks) });
    let expected = write(load(1)?.as_mut(), None)?;
    let first = argmax(&expected[0]);
    ensure!(expected.iter().any(|logits| argmax(logits) != first), "always one token");
    for &ranks in ranks {
        let got = write(load(ranks)?.as_mut(), Some(&expected))?;
        ensure!(got.len() == expected.len());
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let distance = distance(got, expected);
            println!("{ranks} ranks, row {i}: {distance:.2e}");
            ensure!(distance < near.bound, "{ranks} ranks, row {i}: {distance:.2e}");
            let same = argmax(got) == argmax(expected);
            ensure!(same || !near.text, "{ranks} ranks, row {i}: another token");
        }
    }
    Ok(())
}

#[test]
fn llama_is_the_same_on_two_ranks() -> Result<()> {
    check(&synthetic(&spec("llama3-tiny")?)?, &[2], EXACT)?;
    // With an output head of its own.
    check(&synthetic(&SynthSpec { ffn: 704, ..spec("llama-tiny")? })?, &[2], EXACT)
}

#[test]
fn biases_are_the_same_on_two_ranks() -> Result<()> {
    check(&synthetic(&spec("qwen2-tiny")?)?, &[2], EXACT)
}

#[test]
fn experts_are_the_same_on_two_and_four_ranks() -> Result<()> {
    let spec = SynthSpec { ffn: 256, ..spec("qwen3moe-tiny")? };
    check(&synthetic(&spec)?, &[2, 4], EXACT)
}

#[test]
fn norms_after_sublayers_are_the_same_on_two_ranks() -> Result<()> {
    check(&synthetic(&spec("gemma3-tiny")?)?, &[2], EXACT)
}

/// On a processor, activations meet quantised weights rounded to 8 bits, which a sum in another order
/// changes now and then; the reference has no such noise.
#[test]
fn quantised_weights_are_cut_between_blocks() -> Result<()> {
    let model = synthetic(&SynthSpec { ffn: 1024, ..spec("qwen3-tiny")? })?;
    let oracle = Nearness { device: Device::Reference, ..EXACT };
    let rounded = Nearness { kv_dtype: KvDType::F16, bound: 3e-2, text: false, ..EXACT };
    let small = converted(&model, Quant::Q4_0)?;
    check(&small, &[2, 4], oracle)?;
    check(&small, &[2, 4], rounded)?;
    // In blocks of 256 columns: eight heads of 64 are cut into two halves.
    let large = converted(&model, Quant::Q4_K_M)?;
    check(&large, &[2], oracle)?;
    check(&large, &[2], rounded)
}

/// Models of transformers, with its logits: fused projections, post-norms, caps, experts.
#[test]
fn models_of_transformers_on_two_ranks() -> Result<()> {
    for (name, golden) in [
        ("llama", include_str!("data/hf/llama.json")),
        ("mixtral", include_str!("data/hf/mixtral.json")),
        ("qwen2-window", include_str!("data/hf/qwen2-window.json")),
        ("qwen3-moe", include_str!("data/hf/qwen3-moe.json")),
        ("gemma2", include_str!("data/hf/gemma2.json")),
        ("gemma3", include_str!("data/hf/gemma3.json")),
        ("phi3", include_str!("data/hf/phi3.json")),
        ("granite", include_str!("data/hf/granite.json")),
        ("smollm3", include_str!("data/hf/smollm3.json")),
    ] {
        for device in [Device::Reference, Device::Cpu] {
            check_golden(&serde_json::from_str(golden)?, device).context(name)?;
        }
    }
    Ok(())
}

fn check_golden(golden: &Golden, device: Device) -> Result<()> {
    let folder = tempfile::tempdir()?;
    golden.write(folder.path(), 2)?;
    let model = checkpoint::open(folder.path())?;
    let kv_dtype = KvDType::F32;
    let options = LoadOptions { device, context: Some(64), kv_dtype, ..options(2) };
    let mut runner = load(model.as_ref(), &options)?;
    let tokens = [&golden.prompt[..], &golden.steps].concat();
    let blocks = runner.limits().kv_blocks;
    let mut sequence = [Sequence::new(&tokens, 0, 1, blocks)];
    for (i, expected) in golden.logits.iter().enumerate() {
        let chunk = if i == 0 { golden.prompt.len() } else { 1 };
        let got = step(runner.as_mut(), &mut sequence, &[chunk])?.swap_remove(0);
        let distance = distance(&got, expected);
        ensure!(distance < 1e-4, "step {i}: {distance:.2e} on {device:?}");
    }
    Ok(())
}

/// Why the model is not loaded with these options, and that its memory is not estimated either.
fn refusal(model: &dyn Checkpoint, options: &LoadOptions) -> Result<String> {
    let error = load(model, options).err().context("it was loaded")?.to_string();
    let estimate = memory_estimate(model, options).err().context("it was estimated")?.to_string();
    ensure!(error == estimate, "{error}, but {estimate}");
    Ok(error)
}

#[test]
fn what_cannot_be_shared_out_is_refused_by_name() -> Result<()> {
    let of = |spec: &SynthSpec, ranks| refusal(&synthetic(spec)?, &options(ranks));
    let moe = spec("qwen3moe-tiny")?;
    let named = |error: String, words: &[&str]| {
        ensure!(words.iter().all(|word| error.contains(word)), "{error}");
        Ok(())
    };
    let whole = "tensor parallelism over";
    named(of(&moe, 3)?, &[whole, "3 ranks", "8 query heads of layer 0"])?;
    named(of(&moe, 8)?, &[whole, "8 ranks", "4 key and value heads of layer 0"])?;
    let odd = SynthSpec { ffn: 226, ..moe.clone() };
    named(of(&odd, 4)?, &["226 values between the halves of the MLP of layer 0"])?;
    let blocks = synthetic(&SynthSpec { ffn: 768, ..spec("llama3-tiny")? })?;
    let blocks = converted(&blocks, Quant::Q4_K_M)?;
    named(refusal(&blocks, &options(2))?, &["attn_output.weight", "256 columns", "blocks of 256"])?;

    let golden: Golden = serde_json::from_str(include_str!("data/hf/olmo2.json"))?;
    let folder = tempfile::tempdir()?;
    golden.write(folder.path(), 1)?;
    let olmo = checkpoint::open(folder.path())?;
    let two = LoadOptions { context: Some(64), ..options(2) };
    named(refusal(olmo.as_ref(), &two)?, &["layer 0", "norms over all heads"])?;

    let model = synthetic(&spec("llama3-tiny")?)?;
    let lora = vec![LoraSource { path: folder.path().into(), scale: 1.0 }];
    named(refusal(&model, &LoadOptions { lora, ..options(2) })?, &["LoRA"])?;
    let threads = LoadOptions { threads: Some(1), ..options(2) };
    named(refusal(&model, &threads)?, &["--threads 1 for 2 ranks"])?;
    named(refusal(&model, &options(0))?, &["0 ranks"])
}

#[test]
fn memory_is_shared_out() -> Result<()> {
    let model = synthetic(&SynthSpec { vocab: 1001, ..spec("llama3-tiny")? })?;
    let [one, two] = [1, 2].map(|ranks| memory_estimate(&model, &options(ranks)));
    let (one, two) = (one?, two?);
    ensure!(one.kv_cache == two.kv_cache, "each position and head is kept once");
    // What both have: the norms, and a row of zeros each.
    let more = two.weights - one.weights;
    ensure!(more < one.weights / 50, "{more} more than {}", one.weights);
    ensure!(one.vocabulary == two.vocabulary);
    Ok(())
}

/// Steps that no rank takes leave the model as it was.
#[test]
fn wrong_steps_are_refused_before_any_rank_begins() -> Result<()> {
    let model = synthetic(&spec("llama3-tiny")?)?;
    let mut runner = load(&model, &options(2))?;
    let good = StepInput {
        tokens: vec![1, 2, 3],
        positions: vec![0, 1, 2],
        query_starts: vec![0, 3],
        kv_lens: vec![3],
        block_tables: vec![0],
        blocks_per_seq: 1,
        sample_rows: vec![2, 0],
        adapters: Vec::new(),
    };
    let before = runner.step(&good)?.to_vec();
    ensure!(before.len() == 2 * runner.limits().vocab);
    for wrong in [
        StepInput { tokens: vec![1, 2, 1 << 20], ..good.clone() },
        StepInput { kv_lens: vec![400], ..good.clone() },
        StepInput { adapters: vec![1], ..good.clone() },
    ] {
        ensure!(matches!(runner.step(&wrong), Err(KernelError::Shape { .. })));
    }
    // Nothing to sample, then the same again.
    ensure!(runner.step(&StepInput { sample_rows: Vec::new(), ..good.clone() })?.is_empty());
    ensure!(runner.step(&good)? == before);
    let begun = Instant::now();
    drop(runner);
    ensure!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[test]
fn a_rank_that_cannot_load_is_an_error() -> Result<()> {
    let model = synthetic(&spec("llama3-tiny")?)?;
    let model = Failing::new(&model, "output_norm.weight", 1);
    let error = load(&model, &options(2)).err().context("it was loaded")?;
    ensure!(error.to_string().contains("output_norm.weight"), "{error}");
    Ok(())
}

/// Large sums are shared out between the ranks and small ones are not, which must not be seen.
#[test]
fn chunks_of_a_prompt_do_not_change_it() -> Result<()> {
    let model = synthetic(&spec("llama3-tiny")?)?;
    let tokens: Vec<u32> = (0..70).map(|i| i * 7919 % 1000 + 3).collect();
    let of = |chunk| prefill(load(&model, &options(2))?.as_mut(), &tokens, chunk);
    let whole = of(48)?;
    for chunk in [1, 7, 20] {
        ensure!(of(chunk)? == whole, "chunks of {chunk}");
    }
    Ok(())
}
