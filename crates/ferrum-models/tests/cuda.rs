//! Whole tiny models on emulated NVIDIA cards: what they write is what the processor writes, in
//! every order in which a card may run its blocks, warps and lanes; and what a recorded step gives
//! is what it gives anew.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use anyhow::{Result, bail, ensure};
use ferrum_models::draw::{
    Adjustment, Candidates, Draw, Drawn, RowDraw, Scored, apply_adjustments, apply_mask, logprobs,
};
use ferrum_models::{Device, KvDType, LoadOptions, Runner};
use support::cards::cards;
use support::greedy::{PROMPTS, argmax, sequences, write};
use support::hf::distance;
use support::{pack, synthetic_model};

/// Tokens that are written. The second step of a shape is recorded, later ones are replayed.
const WRITTEN: usize = 8;

fn load(preset: &str, device: Device) -> Result<Box<dyn Runner>> {
    load_with(
        preset,
        LoadOptions { device, exact: device != Device::Cpu, ..LoadOptions::default() },
    )
}

fn load_with(preset: &str, options: LoadOptions) -> Result<Box<dyn Runner>> {
    let options = LoadOptions { context: Some(96), max_seqs: PROMPTS.len(), ..options };
    synthetic_model(preset, &options)
}

fn check(preset: &str) -> Result<()> {
    let expected = write(load(preset, Device::Cpu)?.as_mut(), WRITTEN)?;
    for card in cards()? {
        let got = write(load(preset, Device::Cuda(card))?.as_mut(), WRITTEN)?;
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

/// The prompts, of 112 tokens in one step, are multiplied by cuBLASLt with activations that are rounded
/// to the weights' 16 bits: the first logits differ a little, and those that follow from them.
#[test]
fn rounded_activations() -> Result<()> {
    let device = Device::Cuda(cards()?[0]);
    for preset in ["llama3-tiny", "gemma3-tiny"] {
        let expected = write(load(preset, Device::Cpu)?.as_mut(), 1)?;
        let exact = write(load(preset, device)?.as_mut(), 1)?;
        let mut rounded = load_with(preset, LoadOptions { device, ..LoadOptions::default() })?;
        let rounded = write(rounded.as_mut(), 1)?;
        ensure!(rounded != exact, "{preset}: nothing was rounded");
        for (got, expected) in rounded.iter().zip(&expected) {
            let distance = distance(got, expected);
            println!("{preset}: {distance:.2e}");
            ensure!(distance < 3e-3, "{preset}: {distance:.2e}");
        }
    }
    Ok(())
}

/// Caches of each type, from the first prompts to recorded steps. A key or value that lies between two
/// numbers of a type may be rounded to the other one, by a step of 2⁻⁴ to 2⁻¹¹ of itself.
#[test]
fn caches_of_every_type() -> Result<()> {
    let device = Device::Cuda(cards()?[0]);
    for (kv_dtype, bound) in [
        (KvDType::F32, 1e-3),
        (KvDType::Q8_0, 1e-2),
        (KvDType::BF16, 1e-2),
        (KvDType::Fp8E4M3, 5e-2),
    ] {
        let load = |device, exact| {
            let options = LoadOptions { device, exact, kv_dtype, ..LoadOptions::default() };
            // With heads that tensor cores attend to, and a window.
            load_with("gemma3-tiny", options)
        };
        let expected = write(load(Device::Cpu, false)?.as_mut(), WRITTEN)?;
        let got = write(load(device, true)?.as_mut(), WRITTEN)?;
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let distance = distance(got, expected);
            println!("{kv_dtype:?}: {i}: {distance:.2e}");
            ensure!(distance < bound, "{kv_dtype:?}: {i}: {distance:.2e}");
            ensure!(argmax(got) == argmax(expected), "{kv_dtype:?}: {i}: another token");
        }
    }
    Ok(())
}

#[test]
fn qwen3_with_experts() -> Result<()> {
    check("qwen3moe-tiny")
}

#[test]
fn gemma3() -> Result<()> {
    check("gemma3-tiny")
}

/// The draws of a step's rows, another set in every step: greedy, by filters, within masks.
fn draws(step: usize, row: usize) -> (Draw, Option<u32>) {
    let uniform = ((step * 37 + row * 59 + 11) % 101) as f64 / 128.0;
    let free = Draw { temperature: 1.5, uniform, ..Draw::GREEDY };
    let draws = [
        Draw::GREEDY,
        free,
        Draw { top_k: 5, ..free },
        Draw { top_p: 0.8, temperature: 0.9, ..free },
        Draw { top_k: 40, top_p: 0.95, min_p: 0.02, ..free },
    ];
    let masks = [None, Some(0xffff_0000), None, Some(0x0100_8001)];
    (draws[(step + row) % 5], masks[(step + 2 * row) % 4])
}

/// Logits that a step's row adjusts: none, a few, or all, so that each step has another number of them.
fn adjustments(step: usize, row: usize, vocab: usize) -> Vec<Adjustment> {
    let every = [vocab, 7, 1][(step + row) % 3];
    let one = |token: usize| {
        let bias = (token * 31 % 17) as f32 / 4.0 - 2.0;
        let bias = if token % 11 == 3 { f32::NEG_INFINITY } else { bias };
        Adjustment { token: token as u32, bias, repetition: 1.25, subtract: 0.3 }
    };
    (0..vocab).skip(step + 1).step_by(every).map(one).collect()
}

/// Log-probabilities that a step's row wants: none of many steps, and of some rows of others.
fn wanted_logprobs(step: usize, row: usize) -> Option<usize> {
    [None, Some(0), Some(5), Some(20)][(step / 2 + row * step) % 4]
}

/// What a card says of a row, against what a host computes from its logits.
fn check_scores(got: &Option<Scored>, (logits, token): (&[f32], u32), top: usize) -> Result<()> {
    let Some(Ok(got)) = got else { bail!("no log-probabilities: {got:?}") };
    let expected = logprobs(logits, token, top)?;
    let tokens = |top: &[(u32, f32)]| top.iter().map(|&(token, _)| token).collect::<Vec<_>>();
    ensure!(
        (got.token, tokens(&got.top)) == (token, tokens(&expected.top)),
        "{got:?}, {expected:?}"
    );
    let values = got.top.iter().zip(&expected.top).map(|(got, expected)| (got.1, expected.1));
    for (got, expected) in values.chain([(got.logprob, expected.logprob)]) {
        ensure!((got - expected).abs() < 1e-5, "{got}, not {expected}");
    }
    Ok(())
}

/// What a card draws, in steps that are recorded and replayed with other draws, is what a host draws
/// from the logits of the same step.
fn check_draws(preset: &str, device: Device) -> Result<()> {
    let mut runner = load(preset, device)?;
    let vocab = runner.limits().vocab;
    let mut sequences = sequences(runner.as_ref());
    let mut chunks = PROMPTS;
    for n in 0..=WRITTEN {
        let input = pack(&mut sequences, &chunks);
        let logits = runner.step(&input)?.to_vec();
        let chosen = [0, 1, 2].map(|row| draws(n, row));
        let words = chosen.map(|(_, mask)| vec![mask.unwrap_or_default(); vocab.div_ceil(32)]);
        let adjusted = [0, 1, 2].map(|row| adjustments(n, row, vocab));
        // In some steps the logits of one sequence are wanted, too.
        let whole = (n % 3 == 1).then_some(n / 3);
        let asked = [0, 1, 2].map(|row| {
            let (draw, mask) = chosen[row];
            let mask = mask.map(|_| words[row].as_slice());
            let (known, logprobs) = ((n == 4).then_some(row as u32), wanted_logprobs(n, row));
            let adjust = adjusted[row].as_slice();
            (Some(row) != whole).then_some(RowDraw { draw, mask, adjust, known, logprobs })
        });
        let sampled = runner.sample(&input, &asked)?;
        let wanted = whole.map_or(0, |row| row + 1);
        ensure!(*sampled.logits == logits[..wanted * vocab], "step {n}: other logits");
        for (row, sequence) in sequences.iter_mut().enumerate() {
            let plain = &logits[row * vocab..][..vocab];
            let mut logits = plain.to_vec();
            apply_adjustments(adjusted[row].iter().copied(), &mut logits);
            if asked[row].is_some_and(|asked| asked.mask.is_some()) {
                apply_mask(&words[row], &mut logits);
            }
            let chosen = Candidates::default().choose(&logits, &chosen[row].0, 1.0)?;
            let expected = asked[row].and_then(|asked| asked.known).unwrap_or(chosen);
            if let Some(asked) = asked[row] {
                let got = sampled.drawn[row];
                if let Some(top) = asked.logprobs {
                    check_scores(&sampled.scored[row], (plain, expected), top)?;
                }
                ensure!(got == Drawn(expected as i32), "step {n}: {got:?}, {expected}: {asked:?}");
            }
            sequence.tokens.push(expected);
        }
        chunks = [1; 3];
    }
    Ok(())
}

#[test]
fn what_is_drawn_on_a_card_is_what_a_host_draws() -> Result<()> {
    for preset in ["llama3-tiny", "gemma3-tiny"] {
        check_draws(preset, Device::Cpu)?;
        for card in cards()? {
            check_draws(preset, Device::Cuda(card))?;
        }
    }
    Ok(())
}
