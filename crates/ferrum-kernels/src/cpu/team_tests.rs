//! Tests of the team: every chunk once, panics, parking, many regions.

use super::*;
use std::sync::atomic::AtomicU64;

#[test]
fn every_thread_runs_once() {
    for threads in 1..=4 {
        let mut team = Team::new(threads).unwrap();
        assert_eq!(team.threads(), threads);
        let hits: Vec<AtomicU32> = (0..threads).map(|_| AtomicU32::new(0)).collect();
        for _ in 0..100 {
            team.run(&|thread| {
                hits[thread].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 100), "{threads} threads");
    }
}

#[test]
fn every_chunk_runs_once() {
    for threads in 1..=4 {
        let mut team = Team::new(threads).unwrap();
        for chunks in [0, 1, 2, 3, 4, 5, 7, 64, 1000] {
            let hits: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
            team.chunks(chunks, &|thread, chunk| {
                assert!(thread < threads);
                hits[chunk].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                hits.iter().all(|h| h.load(Ordering::Relaxed) == 1),
                "{threads} threads, {chunks} chunks"
            );
        }
    }
}

#[test]
fn many_regions_see_each_others_writes() {
    let mut team = Team::new(3).unwrap();
    let mut values = vec![0u64; 3];
    for round in 0..5_000u64 {
        let cells: Vec<AtomicU64> = values.iter().map(|&v| AtomicU64::new(v)).collect();
        team.run(&|thread| {
            let value = cells[thread].load(Ordering::Relaxed);
            assert_eq!(value, round);
            cells[thread].store(value + 1, Ordering::Relaxed);
        });
        values = cells.into_iter().map(AtomicU64::into_inner).collect();
    }
    assert_eq!(values, [5_000; 3]);
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_goes_on() {
    let mut team = Team::new(4).unwrap();
    for culprit in 0..4 {
        let finished = AtomicU32::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|thread| {
                if thread == culprit {
                    resume_unwind(Box::new(format!("thread {thread}")));
                }
                finished.fetch_add(1, Ordering::Relaxed);
            });
        }));
        let payload = result.unwrap_err();
        assert_eq!(payload.downcast_ref::<String>(), Some(&format!("thread {culprit}")));
        assert_eq!(finished.load(Ordering::Relaxed), 3, "the others finish first");
    }
    let calls = AtomicU32::new(0);
    team.run(&|_| {
        calls.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}

#[test]
fn all_threads_may_panic_at_once() {
    let mut team = Team::new(4).unwrap();
    for _ in 0..20 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|thread| resume_unwind(Box::new(thread)));
        }));
        assert!(result.is_err());
    }
}

#[test]
fn idle_workers_park_and_wake() {
    let mut team = Team::new(4).unwrap();
    for _ in 0..3 {
        let deadline = Instant::now() + Duration::from_secs(20);
        while team.shared.front.0.parked.load(Ordering::SeqCst) < 3 {
            assert!(Instant::now() < deadline, "the workers never parked");
            thread::sleep(Duration::from_millis(1));
        }
        let calls = AtomicU32::new(0);
        team.run(&|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.load(Ordering::Relaxed), 4);
    }
}

#[test]
fn teams_nest_where_they_differ() {
    let mut outer = Team::new(2).unwrap();
    let calls = AtomicU32::new(0);
    outer.run(&|_| {
        let mut inner = Team::new(2).unwrap();
        inner.run(&|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}

#[test]
fn a_team_moves_between_threads() {
    let mut team = Team::new(2).unwrap();
    for _ in 0..10 {
        team = thread::spawn(move || {
            team.chunks(16, &|_, _| {});
            team
        })
        .join()
        .unwrap();
    }
}

#[test]
fn dropping_joins_the_workers() {
    for wait in [0, 5] {
        let team = Team::new(3).unwrap();
        let shared = Arc::downgrade(&team.shared);
        thread::sleep(Duration::from_millis(wait));
        drop(team);
        assert!(shared.upgrade().is_none(), "a worker is still alive");
    }
}
