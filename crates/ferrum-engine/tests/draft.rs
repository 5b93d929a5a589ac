//! A draft model changes nothing but the steps: answers are the same with any, and its cache leaks
//! no block.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ferrum_engine::{
    Engine, EngineConfig, EngineStats, Event, FinishReason, Request, RequestId, SamplingParams,
    StopConditions,
};
use ferrum_models::{StepCapacity, runner::RunnerLimits};
use support::*;

/// What proposes tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Drafter {
    Same,
    /// Its guesses are no better than chance.
    Other,
    /// Its steps fail.
    Broken,
}

/// Rows for four proposed tokens for each of six sequences.
fn roomy(kv_blocks: usize) -> RunnerLimits {
    let capacity = StepCapacity { samples: 64, ..limits(kv_blocks).capacity };
    RunnerLimits { capacity, ..limits(kv_blocks) }
}

fn engine(kv_blocks: usize, draft_blocks: usize, drafter: Drafter) -> Engine {
    let mut draft = FakeRunner::new(roomy(draft_blocks));
    draft.twist = (drafter == Drafter::Other).then_some(3);
    draft.failures = if drafter == Drafter::Broken { usize::MAX } else { 0 };
    let runner = Box::new(FakeRunner::new(roomy(kv_blocks)));
    // Small steps, so that prompts are read in parts.
    let config = EngineConfig { step_tokens: Some(40), max_draft: 4, ..EngineConfig::default() };
    Engine::new(runner, Arc::new(FakeVocabulary), config)
        .unwrap()
        .with_draft(Box::new(draft))
        .unwrap()
}

/// Runs the engine until it is idle, and holds its caches against their invariants.
fn drain(engine: &mut Engine) -> BTreeMap<RequestId, Answer> {
    let mut open: BTreeMap<RequestId, (Vec<u32>, String)> = BTreeMap::new();
    let mut answers = BTreeMap::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Prompt { .. } => {}
                Event::Text { id, token, text, .. } => {
                    let entry = open.entry(id).or_default();
                    entry.0.extend(token);
                    entry.1.push_str(&text);
                }
                Event::Finished { id, reason, .. } => {
                    let (tokens, text) = open.remove(&id).unwrap_or_default();
                    answers.insert(id, Answer { tokens, text, reason });
                }
            }
        }
        engine.check_integrity();
    }
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks, "blocks leaked");
    assert_eq!(stats.draft_kv_blocks_free, stats.draft_kv_blocks, "the draft leaked blocks");
    answers
}

/// Random requests at once, all of whose answers must be the plain ones.
fn check(mut engine: Engine, requests: &[Request]) -> EngineStats {
    let ids: Vec<_> = requests.iter().map(|r| engine.add(r.clone()).unwrap()).collect();
    let answers = drain(&mut engine);
    for (id, request) in ids.iter().zip(requests) {
        assert_eq!(answers[id], expected(request, request.max_tokens.unwrap()), "{request:?}");
    }
    engine.stats()
}

fn requests(count: usize) -> Vec<Request> {
    let mut rng = Rng(count as u64);
    (0..count).map(|_| random_request(&mut rng)).collect()
}

#[test]
fn answers_are_the_same_with_any_draft_model() {
    let requests = requests(40);
    for drafter in [Drafter::Same, Drafter::Other, Drafter::Broken] {
        // Few blocks of either model: sequences are preempted, and drafts are forgotten.
        for (kv_blocks, draft_blocks) in [(64, 64), (8, 64), (64, 7), (7, 3)] {
            let stats = check(engine(kv_blocks, draft_blocks, drafter), &requests);
            assert!(stats.accepted_tokens <= stats.drafted_tokens);
            if kv_blocks < 9 {
                assert!(stats.preemptions > 0, "{drafter:?}");
            }
        }
        for request in &requests {
            check(engine(64, 64, drafter), std::slice::from_ref(request));
        }
    }
}

/// Long answers, greedy and sampled with seeds, without what a guess leaves out.
fn plain(count: usize) -> Vec<Request> {
    let request = |n: usize| Request {
        prompt: common_prompt(n, 20 + 7 * n),
        sampling: SamplingParams {
            temperature: if n.is_multiple_of(2) { 0.0 } else { 1.0 },
            seed: Some(n as u64),
            // No loops: they are for prompt lookup.
            logit_bias: vec![(LOOP, f32::NEG_INFINITY)],
            ..SamplingParams::default()
        },
        stop: StopConditions { ignore_eos: true, ..StopConditions::default() },
        max_tokens: Some(100),
        ..Request::default()
    };
    (0..count).map(request).collect()
}

#[test]
fn a_draft_model_of_the_same_mind_is_always_right() {
    for count in [1, 2, 5] {
        let stats = check(engine(64, 64, Drafter::Same), &plain(count));
        assert!(stats.drafted_tokens > 0, "{count}: {stats:?}");
        // All but what prompt lookup proposed.
        let right = stats.accepted_tokens as f64 / stats.drafted_tokens as f64;
        assert!(right > 0.97, "{count}: {right}");
    }
}

#[test]
fn a_draft_model_that_is_never_right_is_given_up() {
    let mut one = plain(1);
    let mut runners = [(); 2].map(|()| FakeRunner::new(roomy(64)));
    // Times that are no matter of chance.
    runners[0].delay = Duration::from_micros(500);
    runners[1].delay = Duration::from_micros(250);
    runners[1].twist = Some(3);
    let [runner, draft] = runners.map(Box::new);
    let engine = Engine::new(runner, Arc::new(FakeVocabulary), EngineConfig::default()).unwrap();
    let mut engine = engine.with_draft(draft).unwrap();
    let mut drafted = Vec::new();
    for n in 0..12 {
        one[0].prompt[0] = n;
        let before = engine.stats().drafted_tokens;
        let id = engine.add(one[0].clone()).unwrap();
        assert_eq!(drain(&mut engine)[&id], expected(&one[0], 100));
        drafted.push(engine.stats().drafted_tokens - before);
    }
    assert!(drafted[0] > 0, "it is tried: {drafted:?}");
    // From time to time it is tried again.
    let late: u64 = drafted[6..].iter().sum();
    assert!(late <= 30, "{drafted:?}");
}

#[test]
fn cancelled_requests_leave_no_draft() {
    for at in [1, 3, 8, 20] {
        let mut engine = engine(64, 64, Drafter::Same);
        let ids: Vec<_> = plain(5).into_iter().map(|r| engine.add(r).unwrap()).collect();
        for _ in 0..at {
            engine.step().unwrap();
        }
        for &id in &ids[..3] {
            assert!(engine.cancel(id));
            engine.check_integrity();
        }
        let answers = drain(&mut engine);
        assert!(ids[..3].iter().all(|id| answers[id].reason == FinishReason::Cancelled));
        assert!(ids[3..].iter().all(|id| answers[id].reason == FinishReason::Length));
    }
}

#[test]
fn a_draft_model_with_less_context_drafts_as_far_as_it_goes() {
    let short = RunnerLimits { context: 70, ..roomy(64) };
    let runner = Box::new(FakeRunner::new(roomy(64)));
    let engine = Engine::new(runner, Arc::new(FakeVocabulary), EngineConfig::default()).unwrap();
    let engine = engine.with_draft(Box::new(FakeRunner::new(short))).unwrap();
    let stats = check(engine, &plain(3));
    assert!(stats.drafted_tokens > 0);
    let none = RunnerLimits { kv_blocks: 0, ..roomy(64) };
    let runner = Box::new(FakeRunner::new(roomy(64)));
    let engine = Engine::new(runner, Arc::new(FakeVocabulary), EngineConfig::default()).unwrap();
    assert!(engine.with_draft(Box::new(FakeRunner::new(none))).is_err());
}
