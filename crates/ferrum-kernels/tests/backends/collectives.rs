//! Collectives, each rank on a thread of its own, against sums by hand.

use std::time::Duration;

use ferrum_kernels::params::{AllGather, Broadcast};
use ferrum_kernels::{Backend, Communicator, KernelError, Result};

use crate::common::Rng;
use crate::harness::Subject;

/// One value, odd numbers of them, and those that ranks share out or do not.
const LENGTHS: [usize; 6] = [1, 7, 100, 4096, 4097, 10_007];

/// All that is asked of collectives. It is one test, as an error stays with a device while anybody has
/// it open.
pub fn collectives<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    collectives_of_good_ranks(open);
    a_rank_that_goes_ahead_comes_back(open);
    a_rank_that_leaves_is_an_error(open);
    ranks_that_disagree_are_an_error(open);
    wrong_operands_of_collectives_are_refused(open);
}

/// What does not end a world.
pub fn collectives_of_good_ranks<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    sums_are_the_same_on_all_ranks(open);
    gathers_and_broadcasts(open);
    ranks_may_run_far_ahead(open);
}

/// Runs `rank` on a thread for each of the subjects.
fn on_threads<B: Backend, T: Send>(
    subjects: &mut [Subject<B>],
    rank: impl Fn(&mut Subject<B>, B::Communicator) -> T + Sync,
) -> Vec<T> {
    let devices: Vec<&B> = subjects.iter().map(|subject| &subject.backend).collect();
    let communicators = B::communicators(&devices).expect("a world");
    std::thread::scope(|scope| {
        let rank = &rank;
        let pairs = subjects.iter_mut().zip(communicators);
        let threads: Vec<_> = pairs.map(|(s, c)| scope.spawn(move || rank(s, c))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// The test on the first two, three … of the ranks.
fn of_every_size<B: Backend>(open: fn() -> Vec<Subject<B>>, test: fn(&mut [Subject<B>])) {
    let mut subjects = open();
    assert!(subjects.len() >= 2, "a world of two at least");
    (2..=subjects.len()).for_each(|ranks| test(&mut subjects[..ranks]));
}

/// What each rank brings to a collective over `len` values.
fn parts(ranks: usize, len: usize) -> Vec<Vec<f32>> {
    let mut rng = Rng::new((ranks * 100_000 + len) as u64);
    (0..ranks).map(|_| rng.normals(len, 1.0)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn sums_are_the_same_on_all_ranks<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    of_every_size(open, |subjects| {
        let ranks = subjects.len();
        let sums = on_threads(subjects, |subject, mut c| {
            assert_eq!(c.ranks(), ranks);
            LENGTHS.map(|len| {
                let mut x = subject.target(&parts(ranks, len)[c.rank()]);
                let Subject { backend, stream, .. } = subject;
                backend.all_reduce(stream, &mut c, &mut x, len).expect("a sum");
                subject.result(&x, len)
            })
        });
        for (i, len) in LENGTHS.into_iter().enumerate() {
            let parts = parts(ranks, len);
            for (rank, sums) in sums.iter().enumerate() {
                for (j, &got) in sums[i].iter().enumerate() {
                    let sum: f64 = parts.iter().map(|part| f64::from(part[j])).sum();
                    let what = format!("rank {rank} of {ranks}, value {j} of {len}");
                    assert!((f64::from(got) - sum).abs() < 1e-5, "{what}: {got}, not {sum}");
                }
            }
            assert!(
                sums.iter().all(|other| bits(&other[i]) == bits(&sums[0][i])),
                "{ranks}, {len}"
            );
        }
    });
}

fn gathers_and_broadcasts<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    of_every_size(open, |subjects| {
        let ranks = subjects.len();
        on_threads(subjects, |subject, mut c| {
            for (round, len) in LENGTHS.into_iter().enumerate() {
                let (parts, rank, root) = (parts(ranks, len), c.rank(), round % ranks);
                let src = subject.operand(&parts[rank]);
                let mut dst = subject.target(&vec![0.0; ranks * len]);
                let mut x = subject.target(&parts[rank]);
                let Subject { backend, stream, .. } = subject;
                let p = AllGather { dst: &mut dst, src: &src, len };
                backend.all_gather(stream, &mut c, p).expect("all parts");
                let p = Broadcast { x: &mut x, len, root };
                backend.broadcast(stream, &mut c, p).expect("the root's part");
                let what = format!("rank {rank} of {ranks}, {len}");
                assert_eq!(subject.result(&dst, ranks * len), parts.concat(), "{what}");
                assert_eq!(subject.result(&x, len), parts[root], "{what}");
            }
        });
    });
}

/// One sum after the other of what the last one gave, then of what has been seen of it.
fn sums<B: Backend>(subject: &mut Subject<B>, c: &mut B::Communicator, len: usize) -> Result<()> {
    let mut x = subject.operand(&vec![1.0; 64]);
    let Subject { backend, stream, .. } = subject;
    backend.all_reduce(stream, c, &mut x, len)?;
    backend.synchronize(stream)?;
    backend.all_reduce(stream, c, &mut x, len)?;
    backend.synchronize(stream)
}

/// So many sums of sums that no rank waits for, until the end.
const AHEAD: usize = 40;
/// Launches that the emulated driver has room for.
const LONGEST_QUEUE: usize = 1024;
/// What sixteen ranks can sum up so often.
const LITTLE: f32 = 1e-20;

fn many_sums<B: Backend>(s: &mut Subject<B>, c: &mut B::Communicator) -> Result<Vec<f32>> {
    let mut x = s.target(&[LITTLE; 5]);
    for _ in 0..AHEAD {
        s.backend.all_reduce(&mut s.stream, c, &mut x, 5)?;
    }
    s.backend.synchronize(&mut s.stream)?;
    Ok(s.result(&x, 5))
}

fn ranks_may_run_far_ahead<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    of_every_size(open, |subjects| {
        let expected = (f64::from(LITTLE) * (subjects.len() as f64).powi(AHEAD as i32)) as f32;
        for sums in on_threads(subjects, |subject, mut c| many_sums(subject, &mut c)) {
            let sums = sums.expect("sums");
            assert!(sums.iter().all(|sum| (sum / expected - 1.0).abs() < 1e-5), "{sums:?}");
        }
    });
}

/// Nobody follows it, and those that do not leave only when it is as far ahead as it gets: that must be
/// less than a driver has room for, as it would wait for room with its communicator in use.
fn a_rank_that_goes_ahead_comes_back<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    let mut subjects = open();
    let queued = on_threads(&mut subjects, |subject, mut c| {
        if c.rank() > 0 {
            std::thread::sleep(Duration::from_millis(300));
            return 0;
        }
        let mut x = subject.target(&[LITTLE; 5]);
        let Subject { backend, stream, .. } = subject;
        let sums = (0..LONGEST_QUEUE).map(|_| backend.all_reduce(stream, &mut c, &mut x, 5));
        sums.take_while(|queued| queued.is_ok()).count()
    });
    assert!(queued[0] < LONGEST_QUEUE, "{queued:?}");
}

fn a_rank_that_leaves_is_an_error<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    // Opened anew for each size, because of the error that stays.
    let largest = open().len();
    for ranks in 2..=largest {
        let mut subjects = open();
        let last = ranks - 1;
        let results = on_threads(&mut subjects[..ranks], |subject, mut c| match c.rank() {
            rank if rank == last => Ok(()),
            _ => sums(subject, &mut c, 64),
        });
        assert!(results[..last].iter().all(|result| result.is_err()), "{results:?}");
    }
}

fn ranks_that_disagree_are_an_error<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    let mut subjects = open();
    let ranks = subjects.len();
    let results = on_threads(&mut subjects, |subject, mut c| {
        let len = if c.rank() == 1 { 63 } else { 64 };
        sums(subject, &mut c, len)
    });
    assert_eq!(results.len(), ranks);
    assert!(results.iter().all(|result| result.is_err()), "{results:?}");
}

fn wrong_operands_of_collectives_are_refused<B: Backend>(open: fn() -> Vec<Subject<B>>) {
    of_every_size(open, |subjects| {
        let ranks = subjects.len();
        on_threads(subjects, |subject, mut c| {
            let src = subject.exact(&[1.0; 8]);
            let (mut x, mut dst) = (subject.exact(&[1.0; 8]), subject.exact(&vec![1.0; 8 * ranks]));
            let Subject { backend: b, stream: s, .. } = subject;
            let shape = |result| matches!(result, Err(KernelError::Shape { .. }));
            assert!(shape(b.all_reduce(s, &mut c, &mut x, 9)));
            let p = AllGather { dst: &mut dst, src: &src, len: 9 };
            assert!(shape(b.all_gather(s, &mut c, p)));
            let p = AllGather { dst: &mut dst, src: &src, len: usize::MAX };
            assert!(shape(b.all_gather(s, &mut c, p)));
            let p = Broadcast { x: &mut x, len: 8, root: ranks };
            assert!(shape(b.broadcast(s, &mut c, p)));
            // None of them has come to the others' notice.
            b.all_reduce(s, &mut c, &mut x, 8).expect("a sum");
            b.all_gather(s, &mut c, AllGather { dst: &mut dst, src: &src, len: 8 }).expect("parts");
            b.synchronize(s).expect("done");
        });
    });
}
