//! Cases of the residency, and thousands of random ones.

use super::*;

/// Does what is to be done until there is nothing, and says what it was.
fn settle(r: &mut Residency) -> Vec<Step> {
    let mut done = Vec::new();
    while let Some(step) = r.next_step() {
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

fn three(budget: u64) -> Residency {
    Residency::new(budget, &[10, 10, 10]).unwrap()
}

#[test]
fn a_model_that_can_never_fit_is_named() {
    assert_eq!(Residency::new(9, &[5, 10, 11]).err(), Some(1));
    assert!(Residency::new(11, &[5, 10, 11]).is_ok());
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
    let mut r = Residency::new(10, &[3, 3, 3, 9]).unwrap();
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
    assert_eq!(r.next_step(), Some(Step::Load(0)));
    assert_eq!(r.next_step(), None, "one at a time");
    r.withdraw(&tickets[1]);
    r.failed(0);
    r.check_integrity();
    assert_eq!(r.turn(&tickets[0]), Turn::Failed);
    assert_eq!((r.waiting(0), r.next_step()), (0, None), "nobody waits any more");
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

/// Thousands of random arrivals, ends, withdrawals and failures: sound after each, and once nobody
/// comes any more, everybody has gone.
#[test]
fn random_lives() {
    for seed in 1..30u64 {
        let mut state = seed;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        let bytes = [7, 10, 3, 12, 5];
        let mut r = Residency::new(20, &bytes).unwrap();
        let (mut tickets, mut users, mut doing) = (Vec::new(), Vec::new(), None);
        let (mut arrived, mut ended, mut turns) = (0, 0, 0);
        while arrived < 800 || arrived > ended {
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
                    Some(Step::Load(index)) if below(8) == 0 => r.failed(index),
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
            doing = doing.or_else(|| r.next_step());
            r.check_integrity();
            turns += 1;
            assert!(turns < 200_000, "no end in sight");
        }
    }
}
