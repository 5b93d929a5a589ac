//! Three prompts, and what a model writes after them.

use anyhow::Result;
use ferrum_models::Runner;

use super::{Sequence, step};

/// Tokens of the prompts: within a block, over its end, and over two of them.
pub const PROMPTS: [usize; 3] = [5, 37, 70];

/// Index of the highest value, the first of equals.
pub fn argmax(values: &[f32]) -> u32 {
    let best = values.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(i, _)| i as u32)
}

/// The prompts, none of which is read.
pub fn sequences(runner: &dyn Runner) -> Vec<Sequence> {
    let (vocab, blocks) = (runner.limits().vocab, runner.limits().kv_blocks);
    let token = |i: usize| (i * 7919 % (vocab - 10) + 3) as u32;
    let sequence = |(i, &len): (usize, &usize)| {
        let tokens: Vec<u32> = (0..len).map(|t| token(t + 100 * i)).collect();
        Sequence::new(&tokens, i, PROMPTS.len(), blocks)
    };
    PROMPTS.iter().enumerate().map(sequence).collect()
}

/// Reads the prompts in one step, then writes so many tokens: the logits of every step.
pub fn write(runner: &mut dyn Runner, tokens: usize) -> Result<Vec<Vec<f32>>> {
    let mut sequences = sequences(runner);
    let mut all = Vec::new();
    for chunks in std::iter::once(PROMPTS).chain(std::iter::repeat_n([1; 3], tokens)) {
        let logits = step(runner, &mut sequences, &chunks)?;
        for (sequence, logits) in sequences.iter_mut().zip(&logits) {
            sequence.tokens.push(argmax(logits));
        }
        all.extend(logits);
    }
    Ok(all)
}
