//! The pacer on machines of known speed.

use super::*;

/// A machine: seconds for a step, a prefill token, a pair, a position read, a row.
struct Machine([f64; 5]);

/// About SmolLM2-135M on two cores.
const SMALL: Machine = Machine([3e-3, 7e-4, 1.2e-7, 4e-7, 4e-4]);
/// A model of 8 billion parameters on them.
const LARGE: Machine = Machine([0.4, 0.04, 2e-6, 4e-6, 0.01]);

impl Machine {
    fn seconds(&self, load: &StepLoad) -> f64 {
        let [step, token, pair, read, row] = self.0;
        step + token * load.prefill_tokens as f64
            + pair * load.prefill_pairs as f64
            + read * load.decode_pairs as f64
            + row * load.rows as f64
    }
}

fn decodes(count: usize, depth: usize) -> StepLoad {
    let mut load = StepLoad::default();
    (0..count).for_each(|_| load.add(depth, 1, 1, false));
    load
}

/// Reads a prompt of `len` tokens beside `count` answers; the seconds of each step. `noise` gives
/// the factor by which a step is slower than it should be.
fn read(
    machine: &Machine,
    pacer: &mut Pacer,
    count: usize,
    len: usize,
    mut noise: impl FnMut() -> f64,
) -> Vec<f64> {
    let (mut start, mut steps) = (0, Vec::new());
    while start < len {
        let mut load = decodes(count, 500);
        let chunk = pacer.budget(&load).fitting(start).clamp(1, 512.min(len - start));
        load.add(start, chunk, usize::from(start + chunk == len), true);
        let seconds = machine.seconds(&load) * noise();
        pacer.observe(&load, seconds);
        steps.push(seconds);
        start += chunk;
    }
    steps
}

fn decode(machine: &Machine, pacer: &mut Pacer, count: usize, steps: usize) {
    for step in 0..steps {
        let load = decodes(count, 100 + step);
        pacer.observe(&load, machine.seconds(&load));
    }
}

fn longest(steps: &[f64]) -> f64 {
    steps.iter().copied().fold(0.0, f64::max)
}

#[test]
fn a_long_prompt_keeps_steps_near_the_target_and_is_not_held_up() {
    let mut pacer = Pacer::new(Some(0.1));
    let alone: f64 = read(&SMALL, &mut pacer, 0, 4200, || 1.0).iter().sum();
    decode(&SMALL, &mut pacer, 4, 300);
    let steps = read(&SMALL, &mut pacer, 4, 4200, || 1.0);
    assert!(longest(&steps) < 0.13, "{steps:?}");
    let beside: f64 = steps.iter().sum();
    assert!(beside < 1.2 * alone, "{beside} s, alone {alone} s");
}

/// Nothing is known of the machine when the prompt comes.
#[test]
fn chunks_grow_carefully() {
    let mut pacer = Pacer::new(Some(0.1));
    decode(&SMALL, &mut pacer, 4, 3);
    let steps = read(&SMALL, &mut pacer, 4, 4200, || 1.0);
    assert!(longest(&steps) < 0.15, "{steps:?}");
    // A first prompt that was short says little of long ones.
    let mut pacer = Pacer::new(Some(0.1));
    read(&SMALL, &mut pacer, 0, 9, || 1.0);
    decode(&SMALL, &mut pacer, 4, 300);
    let steps = read(&SMALL, &mut pacer, 4, 4200, || 1.0);
    assert!(longest(&steps) < 0.15, "{steps:?}");
}

/// Steps vary, and one in thirty takes ten times as long for reasons of its own.
#[test]
fn noise_and_hiccups_do_not_mislead() {
    let mut pacer = Pacer::new(Some(0.1));
    let mut n = 0u32;
    let mut noise = || {
        n += 1;
        if n.is_multiple_of(30) { 10.0 } else { 0.85 + f64::from(n * 7 % 10) * 0.03 }
    };
    read(&SMALL, &mut pacer, 0, 4200, &mut noise);
    for _ in 0..5 {
        let steps = read(&SMALL, &mut pacer, 4, 4200, &mut noise);
        let (ordinary, held_up): (Vec<f64>, Vec<f64>) = steps.iter().partition(|&&s| s < 0.3);
        assert!(longest(&ordinary) < 0.16, "{ordinary:?}");
        assert!(held_up.len() < steps.len() / 10, "{steps:?}");
        let mean = ordinary.iter().sum::<f64>() / ordinary.len() as f64;
        assert!(mean > 0.06, "{mean}: steps became needlessly short");
    }
}

/// The machine becomes three times slower, as when another program starts, and fast again.
#[test]
fn a_change_of_speed_is_followed() {
    let mut pacer = Pacer::new(Some(0.1));
    read(&SMALL, &mut pacer, 0, 4200, || 1.0);
    decode(&SMALL, &mut pacer, 4, 20);
    let slow = read(&SMALL, &mut pacer, 4, 4200, || 3.0);
    assert!(longest(&slow[20..]) < 0.16, "{slow:?}");
    let fast = read(&SMALL, &mut pacer, 4, 4200, || 1.0);
    let last = &fast[fast.len() - 10..fast.len() - 1];
    assert!(last.iter().all(|&s| s > 0.05 && s < 0.13), "{fast:?}");
}

/// Where decoding alone takes longer than the target, prompts are still read.
#[test]
fn a_target_that_cannot_be_met_starves_nobody() {
    let mut pacer = Pacer::new(Some(0.1));
    read(&LARGE, &mut pacer, 0, 200, || 1.0);
    decode(&LARGE, &mut pacer, 4, 50);
    let alone = LARGE.seconds(&decodes(4, 500));
    let steps = read(&LARGE, &mut pacer, 4, 300, || 1.0);
    assert!(longest(&steps) < 2.0 * alone, "{steps:?}, decoding takes {alone}");
    assert!(steps.len() < 120, "{} steps", steps.len());
}

#[test]
fn without_a_target_steps_are_full() {
    let mut pacer = Pacer::new(None);
    decode(&SMALL, &mut pacer, 4, 10);
    assert_eq!(pacer.budget(&decodes(4, 9)).fitting(100), usize::MAX);
    assert_eq!(Pacer::new(Some(0.1)).budget(&decodes(4, 9)).fitting(0), 2 * UNKNOWN);
}

#[test]
fn a_budget_is_spent_as_it_says() {
    let budget = PrefillBudget { tokens: 1000, seconds: 0.09, per_token: 7e-4, per_pair: 1.2e-7 };
    for start in [0, 100, 4000, 100_000] {
        let len = budget.fitting(start);
        let mut left = budget;
        left.take(start, len);
        assert!(left.seconds > 0.0 && left.fitting(start + len) == 0, "{start}: {len}, {left:?}");
        assert_eq!(left.tokens, 1000 - len);
    }
    let rich = PrefillBudget { seconds: 1e9, ..budget };
    assert_eq!(rich.fitting(7), 1000);
}
