//! Thousands of random arrivals, cancellations, preemptions and failing requests: the state is
//! sound after every step, every request ends exactly once and rightly, no block leaks.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use ferrum_engine::{Engine, EngineConfig, Event, FinishReason, Request, RequestId};
use support::*;

/// A request under way.
struct Open {
    request: Request,
    tokens: Vec<u32>,
    text: String,
    cancelled: bool,
    /// What the report of its prompt said was cached.
    cached: Option<usize>,
}

/// How a simulation is set up.
#[derive(Clone, Copy)]
struct World {
    kv_blocks: usize,
    arrivals: usize,
    /// Each request has a salt of its own, so that none may use another's blocks.
    strangers: bool,
    config: EngineConfig,
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    /// Steps in which a sequence was preempted.
    preempted: u64,
    cached_tokens: u64,
}

/// Books an event; returns whether a request ended.
fn book(open: &mut BTreeMap<RequestId, Open>, event: Event) -> bool {
    match event {
        Event::Prompt { id, cached_tokens, .. } => {
            let entry = open.get_mut(&id).expect("the prompt of an open request");
            assert!(entry.tokens.is_empty() && cached_tokens < entry.request.prompt.len());
            assert!(entry.cached.replace(cached_tokens).is_none(), "{id} reports its prompt twice");
            false
        }
        Event::Text { id, token, text, .. } => {
            let entry = open.get_mut(&id).expect("text of an open request");
            entry.tokens.extend(token);
            entry.text.push_str(&text);
            false
        }
        Event::Finished { id, reason, usage } => {
            let Open { request, tokens, text, cancelled, cached } =
                open.remove(&id).expect("one end");
            assert_eq!(usage.completion_tokens, tokens.len());
            assert_eq!(usage.cached_tokens, cached.unwrap_or(0));
            let wanted = expected(&request, request.max_tokens.unwrap());
            if cancelled {
                assert_eq!(reason, FinishReason::Cancelled);
                assert!(wanted.tokens.starts_with(&tokens), "{id}");
            } else {
                assert_eq!(Answer { tokens, text, reason }, wanted, "{id}: {request:?}");
            }
            true
        }
    }
}

/// A random request of this world.
fn arrival(world: &World, number: usize, rng: &mut Rng) -> Request {
    let mut request = random_request(rng);
    if rng.one_in(20) {
        request.prompt.push(POISON);
    }
    if rng.one_in(15) {
        request.prompt_logprobs = Some(1);
    }
    if world.strangers {
        request.cache_salt = number as u64;
    }
    request
}

/// Runs all requests of a world to their ends.
fn simulate(seed: u64, world: World) -> Outcome {
    let mut runner = FakeRunner::new(limits(world.kv_blocks));
    runner.draws = seed.is_multiple_of(2);
    let mut engine = Engine::new(Box::new(runner), Arc::new(FakeVocabulary), world.config).unwrap();
    let mut rng = Rng(seed);
    let mut open = BTreeMap::new();
    let (mut added, mut ended, mut steps) = (0, 0, 0);
    while added < world.arrivals || !engine.is_idle() {
        // Bursts and lulls.
        while added < world.arrivals && rng.one_in(if steps / 500 % 2 == 0 { 4 } else { 40 }) {
            let request = arrival(&world, added, &mut rng);
            let id = engine.add(request.clone()).unwrap();
            let (tokens, text, cancelled, cached) = (vec![], String::new(), false, None);
            open.insert(id, Open { request, tokens, text, cancelled, cached });
            added += 1;
        }
        while !open.is_empty() && rng.one_in(30) {
            let chosen = rng.below(open.len());
            let (&id, entry) = open.iter_mut().nth(chosen).unwrap();
            assert_eq!(engine.cancel(id), !entry.cancelled);
            entry.cancelled = true;
            engine.scheduler().check_integrity();
        }
        for event in engine.step().unwrap() {
            ended += usize::from(book(&mut open, event));
        }
        engine.scheduler().check_integrity();
        steps += 1;
        assert!(steps < 200 * world.arrivals, "no end in sight");
    }
    assert!(open.is_empty() && ended == world.arrivals, "{ended} of {} ended", world.arrivals);
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks, "blocks leaked");
    assert!(stats.prefix_hit_tokens < stats.prefix_query_tokens);
    Outcome { preempted: stats.preemptions, cached_tokens: stats.prefix_hit_tokens }
}

/// Worlds of this many blocks, with small and large steps and few and many running at once.
fn simulate_all(kv_blocks: usize, seeds: u64, strangers: bool, config: EngineConfig) -> Outcome {
    let mut sum = Outcome::default();
    for seed in 0..seeds {
        for (max_running, step_tokens) in [(6, 64), (3, 5), (6, 20)] {
            let (max_running, step_tokens) = (Some(max_running), Some(step_tokens));
            let config = EngineConfig { max_running, step_tokens, seed, ..config };
            let outcome = simulate(seed, World { kv_blocks, arrivals: 300, strangers, config });
            sum.preempted += outcome.preempted;
            sum.cached_tokens += outcome.cached_tokens;
        }
    }
    sum
}

#[test]
fn random_lives() {
    for (kv_blocks, preempts) in [(6, true), (9, true), (48, false)] {
        let outcome = simulate_all(kv_blocks, 6, false, EngineConfig::default());
        assert_eq!(outcome.preempted > 0, preempts, "{kv_blocks}: {}", outcome.preempted);
        assert!(outcome.cached_tokens > 0, "nothing was shared");
    }
}

#[test]
fn random_lives_of_strangers() {
    let outcome = simulate_all(9, 2, true, EngineConfig::default());
    assert!(outcome.preempted > 0);
    assert_eq!(outcome.cached_tokens, 0, "a block went from one tenant to another");
}

#[test]
fn random_lives_without_prefix_cache() {
    let config = EngineConfig { prefix_cache: false, itl_target: None, ..Default::default() };
    let outcome = simulate_all(9, 2, false, config);
    assert!(outcome.preempted > 0);
    assert_eq!(outcome.cached_tokens, 0);
}
