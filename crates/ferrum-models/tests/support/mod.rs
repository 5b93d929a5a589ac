//! Drives a [`Runner`] without an engine: one place that lays out steps for the tests.
#![allow(dead_code, reason = "each test uses a part")]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod cards;
pub mod failing;
pub mod filled;
pub mod greedy;
pub mod hf;
pub mod quantized;

use std::io::Write;

use anyhow::{Context, Result};
use ferrum_models::gguf::Gguf;
use ferrum_models::runner::Runner;
use ferrum_models::synth::SynthSpec;
use ferrum_models::{KV_BLOCK_SIZE, LoadOptions, StepInput};

/// Loads a model of the catalogue, downloading it first where it is not in the store.
pub fn real_model(alias: &str, options: &LoadOptions) -> Result<Box<dyn Runner>> {
    let path = ferrum_hub::testing::fetch_alias(alias)?;
    let file = Gguf::open(&path)?;
    ferrum_models::load(&file, options).context(path.display().to_string())
}

/// Loads a preset of [`ferrum_models::synth`].
#[allow(dead_code, reason = "not every test that shares this module has one")]
pub fn synthetic_model(preset: &str, options: &LoadOptions) -> Result<Box<dyn Runner>> {
    let spec = SynthSpec::preset(preset).context("no such preset")?;
    Ok(ferrum_models::load(&synthetic(&spec)?, options)?)
}

/// A synthetic model's file, which nobody else sees.
pub fn synthetic(spec: &SynthSpec) -> Result<Gguf> {
    let file = tempfile::NamedTempFile::new()?;
    spec.write(std::io::BufWriter::new(file.reopen()?))?.flush()?;
    Ok(Gguf::open(file.path())?)
}

/// A sequence as the tests keep it: its tokens, and how many of them the cache holds.
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub computed: usize,
    /// Blocks of the pool, in an order that is not the pool's.
    pub blocks: Vec<usize>,
    /// Number of its adapter.
    pub adapter: i32,
}

impl Sequence {
    /// Sequence `index` of `count`, with its share of a pool of `kv_blocks`: every `count`-th
    /// block, the last first, so that a block table read in the wrong order shows.
    pub fn new(tokens: &[u32], index: usize, count: usize, kv_blocks: usize) -> Self {
        let blocks = (0..kv_blocks).rev().filter(|b| b % count == index).collect();
        Sequence { tokens: tokens.to_vec(), computed: 0, blocks, adapter: 0 }
    }
}

/// Runs the next `chunks[i]` tokens of sequence `i` in one packed step (none where the chunk is 0)
/// and returns the logits after each sequence's last token of the step.
pub fn step(
    runner: &mut dyn Runner,
    sequences: &mut [Sequence],
    chunks: &[usize],
) -> Result<Vec<Vec<f32>>> {
    let vocab = runner.limits().vocab;
    let logits = runner.step(&pack(sequences, chunks))?;
    Ok(logits.chunks_exact(vocab).map(<[f32]>::to_vec).collect())
}

/// Lays out that step, and books its tokens as computed.
pub fn pack(sequences: &mut [Sequence], chunks: &[usize]) -> StepInput {
    let mut input = StepInput { query_starts: vec![0], ..StepInput::default() };
    let active: Vec<_> = sequences.iter_mut().zip(chunks).filter(|(_, c)| **c > 0).collect();
    let longest = active.iter().map(|(s, c)| s.computed + **c).max().unwrap_or(0);
    input.blocks_per_seq = longest.div_ceil(KV_BLOCK_SIZE);
    for (sequence, &chunk) in active {
        let range = sequence.computed..sequence.computed + chunk;
        input.tokens.extend(sequence.tokens[range.clone()].iter().map(|&t| t as i32));
        input.positions.extend(range.clone().map(|p| p as i32));
        input.query_starts.push(input.tokens.len() as i32);
        input.kv_lens.push(range.end as i32);
        input.adapters.push(sequence.adapter);
        let used = range.end.div_ceil(KV_BLOCK_SIZE);
        let table =
            (0..input.blocks_per_seq).map(|i| if i < used { sequence.blocks[i] as i32 } else { 0 });
        input.block_tables.extend(table);
        input.sample_rows.push(input.tokens.len() as i32 - 1);
        sequence.computed = range.end;
    }
    input
}

/// Logits after the last of `tokens`, read in chunks of `chunk`.
pub fn prefill(runner: &mut dyn Runner, tokens: &[u32], chunk: usize) -> Result<Vec<f32>> {
    let kv_blocks = runner.limits().kv_blocks;
    let mut sequence = [Sequence::new(tokens, 0, 1, kv_blocks)];
    let mut last = Vec::new();
    while sequence[0].computed < tokens.len() {
        let left = tokens.len() - sequence[0].computed;
        last = step(runner, &mut sequence, &[chunk.min(left)])?.swap_remove(0);
    }
    Ok(last)
}

/// Cosine of the angle between two vectors, in `f64`.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
