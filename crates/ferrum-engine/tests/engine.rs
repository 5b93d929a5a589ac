//! An answer does not depend on who else is served, on chunks, preemptions or cancellations; and
//! what cannot be served is refused or ends alone.

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use ferrum_engine::{
    AdmissionError, Engine, EngineConfig, EngineError, Event, FinishReason, Request, RequestId,
    SamplingParams, StopConditions, Usage,
};
use ferrum_models::{
    KV_BLOCK_SIZE, KernelError, StepCapacity, StepInput,
    runner::{Runner, RunnerLimits},
};
use support::*;

/// Claims other sizes than it has.
struct PosingRunner {
    limits: RunnerLimits,
    inner: FakeRunner,
}

impl Runner for PosingRunner {
    fn limits(&self) -> &RunnerLimits {
        &self.limits
    }

    fn step(&mut self, step: &StepInput) -> Result<&[f32], KernelError> {
        self.inner.step(step)
    }
}

fn engine(kv_blocks: usize, config: EngineConfig) -> Engine {
    let runner = FakeRunner::new(limits(kv_blocks));
    Engine::new(Box::new(runner), Arc::new(FakeVocabulary), config).unwrap()
}

/// Requests of many lengths and kinds.
fn requests(count: usize) -> Vec<Request> {
    let mut rng = Rng(count as u64);
    (0..count).map(|_| random_request(&mut rng)).collect()
}

/// Runs the engine until it is idle; each request must end exactly once, with nothing after.
fn drain(engine: &mut Engine) -> BTreeMap<RequestId, (Answer, Usage)> {
    let mut open: BTreeMap<RequestId, (Vec<u32>, String)> = BTreeMap::new();
    let mut answers = BTreeMap::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Prompt { id, cached_tokens, logprobs } => {
                    assert!(!open.contains_key(&id), "the prompt is reported late or twice");
                    open.entry(id).or_default();
                    assert!(cached_tokens.is_multiple_of(KV_BLOCK_SIZE) && logprobs.is_empty());
                }
                Event::Text { id, token, text, .. } => {
                    assert!(!answers.contains_key(&id), "text after the end");
                    let entry = open.entry(id).or_default();
                    entry.0.extend(token);
                    entry.1.push_str(&text);
                }
                Event::Finished { id, reason, usage } => {
                    let (tokens, text) = open.remove(&id).unwrap_or_default();
                    let answer = Answer { tokens, text, reason };
                    assert!(answers.insert(id, (answer, usage)).is_none(), "ended twice");
                }
            }
        }
        engine.scheduler().check_integrity();
    }
    assert!(open.is_empty(), "text without an end");
    let pool = engine.scheduler().pool();
    assert_eq!(pool.free(), pool.capacity(), "blocks leaked");
    answers
}

/// Adds all requests at once and holds each answer against the plain definition.
fn check_all(mut engine: Engine, requests: &[Request]) {
    let ids: Vec<_> = requests.iter().map(|r| engine.add(r.clone()).unwrap()).collect();
    let answers = drain(&mut engine);
    for (id, request) in ids.iter().zip(requests) {
        let (answer, usage) = &answers[id];
        assert_eq!(answer, &expected(request, request.max_tokens.unwrap()), "{id}: {request:?}");
        let tokens = answer.tokens.len();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (request.prompt.len(), tokens));
        // The last token is always computed.
        assert!(usage.cached_tokens < usage.prompt_tokens);
    }
}

#[test]
fn an_answer_is_the_same_alone_and_in_any_batch() {
    let requests = requests(40);
    for request in &requests {
        check_all(engine(64, EngineConfig::default()), std::slice::from_ref(request));
    }
    check_all(engine(64, EngineConfig::default()), &requests);
}

/// With penalties and bias beside plain requests: a model that draws nothing, and those that may adjust
/// no logits, some, or any number.
#[test]
fn an_answer_is_the_same_whoever_draws() {
    let requests = requests(40);
    let adjusted = [(false, 0), (true, 0), (true, 20), (true, 90), (true, 1000)].map(|most| {
        let mut runner = FakeRunner::new(limits(64));
        (runner.draws, runner.adjusted) = most;
        let adjustments = runner.adjustments.clone();
        let (model, config) = (Box::new(runner), EngineConfig::default());
        check_all(Engine::new(model, Arc::new(FakeVocabulary), config).unwrap(), &requests);
        adjustments.load(Ordering::Relaxed)
    });
    assert_eq!(adjusted[..2], [0, 0]);
    assert!(adjusted[1..].is_sorted_by(|a, b| a < b), "{adjusted:?}");
}

#[test]
fn an_answer_is_the_same_with_any_chunk_and_batch_size() {
    let requests = requests(30);
    for (max_running, step_tokens) in
        [(1, 1), (2, 2), (6, 6), (6, 7), (3, 31), (4, 32), (6, 33), (6, 64), (99, 999)]
    {
        let config = EngineConfig {
            max_running: Some(max_running),
            step_tokens: Some(step_tokens),
            ..Default::default()
        };
        check_all(engine(64, config), &requests);
    }
}

#[test]
fn an_answer_is_the_same_with_preemption() {
    let mut rng = Rng(7);
    // Long answers to short prompts, so that the cache fills while they decode.
    let requests: Vec<Request> = (0..20)
        .map(|_| {
            let stop = StopConditions { ignore_eos: true, ..Default::default() };
            let sampling = SamplingParams { seed: Some(3), ..Default::default() };
            let prompt = random_prompt(&mut rng, 20);
            Request { prompt, sampling, stop, max_tokens: Some(150), ..Default::default() }
        })
        .collect();
    for kv_blocks in [6, 7, 8, 11, 16] {
        let runner = FakeRunner::new(limits(kv_blocks));
        let computed = runner.computed.clone();
        let engine =
            Engine::new(Box::new(runner), Arc::new(FakeVocabulary), EngineConfig::default());
        check_all(engine.unwrap(), &requests);
        let once: usize = requests.iter().map(|r| r.prompt.len() + 149).sum();
        assert!(computed.load(Ordering::Relaxed) > once, "{kv_blocks} blocks: nothing recomputed");
    }
}

/// Runs `requests` at once; what was computed, and what was cached for each.
fn computed_and_cached(engine: &mut Engine, requests: &[Request]) -> (u64, Vec<usize>) {
    let before = engine.stats().prompt_tokens;
    let ids: Vec<_> = requests.iter().map(|r| engine.add(r.clone()).unwrap()).collect();
    let answers = drain(engine);
    for (id, request) in ids.iter().zip(requests) {
        assert_eq!(answers[id].0, expected(request, request.max_tokens.unwrap()));
    }
    let cached = ids.iter().map(|id| answers[id].1.cached_tokens).collect();
    (engine.stats().prompt_tokens - before, cached)
}

/// Twelve requests that begin alike and come at once, more than run at once; then others.
#[test]
fn a_prefix_is_computed_once_for_all() {
    let request = |own: usize, cache_salt| {
        let prompt = [common_prompt(1, 100), common_prompt(10 + own, 20)].concat();
        let sampling = SamplingParams::greedy();
        Request { prompt, sampling, max_tokens: Some(9), cache_salt, ..Default::default() }
    };
    let mut engine = engine(64, EngineConfig::default());
    let requests: Vec<_> = (0..12).map(|own| request(own, 0)).collect();
    let (computed, cached) = computed_and_cached(&mut engine, &requests);
    assert_eq!(cached, [vec![0], vec![96; 11]].concat());
    assert_eq!(computed, 120 + 11 * 24);
    // Nobody else's: another salt.
    assert_eq!(computed_and_cached(&mut engine, &[request(20, 5)]), (120, vec![0]));
    assert_eq!(computed_and_cached(&mut engine, &[request(21, 5)]), (24, vec![96]));
    // A conversation goes on: what was answered is part of the prefix.
    let mut turn = request(0, 0);
    turn.prompt = common_prompt(2, 50);
    turn.stop.ignore_eos = true;
    turn.max_tokens = Some(60);
    assert_eq!(computed_and_cached(&mut engine, std::slice::from_ref(&turn)), (50, vec![0]));
    let answer = expected(&turn, 60).tokens;
    turn.prompt.extend(answer.into_iter().chain([4, 5, 6]));
    assert_eq!(computed_and_cached(&mut engine, &[turn]), (113 - 96, vec![96]));
    let stats = engine.stats();
    assert_eq!(stats.prefix_hit_tokens, 11 * 96 + 96 + 96);
    assert!(stats.kv_blocks_cached > 0 && stats.kv_blocks_free == 64);
    // Scores want every token of the prompt computed.
    let scored = Request { prompt_logprobs: Some(0), ..request(0, 0) };
    let id = engine.add(scored).unwrap();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Finished { id: of, usage, .. } = event {
                assert_eq!((of, usage.cached_tokens), (id, 0));
            }
        }
    }
}

/// Answers that repeat themselves, with proposals that are right, that are wrong and that stop
/// being right: the same tokens and ends, in fewer steps.
#[test]
fn speculation_changes_nothing_but_the_steps() {
    let mut rng = Rng(11);
    let mut requests: Vec<Request> = (0..24)
        .map(|n| {
            let mut request = random_request(&mut rng);
            request.prompt.truncate(100);
            request.prompt.push(LOOP);
            request.max_tokens = Some(60);
            request.logprobs = [None, Some(2)][n % 2];
            request
        })
        .collect();
    // Plain loops, so that proposals are right, also where what was proposed counts.
    requests[..12].iter_mut().enumerate().for_each(|(n, request)| {
        let frequency_penalty = [0.0, 0.01][n / 6];
        let penalty_last_n = [None, Some(9)][n % 2];
        request.sampling =
            SamplingParams { frequency_penalty, penalty_last_n, ..SamplingParams::greedy() };
        request.stop = StopConditions { ignore_eos: true, ..Default::default() };
    });
    let mut steps = Vec::new();
    for max_draft in [0, 1, 3, 8] {
        for kv_blocks in [8, 64] {
            let config = EngineConfig { max_draft, max_running: Some(2), ..Default::default() };
            let mut engine = engine(kv_blocks, config);
            computed_and_cached(&mut engine, &requests);
            let stats = engine.stats();
            assert_eq!(stats.drafted_tokens > 0, max_draft > 0);
            assert_eq!(stats.accepted_tokens > 0, max_draft > 0);
            assert!(stats.accepted_tokens <= stats.drafted_tokens);
            let tokens: usize = requests.iter().map(|r| expected(r, 60).tokens.len()).sum();
            assert_eq!(stats.generated_tokens, tokens as u64);
            steps.push(stats.steps);
        }
    }
    assert!(steps[6..].iter().all(|&with| with < steps[0]), "{steps:?}");
}

#[test]
fn without_a_prefix_cache_all_is_computed() {
    let config = EngineConfig { prefix_cache: false, ..Default::default() };
    let mut engine = engine(64, config);
    let prompt = common_prompt(1, 100);
    let request = Request { prompt, max_tokens: Some(3), ..requests(1).remove(0) };
    let all = vec![request; 8];
    assert_eq!(computed_and_cached(&mut engine, &all), (800, vec![0; 8]));
    assert_eq!(engine.stats().kv_blocks_cached, 0);
}

#[test]
fn a_seed_of_the_engine_serves_requests_without_one() {
    let request = Request { prompt: vec![1, 2, 3], max_tokens: Some(30), ..Default::default() };
    let run = |seed| {
        let mut engine = engine(64, EngineConfig { seed, ..Default::default() });
        let ids = [(); 3].map(|()| engine.add(request.clone()).unwrap());
        let answers = drain(&mut engine);
        ids.map(|id| answers[&id].0.clone())
    };
    let [first, second, third] = run(1);
    assert!(first != second && second != third, "requests share their draws");
    assert_eq!(run(1), [first.clone(), second, third]);
    assert_ne!(run(2)[0], first);
}

#[test]
fn cancelling_frees_blocks_at_once_and_disturbs_nobody() {
    let requests = requests(12);
    for cancel_at in [0, 1, 2, 5, 9] {
        let mut engine = engine(64, EngineConfig::default());
        let long = Request {
            prompt: common_prompt(7, 100),
            stop: StopConditions { ignore_eos: true, ..Default::default() },
            max_tokens: Some(100),
            ..Default::default()
        };
        let cancelled = engine.add(long).unwrap();
        let ids: Vec<_> = requests.iter().map(|r| engine.add(r.clone()).unwrap()).collect();
        let mut events = Vec::new();
        for _ in 0..cancel_at {
            events.extend(engine.step().unwrap());
        }
        let free = engine.scheduler().pool().free();
        assert!(engine.cancel(cancelled));
        let freed = engine.scheduler().pool().free() - free;
        assert!(if cancel_at == 0 { freed == 0 } else { freed > 0 }, "freed {freed}");
        assert!(!engine.cancel(cancelled), "cancelled twice");
        while !engine.is_idle() {
            events.extend(engine.step().unwrap());
        }
        let ends = |id| {
            let end = |event: &&Event| matches!(event, Event::Finished { id: of, .. } if *of == id);
            events.iter().filter(end).collect::<Vec<_>>()
        };
        assert!(matches!(
            ends(cancelled)[..],
            [Event::Finished { reason: FinishReason::Cancelled, .. }]
        ));
        for (id, request) in ids.into_iter().zip(&requests) {
            let wanted = expected(request, request.max_tokens.unwrap());
            assert!(
                matches!(ends(id)[..], [Event::Finished { reason, .. }] if *reason == wanted.reason)
            );
            let texts = events.iter().filter_map(|event| match event {
                Event::Text { id: of, text, .. } if *of == id => Some(text.as_str()),
                _ => None,
            });
            assert_eq!(texts.collect::<String>(), wanted.text);
        }
    }
}

#[test]
fn cancelling_releases_text_that_was_held_back() {
    let mut engine = engine(8, EngineConfig::default());
    let mut request =
        Request { prompt: vec![1], sampling: SamplingParams::greedy(), ..Default::default() };
    let text = expected(&request, 3).text;
    request.stop.strings = vec![format!("{text} and then something that never comes")];
    let id = engine.add(request).unwrap();
    for _ in 0..3 {
        for event in engine.step().unwrap() {
            let held = |text: &String| text.is_empty();
            assert!(match event {
                Event::Text { text, .. } => held(&text),
                Event::Prompt { .. } => true,
                Event::Finished { .. } => false,
            });
        }
    }
    engine.cancel(id);
    assert!(!engine.is_idle(), "the end is not reported yet");
    let usage = Usage { prompt_tokens: 1, completion_tokens: 3, ..Usage::default() };
    let end = Event::Finished { id, reason: FinishReason::Cancelled, usage };
    assert_eq!(
        engine.step().unwrap(),
        [Event::Text { id, token: None, text, logprobs: None }, end]
    );
    assert!(engine.is_idle());
}

#[test]
fn an_error_of_one_request_does_not_take_others_down() {
    let mut requests = requests(10);
    for poisoned in [2, 5] {
        requests[poisoned].prompt.push(POISON);
    }
    assert!(matches!(expected(&requests[2], 9).reason, FinishReason::Error(_)));
    check_all(engine(64, EngineConfig::default()), &requests);
}

#[test]
fn a_step_that_fails_can_be_repeated() {
    let mut runner = FakeRunner::new(limits(6));
    runner.failures = 3;
    let mut engine =
        Engine::new(Box::new(runner), Arc::new(FakeVocabulary), EngineConfig::default()).unwrap();
    let request = requests(1).remove(0);
    let id = engine.add(request.clone()).unwrap();
    for _ in 0..3 {
        assert!(matches!(engine.step(), Err(EngineError::Model(_))));
        engine.scheduler().check_integrity();
    }
    let answer = expected(&request, request.max_tokens.unwrap());
    assert_eq!(drain(&mut engine)[&id].0, answer);
}

#[test]
fn what_can_never_fit_is_refused_with_its_token_counts() {
    // The context is 200 tokens; a sequence has at most 4 blocks of 32 positions.
    let mut engine = engine(4, EngineConfig::default());
    assert_eq!(engine.max_len(), 129);
    let mut add = |prompt: usize, max_tokens: Option<usize>| {
        engine.add(Request { prompt: vec![1; prompt], max_tokens, ..Default::default() })
    };
    let refused = [
        (add(0, Some(1)), AdmissionError::EmptyPrompt),
        (add(0, None), AdmissionError::EmptyPrompt),
        (add(1, Some(0)), AdmissionError::NoTokens),
        (add(150, Some(51)), AdmissionError::Context { prompt: 150, max_tokens: 51, context: 200 }),
        (
            add(1, Some(usize::MAX)),
            AdmissionError::Context { prompt: 1, max_tokens: usize::MAX, context: 200 },
        ),
        (add(200, None), AdmissionError::Context { prompt: 200, max_tokens: 1, context: 200 }),
        (add(120, Some(10)), AdmissionError::Cache { prompt: 120, max_tokens: 10, cache: 129 }),
        (add(129, None), AdmissionError::Cache { prompt: 129, max_tokens: 1, cache: 129 }),
    ];
    for (result, error) in refused {
        assert_eq!(result, Err(error));
    }
    let text = add(120, Some(10)).unwrap_err().to_string();
    assert!(text.contains("120") && text.contains("10") && text.contains("129"), "{text}");
    assert!(engine.is_idle());
}

#[test]
fn malformed_requests_are_refused() {
    let mut engine = engine(4, EngineConfig::default());
    let good = Request { prompt: vec![1], ..Default::default() };
    let vocabulary = Request { prompt: vec![1, VOCAB as u32], ..good.clone() };
    let error = AdmissionError::Vocabulary { token: VOCAB as u32, vocab: VOCAB };
    assert_eq!(engine.add(vocabulary), Err(error));
    let stop = StopConditions { strings: vec!["a".into(), String::new()], ..Default::default() };
    let error = AdmissionError::EmptyStopString;
    assert_eq!(engine.add(Request { stop, ..good.clone() }), Err(error));
    let sampling = SamplingParams { top_p: 0.0, ..Default::default() };
    let error = engine.add(Request { sampling, ..good }).unwrap_err();
    assert_eq!(error.to_string(), "top_p must be above 0 and at most 1, not 0");
    assert!(engine.is_idle());
}

#[test]
fn without_a_limit_an_answer_fills_what_there_is() {
    for (kv_blocks, prompt) in [(4, 1), (4, 100), (4, 128), (7, 150), (8, 199)] {
        let mut engine = engine(kv_blocks, EngineConfig::default());
        let room = engine.max_len() - prompt;
        let stop = StopConditions { ignore_eos: true, ..Default::default() };
        let request = Request { prompt: vec![3; prompt], stop, ..Default::default() };
        let id = engine.add(request).unwrap();
        let (answer, usage) = drain(&mut engine).remove(&id).unwrap();
        assert_eq!((answer.reason, usage.completion_tokens), (FinishReason::Length, room));
    }
}

#[test]
fn unusable_sizes_are_refused() {
    let usable = limits(4);
    let capacity = usable.capacity;
    let unusable = [
        RunnerLimits { context: 0, ..usable },
        RunnerLimits { vocab: 0, ..usable },
        RunnerLimits { vocab: 1 << 32, ..usable },
        RunnerLimits { kv_blocks: 0, ..usable },
        RunnerLimits { kv_blocks: 1 << 26, ..usable },
        RunnerLimits { kv_blocks: usize::MAX, ..usable },
        RunnerLimits { capacity: StepCapacity { tokens: 0, ..capacity }, ..usable },
        RunnerLimits { capacity: StepCapacity { seqs: 0, ..capacity }, ..usable },
        RunnerLimits { capacity: StepCapacity { samples: 0, ..capacity }, ..usable },
        RunnerLimits { capacity: StepCapacity { blocks_per_seq: 0, ..capacity }, ..usable },
    ];
    for limits in unusable {
        // The fake cache is as large as the pool, so a small one poses as a large one.
        let runner = PosingRunner { limits, inner: FakeRunner::new(usable) };
        let config = EngineConfig::default();
        let engine = Engine::new(Box::new(runner), Arc::new(FakeVocabulary), config);
        assert!(matches!(engine, Err(EngineError::Limits { .. })), "{limits:?}");
    }
    for config in [
        EngineConfig { max_running: Some(0), ..Default::default() },
        EngineConfig { step_tokens: Some(0), ..Default::default() },
    ] {
        let runner = Box::new(FakeRunner::new(usable));
        let engine = Engine::new(runner, Arc::new(FakeVocabulary), config);
        assert!(matches!(engine, Err(EngineError::Limits { .. })), "{config:?}");
    }
}

#[test]
fn a_model_that_returns_the_wrong_number_of_logits_is_an_error() {
    let limits = RunnerLimits { vocab: VOCAB + 1, ..limits(4) };
    let runner = PosingRunner { limits, inner: FakeRunner::new(support::limits(4)) };
    let mut engine =
        Engine::new(Box::new(runner), Arc::new(FakeVocabulary), EngineConfig::default()).unwrap();
    engine.add(Request { prompt: vec![1], ..Default::default() }).unwrap();
    let error = engine.step().unwrap_err();
    let (vocab, got) = (VOCAB + 1, VOCAB);
    assert!(
        matches!(error, EngineError::Logits { rows: 1, vocab: v, got: g } if (v, g) == (vocab, got))
    );
}
