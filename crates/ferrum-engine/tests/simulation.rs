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
}

/// Books an event; returns whether a request ended.
fn book(open: &mut BTreeMap<RequestId, Open>, event: Event) -> bool {
    match event {
        Event::Prompt { .. } => false,
        Event::Text { id, token, text, .. } => {
            let entry = open.get_mut(&id).expect("text of an open request");
            entry.tokens.extend(token);
            entry.text.push_str(&text);
            false
        }
        Event::Finished { id, reason, usage } => {
            let Open { request, tokens, text, cancelled } = open.remove(&id).expect("one end");
            assert_eq!(usage.completion_tokens, tokens.len());
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

/// Runs `arrivals` requests to their ends. Returns the steps in which a sequence was preempted.
fn simulate(seed: u64, kv_blocks: usize, config: EngineConfig, arrivals: usize) -> usize {
    let runner = Box::new(FakeRunner::new(limits(kv_blocks)));
    let mut engine = Engine::new(runner, Arc::new(FakeVocabulary), config).unwrap();
    let mut rng = Rng(seed);
    let mut open = BTreeMap::new();
    let (mut added, mut ended, mut steps, mut preempted) = (0, 0, 0, 0);
    while added < arrivals || !engine.is_idle() {
        // Bursts and lulls.
        while added < arrivals && rng.one_in(if steps / 500 % 2 == 0 { 4 } else { 40 }) {
            let mut request = random_request(&mut rng);
            if rng.one_in(20) {
                request.prompt.push(POISON);
            }
            let id = engine.add(request.clone()).unwrap();
            let none = Open { request, tokens: vec![], text: String::new(), cancelled: false };
            open.insert(id, none);
            added += 1;
        }
        while !open.is_empty() && rng.one_in(30) {
            let chosen = rng.below(open.len());
            let (&id, entry) = open.iter_mut().nth(chosen).unwrap();
            assert_eq!(engine.cancel(id), !entry.cancelled);
            entry.cancelled = true;
            engine.scheduler().check_integrity();
        }
        let waiting = engine.scheduler().queue().0;
        let events = engine.step().unwrap();
        preempted += usize::from(engine.scheduler().queue().0 > waiting);
        for event in events {
            ended += usize::from(book(&mut open, event));
        }
        engine.scheduler().check_integrity();
        steps += 1;
        assert!(steps < 200 * arrivals, "no end in sight");
    }
    assert!(open.is_empty() && ended == arrivals, "{ended} of {arrivals} ended");
    let pool = engine.scheduler().pool();
    assert_eq!(pool.free(), pool.capacity(), "blocks leaked");
    preempted
}

#[test]
fn random_lives() {
    for (kv_blocks, preempts) in [(6, true), (9, true), (48, false)] {
        let mut preempted = 0;
        for seed in 0..6 {
            for (max_running, step_tokens) in [(6, 64), (3, 5), (6, 20)] {
                let (max_running, step_tokens) = (Some(max_running), Some(step_tokens));
                let config = EngineConfig { max_running, step_tokens, seed };
                preempted += simulate(seed, kv_blocks, config, 300);
            }
        }
        assert_eq!(preempted > 0, preempts, "{kv_blocks} blocks: {preempted} preemptions");
    }
}
