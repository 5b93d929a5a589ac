//! Tests of the team: every chunk once, panics, parking, many regions.

use super::*;
use std::sync::Barrier;

#[test]
fn every_thread_that_comes_runs_once() {
    for threads in 1..=4 {
        let mut team = Team::new(threads).unwrap();
        let hits: Vec<AtomicU32> = (0..threads).map(|_| AtomicU32::new(0)).collect();
        for round in 1..=100 {
            team.run(&|thread| {
                hits[thread].fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(hits[0].load(Ordering::Relaxed), round, "the caller always");
        }
        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) <= 100), "{threads} threads");
    }
}

#[test]
fn who_comes_too_late_is_left_out_and_who_is_there_is_waited_for() {
    for epoch in [1, 7, u32::MAX, 0] {
        let late = AtomicU64::new(finished(epoch.wrapping_sub(1)));
        close(&late, epoch);
        assert_eq!(late.load(Ordering::Relaxed), finished(epoch));
        let inside = AtomicU64::new(running(epoch));
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(5));
                ended.store(true, Ordering::Relaxed);
                inside.store(finished(epoch), Ordering::Release);
            });
            close(&inside, epoch);
            assert!(ended.load(Ordering::Relaxed));
        });
    }
}

#[test]
fn all_threads_take_part_where_the_caller_waits_for_them() {
    for threads in 1..=4 {
        let mut team = Team::new(threads).unwrap();
        assert_eq!(team.threads(), threads);
        let hits: Vec<AtomicU32> = (0..threads).map(|_| AtomicU32::new(0)).collect();
        let all = Barrier::new(threads);
        for _ in 0..100 {
            team.run(&|thread| {
                all.wait();
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
            for run in [Team::chunks, Team::stream] {
                let hits: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
                run(&mut team, chunks, &|thread, chunk| {
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
}

#[test]
fn many_regions_see_each_others_writes() {
    let mut team = Team::new(3).unwrap();
    let mut values = vec![0u64; 7];
    for round in 0..5_000u64 {
        let cells: Vec<AtomicU64> = values.iter().map(|&v| AtomicU64::new(v)).collect();
        team.chunks(7, &|_, chunk| {
            let value = cells[chunk].load(Ordering::Relaxed);
            assert_eq!(value, round);
            cells[chunk].store(value + 1, Ordering::Relaxed);
        });
        values = cells.into_iter().map(AtomicU64::into_inner).collect();
    }
    assert_eq!(values, [5_000; 7]);
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_goes_on() {
    let mut team = Team::new(4).unwrap();
    for culprit in 0..4 {
        let finished = AtomicU32::new(0);
        let all = Barrier::new(4);
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|thread| {
                all.wait();
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
    let (calls, all) = (AtomicU32::new(0), Barrier::new(4));
    team.run(&|_| {
        all.wait();
        calls.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}

#[test]
fn all_threads_may_panic_at_once() {
    let mut team = Team::new(4).unwrap();
    let all = Barrier::new(4);
    for _ in 0..20 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|thread| {
                all.wait();
                resume_unwind(Box::new(thread))
            });
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
        let (calls, all) = (AtomicU32::new(0), Barrier::new(4));
        team.run(&|_| {
            all.wait();
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.load(Ordering::Relaxed), 4);
    }
}

#[test]
fn teams_nest_where_they_differ() {
    let mut outer = Team::new(2).unwrap();
    let calls = AtomicU32::new(0);
    outer.chunks(2, &|_, _| {
        let mut inner = Team::new(2).unwrap();
        inner.chunks(2, &|_, _| {
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
