//! Which models are in memory: a pure state machine that touches no file, no clock and no thread.
//! The time is told to it.
//!
//! A request takes a ticket for its model and goes when the model is there. Models are loaded in
//! the order in which they were first asked for, one at a time. Where the next one does not fit the
//! budget, models make room: those that were used longest ago among those that nobody uses, if they
//! make enough of it. Where they do not, they stay, and of the models in use as many as it takes
//! accept no further requests until their last ones have left. So a model in use is never taken from
//! its users, and one that is always in use keeps nobody out.
//!
//! Requests are held back for another model's sake within bounds ([`Patience::drain`]). When the
//! time is up, those that wait get in, and the model that wants the room goes to the end of the
//! queue; its next try lasts twice as long, up to [`Patience::longest_drain`]. Only a model whose
//! answers all take longer than that and follow each other without a gap keeps others out.
//!
//! A model that could not be loaded is not tried again for a while, which grows with each failure.

use std::time::Duration;

/// Where a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not in memory.
    Out,
    /// It is being loaded; its memory is taken already.
    Loading,
    /// Ready.
    In,
    /// It is being taken out; its memory is still taken.
    Leaving,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Load this model, then say [`Residency::loaded`] or [`Residency::failed`].
    Load(usize),
    /// Take this model out, then say [`Residency::unloaded`].
    Unload(usize),
}

/// A request that waits for its model. It ends by [`Residency::turn`] saying other than
/// [`Turn::Wait`], or by [`Residency::withdraw`].
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    index: usize,
    /// Failed loads of the model before.
    failures: u64,
}

/// Whether a request may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It uses the model from now on, until [`Residency::leave`].
    Go,
    /// Not yet.
    Wait,
    /// The model could not be loaded.
    Failed,
}

/// Times of a [`Residency`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For how long models that make room accept no requests, at first.
    pub drain: Duration,
    /// What that grows to where it was in vain.
    pub longest_drain: Duration,
    /// For how long a model that could not be loaded is not tried again, at first.
    pub retry: Duration,
    /// What that grows to.
    pub longest_retry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Patience {
            drain: seconds(10),
            longest_drain: seconds(80),
            retry: seconds(5),
            longest_retry: seconds(60),
        }
    }
}

/// See the module. Times are told since some moment of the caller's choice.
#[derive(Debug, Clone)]
pub struct Residency {
    budget: u64,
    slots: Vec<Slot>,
    patience: Patience,
    /// Counts what happens, to tell what was before what.
    time: u64,
    drain: Option<Drain>,
    /// Before this no further drain begins: those that the last one held back get in.
    respite: Option<Duration>,
}

/// Models that accept no requests, so that another can be loaded.
#[derive(Debug, Clone, Copy)]
struct Drain {
    /// That one.
    wanted: usize,
    /// When it is given up.
    until: Duration,
}

#[derive(Debug, Clone)]
struct Slot {
    bytes: u64,
    place: Place,
    /// Requests that use it.
    users: usize,
    /// Requests that wait for it.
    waiting: usize,
    /// When the first of those came.
    wanted_since: u64,
    last_use: u64,
    failures: u64,
    /// Of these, since it was loaded last.
    failures_in_a_row: u32,
    /// Before this it is not loaded.
    retry: Duration,
    /// Drains for its sake that were given up.
    vain: u32,
    /// Accepts no further requests, so that it can make room.
    draining: bool,
}

impl Slot {
    fn new(bytes: u64) -> Self {
        Slot {
            bytes,
            place: Place::Out,
            users: 0,
            waiting: 0,
            wanted_since: 0,
            last_use: 0,
            failures: 0,
            failures_in_a_row: 0,
            retry: Duration::ZERO,
            vain: 0,
            draining: false,
        }
    }

    /// Whether nobody uses it or is about to.
    fn is_idle(&self) -> bool {
        self.place == Place::In && self.users == 0 && (self.waiting == 0 || self.draining)
    }

    /// Whether it can be told to accept no further requests. Who waits for a model that is there is
    /// about to use it.
    fn can_drain(&self) -> bool {
        self.place == Place::In && self.users > 0 && self.waiting == 0 && !self.draining
    }
}

impl Residency {
    /// Models of these sizes, none of them loaded, within `budget` bytes. The error is the first
    /// model that is larger than that.
    pub fn new(budget: u64, bytes: &[u64], patience: Patience) -> Result<Self, usize> {
        match bytes.iter().position(|&bytes| bytes > budget) {
            Some(index) => Err(index),
            None => {
                let slots = bytes.iter().map(|&bytes| Slot::new(bytes)).collect();
                Ok(Residency { budget, slots, patience, time: 0, drain: None, respite: None })
            }
        }
    }

    /// A request comes for this model.
    pub fn arrive(&mut self, index: usize) -> Ticket {
        let now = self.tick();
        let slot = &mut self.slots[index];
        slot.waiting += 1;
        if slot.waiting == 1 {
            slot.wanted_since = now;
        }
        Ticket { index, failures: slot.failures }
    }

    /// Whether the request may go; unless it says [`Turn::Wait`] the ticket is used up.
    pub fn turn(&mut self, ticket: &Ticket) -> Turn {
        let now = self.tick();
        let slot = &mut self.slots[ticket.index];
        if slot.failures != ticket.failures {
            return Turn::Failed;
        }
        if slot.place != Place::In || slot.draining {
            return Turn::Wait;
        }
        slot.waiting -= 1;
        slot.users += 1;
        slot.last_use = now;
        Turn::Go
    }

    /// The request waits no longer.
    pub fn withdraw(&mut self, ticket: &Ticket) {
        let slot = &mut self.slots[ticket.index];
        if slot.failures == ticket.failures {
            slot.waiting -= 1;
        }
    }

    /// A request that used this model has ended.
    pub fn leave(&mut self, index: usize) {
        let now = self.tick();
        let slot = &mut self.slots[index];
        slot.users -= 1;
        slot.last_use = now;
    }

    /// What is to be done now: to be asked after everything that happens, and at the time of
    /// [`Residency::alarm`]. It says nothing while what it said before is not done.
    pub fn next_step(&mut self, now: Duration) -> Option<Step> {
        if self.is_moving() {
            return None;
        }
        if let Some(drain) = self.drain.filter(|drain| now >= drain.until) {
            self.relent(drain.wanted, now);
        }
        self.respite = self.respite.filter(|&end| now < end);
        let wanted = self.wanted();
        let need = wanted
            .map_or(0, |index| self.slots[index].bytes.saturating_sub(self.budget - self.used()));
        if need == 0 || self.drain.is_some_and(|drain| Some(drain.wanted) != wanted) {
            self.stop_draining();
        }
        let wanted = wanted?;
        if need == 0 {
            self.slots[wanted].place = Place::Loading;
            return Some(Step::Load(wanted));
        }
        let Some(chosen) = self.longest_unused(need, Slot::is_idle) else {
            self.drain_for(wanted, need, now);
            return None;
        };
        // Nobody is to take the others meanwhile: then this one would be lost for nothing.
        self.hold_back(&chosen, Drain { wanted, until: Duration::MAX });
        let first = *chosen.first()?;
        self.time += 1;
        let slot = &mut self.slots[first];
        (slot.place, slot.draining) = (Place::Leaving, false);
        if slot.waiting > 0 {
            // Those who wait for it come after those who wait already.
            slot.wanted_since = self.time;
        }
        Some(Step::Unload(first))
    }

    /// When there may be something to do although nothing happens.
    pub fn alarm(&self) -> Option<Duration> {
        if self.is_moving() {
            return None;
        }
        let respite = || self.respite.filter(|_| self.wanted().is_some());
        self.drain.map(|drain| drain.until).or_else(respite)
    }

    /// The model is ready.
    pub fn loaded(&mut self, index: usize) {
        let now = self.tick();
        let slot = &mut self.slots[index];
        assert_eq!(slot.place, Place::Loading, "model {index}");
        (slot.place, slot.last_use) = (Place::In, now);
        (slot.failures_in_a_row, slot.vain) = (0, 0);
    }

    /// The model could not be loaded: those who wait for it wait no longer.
    pub fn failed(&mut self, index: usize, now: Duration) {
        let slot = &mut self.slots[index];
        assert_eq!(slot.place, Place::Loading, "model {index}");
        (slot.place, slot.waiting) = (Place::Out, 0);
        slot.failures += 1;
        let Patience { retry, longest_retry, .. } = self.patience;
        slot.retry = now.saturating_add(doubled(retry, slot.failures_in_a_row, longest_retry));
        slot.failures_in_a_row = slot.failures_in_a_row.saturating_add(1);
    }

    /// The time left for which the model is not to be asked for, because it could not be loaded.
    pub fn refuses(&self, index: usize, now: Duration) -> Option<Duration> {
        let slot = &self.slots[index];
        let left = slot.retry.saturating_sub(now);
        (slot.failures_in_a_row > 0 && !left.is_zero()).then_some(left)
    }

    /// The model may be asked for again: what kept it from being loaded has changed.
    pub fn forgive(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        (slot.failures_in_a_row, slot.retry) = (0, Duration::ZERO);
    }

    /// The model is out of memory.
    pub fn unloaded(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        assert_eq!(slot.place, Place::Leaving, "model {index}");
        slot.place = Place::Out;
    }

    /// Where a model is.
    pub fn place(&self, index: usize) -> Place {
        self.slots[index].place
    }

    /// Requests that use a model.
    pub fn users(&self, index: usize) -> usize {
        self.slots[index].users
    }

    /// Requests that wait for a model.
    pub fn waiting(&self, index: usize) -> usize {
        self.slots[index].waiting
    }

    /// Bytes that models take.
    pub fn used(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.place != Place::Out).map(|slot| slot.bytes).sum()
    }

    /// Holds the state against the invariants of this module.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check_integrity(&self) {
        assert!(self.used() <= self.budget, "{} bytes of {}", self.used(), self.budget);
        let moving = |s: &&Slot| matches!(s.place, Place::Loading | Place::Leaving);
        assert!(self.slots.iter().filter(moving).count() <= 1, "two at a time");
        for (index, slot) in self.slots.iter().enumerate() {
            let used = slot.users > 0;
            assert!(!used || slot.place == Place::In, "model {index} was taken from its users");
            assert!(!slot.draining || slot.place == Place::In, "model {index} drains");
        }
        let drains = self.slots.iter().any(|slot| slot.draining);
        assert!(!drains || self.drain.is_some(), "a drain for nothing");
    }

    /// The model that is to be loaded next.
    fn wanted(&self) -> Option<usize> {
        let all = self.slots.iter().enumerate();
        let wanted = all.filter(|(_, slot)| slot.place == Place::Out && slot.waiting > 0);
        wanted.min_by_key(|(_, slot)| slot.wanted_since).map(|(index, _)| index)
    }

    fn is_moving(&self) -> bool {
        self.slots.iter().any(|s| matches!(s.place, Place::Loading | Place::Leaving))
    }

    /// Of the models that `is`, those used longest ago that have `need` bytes together, and none
    /// that it does not take; `None` where all have less.
    fn longest_unused(&self, need: u64, is: impl Fn(&Slot) -> bool) -> Option<Vec<usize>> {
        let bytes = |index: usize| self.slots[index].bytes;
        let mut order: Vec<usize> =
            (0..self.slots.len()).filter(|&index| is(&self.slots[index])).collect();
        order.sort_by_key(|&index| self.slots[index].last_use);
        let (mut chosen, mut sum) = (Vec::new(), 0u64);
        for index in order {
            if sum < need {
                sum += bytes(index);
                chosen.push(index);
            }
        }
        if sum < need {
            return None;
        }
        for place in (0..chosen.len()).rev() {
            if sum - bytes(chosen[place]) >= need {
                sum -= bytes(chosen.remove(place));
            }
        }
        Some(chosen)
    }

    /// Has as many models in use as it takes accept no further requests, until they and the idle
    /// ones make `need` bytes of room.
    fn drain_for(&mut self, wanted: usize, need: u64, now: Duration) {
        if self.respite.is_some() {
            return;
        }
        let free_soon = |slot: &&Slot| slot.is_idle() || slot.draining;
        let sum: u64 = self.slots.iter().filter(free_soon).map(|slot| slot.bytes).sum();
        if let Some(rest) = need.checked_sub(sum).filter(|&rest| rest > 0)
            && let Some(chosen) = self.longest_unused(rest, Slot::can_drain)
        {
            let Patience { drain, longest_drain, .. } = self.patience;
            let time = doubled(drain, self.slots[wanted].vain, longest_drain);
            self.hold_back(&chosen, Drain { wanted, until: now.saturating_add(time) });
        }
    }

    /// A drain that goes on already keeps its end.
    fn hold_back(&mut self, chosen: &[usize], drain: Drain) {
        chosen.iter().for_each(|&index| self.slots[index].draining = true);
        self.drain.get_or_insert(drain);
    }

    /// Gives a drain up: those that it held back get in, and others get their turn before it.
    fn relent(&mut self, wanted: usize, now: Duration) {
        self.stop_draining();
        self.respite = Some(now.saturating_add(self.patience.drain / 2));
        let time = self.tick();
        let slot = &mut self.slots[wanted];
        slot.vain = slot.vain.saturating_add(1);
        slot.wanted_since = time;
    }

    fn stop_draining(&mut self) {
        self.drain = None;
        self.slots.iter_mut().for_each(|slot| slot.draining = false);
    }

    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }
}

/// `time` doubled so many times, up to `most`.
fn doubled(time: Duration, times: u32, most: Duration) -> Duration {
    time.saturating_mul(2u32.saturating_pow(times)).min(most)
}

#[cfg(test)]
mod tests;
