//! The chain as a whole: greedy, distributions, seeds, errors.

use super::*;

fn sampler(params: SamplingParams, vocab: usize) -> Sampler {
    Sampler::new(params, vocab, 0).expect("valid parameters")
}

fn sample(params: SamplingParams, logits: &[f32], history: &[u32]) -> Result<u32, SampleError> {
    sampler(params, logits.len()).sample(logits, history, &mut Workspace::default())
}

/// How often each token is drawn in `draws` positions.
fn counts(params: SamplingParams, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut sampler = sampler(params, logits.len());
    let mut workspace = Workspace::default();
    let mut counts = vec![0; logits.len()];
    let history = vec![0; draws];
    for length in 0..draws {
        let token = sampler.sample(logits, &history[..length], &mut workspace).expect("a token");
        counts[token as usize] += 1;
    }
    counts
}

/// Pearson's chi-square statistic must be below six standard deviations over its mean.
fn assert_distributed(counts: &[usize], weights: &[f64]) {
    let (draws, total) = (counts.iter().sum::<usize>() as f64, weights.iter().sum::<f64>());
    let mut statistic = 0.0;
    let mut possible = 0;
    for (&count, &weight) in counts.iter().zip(weights) {
        let expected = draws * weight / total;
        if weight == 0.0 {
            assert_eq!(count, 0, "an impossible token was drawn");
        } else {
            statistic += (count as f64 - expected).powi(2) / expected;
            possible += 1;
        }
    }
    let freedom = f64::from(possible - 1);
    assert!(statistic < freedom + 6.0 * (2.0 * freedom).sqrt().max(1.0), "{statistic}: {counts:?}");
}

const LOGITS: [f32; 8] = [1.0, -1.0, 0.5, f32::NEG_INFINITY, 2.0, 0.0, 1.5, -2.0];

#[test]
fn draws_follow_the_softmax() {
    for seed in 0..4 {
        for temperature in [0.3, 0.7, 1.0, 2.0] {
            let params = SamplingParams { temperature, seed: Some(seed), ..Default::default() };
            let weights = LOGITS.map(|l| (f64::from(l) / f64::from(temperature)).exp());
            assert_distributed(&counts(params, &LOGITS, 20_000), &weights);
        }
    }
}

/// The filters judge at temperature 1, the draw is at the request's.
#[test]
fn draws_follow_the_chain() {
    let params = SamplingParams {
        temperature: 2.0,
        top_k: 5,
        top_p: 0.9,
        min_p: 0.3,
        seed: Some(1),
        ..Default::default()
    };
    // Likeliest first: tokens 4, 6, 0, 2, 5. Their shares: 0.41, 0.25, 0.15, 0.09, 0.06 of 0.96;
    // top-p keeps four (0.94 of 1), min-p those with at least 0.3 of the first: three.
    let mut weights = [0.0; 8];
    for token in [4, 6, 0] {
        weights[token] = (f64::from(LOGITS[token]) / 2.0).exp();
    }
    assert_distributed(&counts(params, &LOGITS, 20_000), &weights);
}

#[test]
fn bias_and_penalties_move_the_distribution() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        penalty_last_n: Some(3),
        logit_bias: vec![(1, 2.0), (0, -0.5), (0, -0.5), (6, f32::NEG_INFINITY)],
        temperature: 1.0,
        ..Default::default()
    };
    // The window holds 4, 4, 1; the bias comes first.
    let history = [0, 0, 4, 4, 1];
    let adjusted =
        [0.0, 0.5 - 0.75, 0.5, f32::NEG_INFINITY, 1.0 - 1.25, 0.0, f32::NEG_INFINITY, -2.0];
    let mut workspace = Workspace::default();
    let mut sampler = sampler(params, 8);
    assert_eq!(sampler.adjust(&LOGITS, &history, &mut workspace.logits).unwrap(), adjusted);
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_first() {
    let greedy = |logits: &[f32]| sample(SamplingParams::greedy(), logits, &[]);
    assert_eq!(greedy(&LOGITS), Ok(4));
    assert_eq!(greedy(&[1.0, 3.0, 3.0, 2.0]), Ok(1));
    assert_eq!(greedy(&[f32::NEG_INFINITY, -5.0]), Ok(1));
    assert_eq!(greedy(&[-0.0, 0.0]), Ok(0));
    let params = SamplingParams {
        logit_bias: vec![(4, -1.0)],
        frequency_penalty: 1.0,
        top_k: 1,
        ..SamplingParams::greedy()
    };
    assert_eq!(sample(params, &LOGITS, &[6, 6, 4]), Ok(0));
}

/// With a top-k of 1 every temperature is greedy, ties included.
#[test]
fn top_k_of_one_is_greedy() {
    for seed in 0..50 {
        let params =
            SamplingParams { top_k: 1, temperature: 5.0, seed: Some(seed), ..Default::default() };
        assert_eq!(sample(params, &[1.0, 3.0, 3.0, 2.0], &[]), Ok(1));
    }
}

#[test]
fn extreme_temperatures() {
    for seed in 0..50 {
        let params =
            |temperature| SamplingParams { temperature, seed: Some(seed), ..Default::default() };
        assert_eq!(sample(params(f32::from_bits(1)), &LOGITS, &[]), Ok(4));
        assert_eq!(sample(params(1e-6), &LOGITS, &[]), Ok(4));
        assert_ne!(sample(params(f32::MAX), &LOGITS, &[]), Ok(3), "minus infinity is never drawn");
    }
}

/// Typical sampling may drop the likeliest token; a low temperature then looks at what is left.
#[test]
fn low_temperature_after_a_filter_that_drops_the_likeliest() {
    let mut logits = vec![0.001f32.ln(); 801];
    logits[0] = 0.2f32.ln();
    for seed in 0..50 {
        let (typical_p, temperature) = (0.5, 1e-3);
        let params =
            SamplingParams { typical_p, temperature, seed: Some(seed), ..Default::default() };
        let token = sample(params, &logits, &[]).expect("a token");
        assert_ne!(token, 0);
    }
}

#[test]
fn one_possible_token_is_drawn_whatever_the_filters() {
    let mut logits = [f32::NEG_INFINITY; 1000];
    logits[613] = -1e30;
    for (top_k, p) in [(0, 1.0), (1, 1.0), (7, 0.5), (1000, 1e-9), (5000, 0.999)] {
        for temperature in [0.0, 0.5, 1.0, 9.0] {
            let params = SamplingParams {
                temperature,
                top_k,
                top_p: p,
                typical_p: p,
                min_p: 1.0,
                ..Default::default()
            };
            assert_eq!(sample(params, &logits, &[]), Ok(613));
        }
    }
}

#[test]
fn arithmetic_that_went_wrong_is_an_error() {
    for temperature in [0.0, 1.0] {
        for top_k in [0, 2] {
            let sample = |logits: &[f32]| {
                sample(SamplingParams { temperature, top_k, ..Default::default() }, logits, &[])
            };
            let wrong = |token| Err(SampleError::NotANumber { token });
            assert_eq!(sample(&[0.0, 1.0, f32::NAN, f32::NAN]), wrong(2));
            assert_eq!(sample(&[0.0, -f32::NAN, 3.0]), wrong(1));
            assert_eq!(sample(&[f32::INFINITY, 0.0]), wrong(0));
            assert_eq!(sample(&[f32::NEG_INFINITY; 3]), Err(SampleError::NoToken));
        }
    }
    // Also when only the bias makes it so.
    let logit_bias = vec![(1, 3e38), (1, 3e38)];
    let params = SamplingParams { logit_bias, ..Default::default() };
    assert_eq!(sample(params, &[0.0, 1.0], &[]), Err(SampleError::NotANumber { token: 1 }));
}

/// A draw is a function of seed and position; shared memory and other requests do not matter.
#[test]
fn draws_depend_on_seed_and_position_alone() {
    let logits: Vec<f32> = (0..500).map(|i| ((i * 37 % 101) as f32).sin()).collect();
    let params = |seed| SamplingParams { seed: Some(seed), top_p: 0.9, ..Default::default() };
    let history = [3; 20];
    let alone = |seed| -> Vec<_> {
        (0..20).map(|length| sample(params(seed), &logits, &history[..length])).collect()
    };
    let (first, second) = (alone(1), alone(2));
    assert_ne!(first, second);
    let mut workspace = Workspace::default();
    let mut samplers = [1, 2].map(|seed| sampler(params(seed), 500));
    let noise: Vec<f32> = logits.iter().rev().map(|l| l * 3.0).collect();
    for length in 0..20 {
        let mut other = sampler(SamplingParams { top_k: 3, ..params(9) }, 500);
        other.sample(&noise, &history, &mut workspace).expect("a token");
        for (sampler, alone) in samplers.iter_mut().zip([&first, &second]) {
            let token = sampler.sample(&logits, &history[..length], &mut workspace);
            assert_eq!(token, alone[length]);
        }
    }
}

#[test]
fn parameters_out_of_range_are_refused_by_name() {
    let nan = f32::NAN;
    let default = SamplingParams::default;
    let cases = [
        ("temperature", SamplingParams { temperature: -0.1, ..default() }),
        ("temperature", SamplingParams { temperature: nan, ..default() }),
        ("temperature", SamplingParams { temperature: f32::INFINITY, ..default() }),
        ("typical_p", SamplingParams { typical_p: 0.0, ..default() }),
        ("typical_p", SamplingParams { typical_p: 1.1, ..default() }),
        ("top_p", SamplingParams { top_p: 0.0, ..default() }),
        ("top_p", SamplingParams { top_p: -1.0, ..default() }),
        ("top_p", SamplingParams { top_p: 1.01, ..default() }),
        ("top_p", SamplingParams { top_p: nan, ..default() }),
        ("min_p", SamplingParams { min_p: -0.01, ..default() }),
        ("min_p", SamplingParams { min_p: 1.5, ..default() }),
        ("min_p", SamplingParams { min_p: nan, ..default() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..default() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: f32::INFINITY, ..default() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 1e-38, ..default() }),
        ("presence_penalty", SamplingParams { presence_penalty: nan, ..default() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: -3e38, ..default() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: f32::INFINITY, ..default() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(8, 0.0)], ..default() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(7, nan)], ..default() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(7, f32::INFINITY)], ..default() }),
    ];
    for (field, params) in cases {
        let error = Sampler::new(params, 8, 0).expect_err(field);
        assert_eq!(error.field, field);
        assert!(error.to_string().starts_with(field), "{error}");
    }
    let bias = vec![(7, f32::NEG_INFINITY)];
    let valid = SamplingParams { min_p: 1.0, logit_bias: bias, ..default() };
    assert_eq!(valid.validate(8), Ok(()));
}
