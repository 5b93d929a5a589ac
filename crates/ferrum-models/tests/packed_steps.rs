//! How a prompt is cut into steps, and what else is in them, does not change the logits: to the bit
//! nearly, or by what rounding to bfloat16 does where the processor has matrix products (AMX).

mod support;

use anyhow::Result;
use ferrum_models::cpu::Isa;
use ferrum_models::synth::SynthSpec;
use ferrum_models::{LoadOptions, Runner};
use support::{Sequence, prefill, real_model, step, synthetic_model};

const MODELS: [&str; 3] = ["smollm2", "gemma3", "qwen3moe-tiny"];

/// Token ids that the vocabulary of `runner` has.
fn tokens(runner: &dyn Runner, len: usize, seed: usize) -> Vec<u32> {
    let vocab = runner.limits().vocab.min(49_000);
    (0..len).map(|i| ((i * 7919 + seed * 104_729 + i * i * 31) % vocab) as u32).collect()
}

fn load(alias: &str, max_seqs: usize) -> Result<Box<dyn Runner>> {
    load_for(Isa::best().independent(), alias, max_seqs)
}

fn load_for(isa: Isa, alias: &str, max_seqs: usize) -> Result<Box<dyn Runner>> {
    let isa = Some(isa);
    let options = LoadOptions { max_seqs, isa, context: Some(1024), ..LoadOptions::default() };
    match SynthSpec::preset(alias) {
        Some(_) => synthetic_model(alias, &options),
        None => real_model(alias, &options),
    }
}

/// Largest difference, relative to the spread of the expected logits.
fn difference(got: &[f32], expected: &[f32]) -> f32 {
    let spread = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / spread
}

/// `f32` noise: the arithmetic is the same whatever the step, only its grouping may differ.
const NOISE: f32 = 1e-5;

#[test]
fn chunked_one_shot_and_token_by_token_prefill_agree() -> Result<()> {
    for alias in MODELS {
        let mut runner = load(alias, 1)?;
        // Past the blocks of 32 and, for Gemma, the window of 512.
        let prompt = tokens(runner.as_ref(), 600, 1);
        let one_shot = prefill(runner.as_mut(), &prompt[..512], 512)?;
        for chunk in [1, 7, 33, 256] {
            let chunked = prefill(runner.as_mut(), &prompt[..512], chunk)?;
            let d = difference(&chunked, &one_shot);
            assert!(d <= NOISE, "{alias}: chunks of {chunk} differ by {d}");
        }
        let chunked = prefill(runner.as_mut(), &prompt, 512)?;
        let by_token = prefill(runner.as_mut(), &prompt, 1)?;
        let d = difference(&by_token, &chunked);
        assert!(d <= NOISE, "{alias}: token by token differs by {d}");
    }
    Ok(())
}

#[test]
fn long_and_short_chunks_agree_within_what_their_products_round() -> Result<()> {
    if Isa::best().independent() == Isa::best() {
        return Ok(());
    }
    for alias in MODELS {
        let mut runner = load_for(Isa::best(), alias, 1)?;
        let prompt = tokens(runner.as_ref(), 512, 1);
        let one_shot = prefill(runner.as_mut(), &prompt, 512)?;
        let long = prefill(runner.as_mut(), &prompt, 128)?;
        let d = difference(&long, &one_shot);
        assert!(d <= NOISE, "{alias}: chunks of 128 differ by {d}");
        let short = prefill(runner.as_mut(), &prompt, 33)?;
        let d = difference(&short, &one_shot);
        // Measured: 0.052 with Gemma. It is what rounding activations to 8 bits does.
        assert!(d <= 0.1, "{alias}: chunks of 33 differ by {d}");
    }
    Ok(())
}

#[test]
fn eight_sequences_in_one_step_equal_eight_alone() -> Result<()> {
    // Prefill chunks and decodes together: each sequence is at another point of its prompt.
    let lengths = [1, 3, 23, 64, 65, 97, 128, 200];
    for alias in MODELS {
        let mut runner = load(alias, 8)?;
        let prompt = |(i, &n): (usize, &usize)| tokens(runner.as_ref(), n + 2, i);
        let prompts: Vec<_> = lengths.iter().enumerate().map(prompt).collect();
        let mut alone = Vec::new();
        for prompt in &prompts {
            alone.push(prefill(runner.as_mut(), prompt, 512)?);
        }
        let kv_blocks = runner.limits().kv_blocks;
        let mut together: Vec<_> =
            prompts.iter().enumerate().map(|(i, p)| Sequence::new(p, i, 8, kv_blocks)).collect();
        let mut last = vec![Vec::new(); 8];
        // The first half is read at once; the others in small chunks beside its decodes.
        while together.iter().any(|s| s.computed < s.tokens.len()) {
            let chunks: Vec<usize> = together
                .iter()
                .enumerate()
                .map(|(i, s)| (s.tokens.len() - s.computed).min(if i < 4 { 62 } else { 29 }))
                .collect();
            let mut logits = step(runner.as_mut(), &mut together, &chunks)?.into_iter();
            for (row, _) in last.iter_mut().zip(&chunks).filter(|(_, c)| **c > 0) {
                *row = logits.next().unwrap_or_default();
            }
        }
        for (i, (got, expected)) in last.iter().zip(&alone).enumerate() {
            let d = difference(got, expected);
            assert!(d <= NOISE, "{alias}: sequence {i} of eight differs by {d}");
        }
    }
    Ok(())
}
