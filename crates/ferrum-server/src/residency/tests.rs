//! Cases of the residency, and thousands of random ones.

use super::*;

const ZERO: Duration = Duration::ZERO;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Does what is to be done until there is nothing, and says what it was.
fn settle(r: &mut Residency) -> Vec<Step> {
    settle_at(r, ZERO)
}

fn settle_at(r: &mut Residency, now: Duration) -> Vec<Step> {
    let mut done = Vec::new();
    while let Some(step) = r.next_step(now) {
        r.check_integrity();
        match step {
            Step::Load(index) => r.loaded(index),
            Step::Unload(index) => r.unloaded(index),
        }
        done.push(step);
    }
    r.check_integrity();
    done
}

/// A request for a model that is there or comes at once.
fn enter(r: &mut Residency, index: usize) -> Vec<Step> {
    let ticket = r.arrive(index);
    let done = settle(r);
    assert_eq!(r.turn(&ticket), Turn::Go);
    done
}

fn new(budget: u64, bytes: &[u64]) -> Residency {
    Residency::new(budget, bytes, Patience::default()).unwrap()
}

fn three(budget: u64) -> Residency {
    new(budget, &[10, 10, 10])
}

#[test]
fn a_model_that_can_never_fit_is_named() {
    let new = |budget| Residency::new(budget, &[5, 10, 11], Patience::default());
    assert_eq!(new(9).err(), Some(1));
    assert!(new(11).is_ok());
}

#[test]
fn what_was_used_longest_ago_makes_room() {
    let mut r = three(20);
    assert_eq!(enter(&mut r, 0), [Step::Load(0)]);
    assert_eq!(enter(&mut r, 1), [Step::Load(1)]);
    r.leave(0);
    r.leave(1);
    assert_eq!(settle(&mut r), []);
    enter(&mut r, 0);
    r.leave(0);
    assert_eq!(enter(&mut r, 2), [Step::Unload(1), Step::Load(2)]);
    // 2 is in use, so 0 goes although it was used later than 1.
    assert_eq!(enter(&mut r, 1), [Step::Unload(0), Step::Load(1)]);
}

#[test]
fn room_is_made_by_as_many_as_it_takes() {
    let mut r = new(10, &[3, 3, 3, 9]);
    for index in 0..3 {
        enter(&mut r, index);
        r.leave(index);
    }
    let all = [Step::Unload(0), Step::Unload(1), Step::Unload(2), Step::Load(3)];
    assert_eq!(enter(&mut r, 3), all);
}

#[test]
fn a_model_in_use_drains_first() {
    let mut r = three(20);
    enter(&mut r, 0);
    enter(&mut r, 1);
    let two = r.arrive(2);
    assert_eq!(settle(&mut r), []);
    assert_eq!(r.turn(&two), Turn::Wait);
    // 0 was used longest ago: it takes nobody any more, 1 does.
    let late = r.arrive(0);
    settle(&mut r);
    assert_eq!(r.turn(&late), Turn::Wait);
    enter(&mut r, 1);
    r.leave(0);
    assert_eq!(settle(&mut r), [Step::Unload(0), Step::Load(2)]);
    assert_eq!(r.turn(&two), Turn::Go);
    assert_eq!(r.turn(&late), Turn::Wait);
    // Now it is 0 that is wanted; the model used longest ago is 1.
    r.leave(1);
    r.leave(1);
    assert_eq!(settle(&mut r), [Step::Unload(1), Step::Load(0)]);
    assert_eq!(r.turn(&late), Turn::Go);
}

#[test]
fn who_gives_up_lets_others_go_on() {
    let mut r = three(10);
    enter(&mut r, 0);
    let one = r.arrive(1);
    settle(&mut r);
    let late = r.arrive(0);
    settle(&mut r);
    assert_eq!(r.turn(&late), Turn::Wait, "it drains for 1");
    r.withdraw(&one);
    assert_eq!(settle(&mut r), []);
    assert_eq!(r.turn(&late), Turn::Go);
}

#[test]
fn a_load_that_fails_ends_what_waits_for_it() {
    let mut r = three(10);
    let tickets = [r.arrive(0), r.arrive(0)];
    assert_eq!(r.next_step(ZERO), Some(Step::Load(0)));
    assert_eq!(r.next_step(ZERO), None, "one at a time");
    r.withdraw(&tickets[1]);
    r.failed(0, ZERO);
    r.check_integrity();
    assert_eq!(r.turn(&tickets[0]), Turn::Failed);
    assert_eq!((r.waiting(0), r.next_step(ZERO)), (0, None), "nobody waits any more");
    r.withdraw(&tickets[0]);
    assert_eq!(enter(&mut r, 0), [Step::Load(0)], "the next one tries again");
}

#[test]
fn first_come_first_loaded() {
    let mut r = three(10);
    enter(&mut r, 0);
    let (two, one) = (r.arrive(2), r.arrive(1));
    settle(&mut r);
    r.leave(0);
    assert_eq!(settle(&mut r), [Step::Unload(0), Step::Load(2)]);
    assert_eq!((r.turn(&two), r.turn(&one)), (Turn::Go, Turn::Wait));
    r.leave(2);
    assert_eq!(settle(&mut r), [Step::Unload(2), Step::Load(1)]);
}

#[test]
fn idle_models_stay_where_they_do_not_make_enough_room() {
    let mut r = new(20, &[5, 15, 20]);
    enter(&mut r, 0);
    r.leave(0);
    enter(&mut r, 1);
    let large = r.arrive(2);
    assert_eq!(settle(&mut r), [], "without 1, what 0 takes is not enough");
    // So 0 goes on meanwhile, and 1 accepts nobody.
    assert_eq!(enter(&mut r, 0), []);
    r.leave(0);
    let late = r.arrive(1);
    settle(&mut r);
    assert_eq!(r.turn(&late), Turn::Wait);
    r.leave(1);
    assert_eq!(settle(&mut r), [Step::Unload(0), Step::Unload(1), Step::Load(2)]);
    assert_eq!(r.turn(&large), Turn::Go);
}

#[test]
fn no_more_models_go_than_it_takes() {
    let mut r = new(20, &[3, 15, 15]);
    for index in [0, 1] {
        enter(&mut r, index);
        r.leave(index);
    }
    // 0 was used longer ago, but 1 is enough by itself, and 0 is not.
    assert_eq!(enter(&mut r, 2), [Step::Unload(1), Step::Load(2)]);
}

#[test]
fn what_is_chosen_to_go_is_not_taken_meanwhile() {
    let mut r = new(10, &[5, 5, 10]);
    for index in [0, 1] {
        enter(&mut r, index);
        r.leave(index);
    }
    let large = r.arrive(2);
    assert_eq!(r.next_step(ZERO), Some(Step::Unload(0)));
    let late = r.arrive(1);
    assert_eq!(r.turn(&late), Turn::Wait, "then 0 would be lost for nothing");
    r.unloaded(0);
    assert_eq!(settle(&mut r), [Step::Unload(1), Step::Load(2)]);
    assert_eq!((r.turn(&large), r.turn(&late)), (Turn::Go, Turn::Wait));
    r.leave(2);
    assert_eq!(settle(&mut r), [Step::Unload(2), Step::Load(1)]);
    assert_eq!(r.turn(&late), Turn::Go);
}

#[test]
fn requests_are_held_back_for_a_time_that_grows() {
    let mut r = three(10);
    enter(&mut r, 0);
    let one = r.arrive(1);
    let mut now = 100;
    for hold in [10, 20, 40, 80, 80] {
        settle_at(&mut r, at(now));
        assert_eq!(r.alarm(), Some(at(now + hold)));
        let two = r.arrive(0);
        settle_at(&mut r, at(now + hold - 1));
        assert_eq!(r.turn(&two), Turn::Wait, "it makes room for another");
        settle_at(&mut r, at(now + hold));
        assert_eq!(r.turn(&two), Turn::Go, "in vain, for now");
        // Those that come in the time after get in, too.
        assert_eq!(r.alarm(), Some(at(now + hold + 5)));
        let three = r.arrive(0);
        settle_at(&mut r, at(now + hold + 4));
        assert_eq!(r.turn(&three), Turn::Go);
        r.leave(0);
        r.leave(0);
        now += hold + 5;
    }
    settle_at(&mut r, at(now));
    r.leave(0);
    assert_eq!(settle_at(&mut r, at(now + 1)), [Step::Unload(0), Step::Load(1)]);
    assert_eq!(r.turn(&one), Turn::Go);
    assert_eq!(r.alarm(), None);
    r.leave(1);
    let zero = r.arrive(0);
    assert_eq!(settle_at(&mut r, at(now + 2)), [Step::Unload(1), Step::Load(0)]);
    assert_eq!(r.turn(&zero), Turn::Go);
    // As it was loaded, its next try begins with a short time again.
    let one = r.arrive(1);
    settle_at(&mut r, at(now + 3));
    assert_eq!(r.alarm(), Some(at(now + 13)));
    r.withdraw(&one);
    settle_at(&mut r, at(now + 3));
    assert_eq!(r.alarm(), None);
}

#[test]
fn a_drain_is_for_one_model() {
    let mut r = new(20, &[10, 10, 20, 5]);
    enter(&mut r, 0);
    enter(&mut r, 1);
    let (large, _small) = (r.arrive(2), r.arrive(3));
    settle(&mut r);
    let late = [r.arrive(0), r.arrive(1)];
    assert_eq!(late.each_ref().map(|ticket| r.turn(ticket)), [Turn::Wait; 2]);
    r.withdraw(&large);
    settle(&mut r);
    // Those that were held back get in, and the small one needs the room of one model.
    assert_eq!(late.each_ref().map(|ticket| r.turn(ticket)), [Turn::Go; 2]);
    assert_eq!(settle(&mut r), []);
    r.leave(0);
    r.leave(0);
    assert_eq!(settle(&mut r), [Step::Unload(0), Step::Load(3)]);
}

#[test]
fn who_waits_in_vain_lets_others_go_before() {
    let mut r = new(10, &[8, 10, 2]);
    enter(&mut r, 0);
    let (_one, two) = (r.arrive(1), r.arrive(2));
    assert_eq!(settle(&mut r), []);
    assert_eq!(settle_at(&mut r, at(10)), [Step::Load(2)]);
    assert_eq!(r.turn(&two), Turn::Go);
}

#[test]
fn a_failure_is_remembered_for_a_time_that_grows() {
    let mut r = three(10);
    let mut now = 7;
    for wait in [5, 10, 20, 40, 60, 60] {
        assert_eq!(r.refuses(0, at(now)), None);
        let ticket = r.arrive(0);
        assert_eq!(r.next_step(at(now)), Some(Step::Load(0)));
        r.failed(0, at(now));
        assert_eq!(r.turn(&ticket), Turn::Failed);
        assert_eq!(r.refuses(0, at(now + 1)), Some(at(wait - 1)));
        now += wait;
    }
    r.arrive(0);
    r.next_step(at(now));
    r.failed(0, at(now));
    r.forgive(0);
    assert_eq!(r.refuses(0, at(now)), None);
    assert_eq!(enter(&mut r, 0), [Step::Load(0)]);
    r.leave(0);
    enter(&mut r, 1);
    r.leave(1);
    r.arrive(0);
    assert_eq!(settle(&mut r).pop(), Some(Step::Load(0)));
    assert_eq!(r.refuses(0, at(now)), None, "what it was is forgotten");
}

/// Thousands of random arrivals, ends, withdrawals and failures: sound after each, and once nobody
/// comes any more, everybody has gone. Models go only where what they free is enough, and none holds
/// requests back for longer than it may.
#[test]
fn random_lives() {
    for seed in 1..30u64 {
        let mut state = seed;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        let bytes = [7, 10, 3, 12, 5];
        let mut r = new(20, &bytes);
        let (mut tickets, mut users, mut doing) = (Vec::new(), Vec::new(), None);
        let (mut arrived, mut ended, mut turns) = (0, 0, 0);
        let (mut now, mut held) = (ZERO, [None; 5]);
        while arrived < 800 || arrived > ended {
            now += Duration::from_millis(below(3000) as u64);
            match below(7) {
                0 | 1 if arrived < 800 => {
                    tickets.push(r.arrive(below(bytes.len())));
                    arrived += 1;
                }
                2 if !users.is_empty() => {
                    r.leave(users.swap_remove(below(users.len())));
                    ended += 1;
                }
                3 if !tickets.is_empty() && below(9) == 0 => {
                    let ticket = tickets.swap_remove(below(tickets.len()));
                    r.withdraw(&ticket);
                    ended += 1;
                }
                4 | 5 => match doing.take() {
                    Some(Step::Load(index)) if below(8) == 0 => r.failed(index, now),
                    Some(Step::Load(index)) => r.loaded(index),
                    Some(Step::Unload(index)) => r.unloaded(index),
                    None => {}
                },
                _ if !tickets.is_empty() => {
                    let chosen = below(tickets.len());
                    match r.turn(&tickets[chosen]) {
                        Turn::Go => users.push(tickets.swap_remove(chosen).index),
                        Turn::Failed => {
                            tickets.swap_remove(chosen);
                            ended += 1;
                        }
                        Turn::Wait => {}
                    }
                }
                _ => {}
            }
            if doing.is_none() {
                doing = r.next_step(now);
                if let Some(Step::Unload(index)) = doing {
                    check_eviction(&r, index);
                }
                check_held(&r, &mut held, now);
            }
            r.check_integrity();
            turns += 1;
            assert!(turns < 200_000, "no end in sight");
        }
    }
}

/// What leaves makes, with what nobody uses, enough room for the model that is wanted.
fn check_eviction(r: &Residency, leaving: usize) {
    let wanted = r.wanted().expect("a model that is wanted");
    let idle = |slot: &&Slot| slot.is_idle();
    let idle: u64 = r.slots.iter().filter(idle).map(|slot| slot.bytes).sum();
    let room = r.budget - r.used() + r.slots[leaving].bytes + idle;
    assert!(room >= r.slots[wanted].bytes, "{leaving} goes for nothing");
}

/// None accepts no requests for longer than it may. Models that leave meanwhile take some time here.
fn check_held(r: &Residency, held: &mut [Option<Duration>], now: Duration) {
    for (held, slot) in held.iter_mut().zip(&r.slots) {
        let since = *held.get_or_insert(now);
        assert!(now - since <= at(80 + 60), "held back for {:?}", now - since);
        *held = held.filter(|_| slot.draining);
    }
}
