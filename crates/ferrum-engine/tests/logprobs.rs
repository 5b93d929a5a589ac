//! Log-probabilities of prompts and answers are those of the plain model, whatever the chunks,
//! the batch and the preemptions.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use ferrum_engine::{
    AdmissionError, Engine, EngineConfig, Event, FinishReason, Request, RequestId, SamplingParams,
    TokenLogprobs,
};
use ferrum_models::{StepCapacity, runner::RunnerLimits};
use support::*;

/// What the plain model says of `token` after `prefix`.
fn scored(prefix: &[u32], token: u32, top: usize) -> TokenLogprobs {
    let row = logits(prefix);
    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
    let logprob = |token: u32| (f64::from(row[token as usize]) - sum.ln()) as f32;
    let mut order: Vec<u32> = (0..VOCAB as u32).collect();
    order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
    let top = order[..top].iter().map(|&token| (token, logprob(token))).collect();
    TokenLogprobs { token, logprob: logprob(token), top }
}

fn assert_close(got: &TokenLogprobs, wanted: &TokenLogprobs) {
    let close = |a: f32, b: f32| a == b || (a - b).abs() < 1e-5;
    assert_eq!((got.token, got.top.len()), (wanted.token, wanted.top.len()));
    assert!(close(got.logprob, wanted.logprob), "{got:?}, wanted {wanted:?}");
    for (got, wanted) in got.top.iter().zip(&wanted.top) {
        assert!(got.0 == wanted.0 && close(got.1, wanted.1), "{got:?}, wanted {wanted:?}");
    }
}

#[derive(Default)]
struct Told {
    prompt: Option<Vec<Option<TokenLogprobs>>>,
    tokens: Vec<u32>,
    scores: Vec<TokenLogprobs>,
    end: Option<FinishReason>,
}

fn run(engine: &mut Engine) -> BTreeMap<RequestId, Told> {
    let mut told: BTreeMap<RequestId, Told> = BTreeMap::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Prompt { id, logprobs, .. } => {
                    let entry = told.entry(id).or_default();
                    assert!(entry.tokens.is_empty() && entry.prompt.replace(logprobs).is_none());
                }
                Event::Text { id, token, logprobs, .. } => {
                    let entry = told.get_mut(&id).expect("a prompt first");
                    entry.tokens.extend(token);
                    entry.scores.extend(logprobs);
                }
                Event::Finished { id, reason, .. } => {
                    assert!(told.entry(id).or_default().end.replace(reason).is_none());
                }
            }
        }
        engine.scheduler().check_integrity();
    }
    told
}

/// Engines with many rows and with one per sequence, and with a cache that is too small for all, on
/// runners that draw and score tokens and on those that give logits.
fn engines() -> Vec<Engine> {
    let new = |draws, (samples, kv_blocks, step_tokens)| {
        let capacity = StepCapacity { tokens: step_tokens, seqs: 4, blocks_per_seq: 6, samples };
        let limits = RunnerLimits { capacity, ..limits(kv_blocks) };
        let mut runner = Box::new(FakeRunner::new(limits));
        runner.draws = draws;
        Engine::new(runner, Arc::new(FakeVocabulary), EngineConfig::default()).unwrap()
    };
    let sizes = [(64, 40, 64), (4, 40, 64), (7, 40, 33), (64, 6, 64), (5, 7, 9)];
    [true, false].iter().flat_map(|&draws| sizes.map(|sizes| new(draws, sizes))).collect()
}

#[test]
fn prompts_and_answers_are_scored() {
    for mut engine in engines() {
        let mut rng = Rng(5);
        let mut requests = Vec::new();
        for n in 0..12 {
            let mut request = random_request(&mut rng);
            request.stop = Default::default();
            request.logprobs = [None, Some(0), Some(5)][n % 3];
            request.prompt_logprobs = [None, Some(3), Some(0), Some(20)][n % 4];
            requests.push((engine.add(request.clone()).unwrap(), request));
        }
        let told = run(&mut engine);
        for (id, request) in &requests {
            let told = &told[id];
            let wanted = expected(request, request.max_tokens.unwrap());
            assert_eq!(told.tokens, wanted.tokens);
            let prompt = told.prompt.as_ref().expect("a report");
            match request.prompt_logprobs {
                None => assert!(prompt.is_empty()),
                Some(top) => {
                    assert_eq!((prompt.len(), &prompt[0]), (request.prompt.len(), &None));
                    for (n, got) in prompt.iter().enumerate().skip(1) {
                        let wanted = scored(&request.prompt[..n], request.prompt[n], top);
                        assert_close(got.as_ref().expect("a score"), &wanted);
                    }
                }
            }
            let Some(top) = request.logprobs else {
                assert!(told.scores.is_empty());
                continue;
            };
            assert_eq!(told.scores.len(), told.tokens.len());
            let mut prefix = request.prompt.clone();
            for (&token, got) in told.tokens.iter().zip(&told.scores) {
                assert_close(got, &scored(&prefix, token, top));
                prefix.push(token);
            }
        }
    }
}

#[test]
fn a_prompt_may_be_scored_without_an_answer() {
    for mut engine in engines() {
        let prompt: Vec<u32> = (0..90).map(|n| n % 38).collect();
        let request = Request {
            prompt: prompt.clone(),
            max_tokens: Some(0),
            prompt_logprobs: Some(1),
            ..Default::default()
        };
        let id = engine.add(request.clone()).unwrap();
        let told = run(&mut engine).remove(&id).unwrap();
        assert_eq!((told.end, told.tokens.len()), (Some(FinishReason::Length), 0));
        assert_eq!(told.prompt.unwrap().len(), 90);
        let unscored = Request { prompt_logprobs: None, ..request };
        assert_eq!(engine.add(unscored), Err(AdmissionError::NoTokens));
        assert_eq!(engine.stats().prompt_tokens, 90);
        assert_eq!(engine.stats().generated_tokens, 0);
    }
}

/// A prompt whose scores are not numbers ends its request and no other.
#[test]
fn scores_that_are_not_numbers_end_the_request() {
    let mut engine = engines().remove(1);
    let mut rng = Rng(3);
    let mut prompt = random_prompt(&mut rng, 100);
    prompt.push(POISON);
    prompt.extend([1; 20]);
    let sampling = SamplingParams::greedy();
    let bad = Request { prompt, prompt_logprobs: Some(2), ..Default::default() };
    let good = Request { prompt: vec![1; 40], sampling, ..random_request(&mut rng) };
    let bad = engine.add(bad).unwrap();
    let id = engine.add(good.clone()).unwrap();
    let told = run(&mut engine);
    assert!(matches!(told[&bad].end, Some(FinishReason::Error(_))));
    assert!(told[&bad].prompt.is_none());
    assert_eq!(told[&id].tokens, expected(&good, good.max_tokens.unwrap()).tokens);
}

#[test]
fn no_more_alternatives_than_are_given() {
    let mut engine = engines().remove(0);
    let base = Request { prompt: vec![1], ..Default::default() };
    let refused = AdmissionError::Logprobs { asked: 21, most: 20 };
    let request = Request { logprobs: Some(21), ..base.clone() };
    assert_eq!(engine.add(request), Err(refused.clone()));
    let request = Request { prompt_logprobs: Some(21), logprobs: Some(3), ..base };
    assert_eq!(engine.add(request), Err(refused));
}
