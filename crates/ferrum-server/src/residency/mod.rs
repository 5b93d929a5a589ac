//! Which models are in memory: a pure state machine that touches no file, no clock and no thread.
//!
//! A request takes a ticket for its model and goes when the model is there. Models are loaded in
//! the order in which they were first asked for, one at a time. Where the next one does not fit the
//! budget, models make room: the one that was used longest ago among those that nobody uses; and
//! where all are used, the one that was used longest ago takes no further requests until its last
//! one has left. So a model that is in use is never taken from its users, and one that is always in
//! use keeps nobody out for ever.

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

/// See the module.
#[derive(Debug, Clone)]
pub struct Residency {
    budget: u64,
    slots: Vec<Slot>,
    /// Counts what happens, to tell what was before what.
    time: u64,
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
    /// Takes no further requests, so that it can make room.
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
            draining: false,
        }
    }

    /// Whether nobody uses it or is about to.
    fn is_idle(&self) -> bool {
        self.place == Place::In && self.users == 0 && (self.waiting == 0 || self.draining)
    }
}

impl Residency {
    /// Models of these sizes, none of them loaded, within `budget` bytes. The error is the first
    /// model that is larger than that.
    pub fn new(budget: u64, bytes: &[u64]) -> Result<Self, usize> {
        match bytes.iter().position(|&bytes| bytes > budget) {
            Some(index) => Err(index),
            None => {
                let slots = bytes.iter().map(|&bytes| Slot::new(bytes)).collect();
                Ok(Residency { budget, slots, time: 0 })
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

    /// What is to be done now: to be asked after everything that happens. It says nothing while
    /// what it said before is not done.
    pub fn next_step(&mut self) -> Option<Step> {
        if self.slots.iter().any(|s| matches!(s.place, Place::Loading | Place::Leaving)) {
            return None;
        }
        let wanted = self.first_by(|s| s.place == Place::Out && s.waiting > 0, |s| s.wanted_since);
        let fits = wanted.is_none_or(|index| self.slots[index].bytes <= self.budget - self.used());
        if fits {
            self.slots.iter_mut().for_each(|slot| slot.draining = false);
            let index = wanted?;
            self.slots[index].place = Place::Loading;
            return Some(Step::Load(index));
        }
        if let Some(index) = self.first_by(Slot::is_idle, |slot| slot.last_use) {
            let slot = &mut self.slots[index];
            (slot.place, slot.draining) = (Place::Leaving, false);
            if slot.waiting > 0 {
                // Those who wait for it come after those who wait already.
                self.time += 1;
                slot.wanted_since = self.time;
            }
            return Some(Step::Unload(index));
        }
        if !self.slots.iter().any(|slot| slot.draining) {
            // Who waits for a model that is there is about to use it.
            let busy = |slot: &Slot| slot.place == Place::In && slot.waiting == 0;
            if let Some(index) = self.first_by(busy, |slot| slot.last_use) {
                self.slots[index].draining = true;
            }
        }
        None
    }

    /// The model is ready.
    pub fn loaded(&mut self, index: usize) {
        let now = self.tick();
        let slot = &mut self.slots[index];
        assert_eq!(slot.place, Place::Loading, "model {index}");
        (slot.place, slot.last_use) = (Place::In, now);
    }

    /// The model could not be loaded: those who wait for it wait no longer.
    pub fn failed(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        assert_eq!(slot.place, Place::Loading, "model {index}");
        (slot.place, slot.waiting) = (Place::Out, 0);
        slot.failures += 1;
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
        assert!(self.slots.iter().filter(|s| s.draining).count() <= 1, "more drain than needed");
    }

    /// The first model by `key` of those that `is`.
    fn first_by(&self, is: impl Fn(&Slot) -> bool, key: impl Fn(&Slot) -> u64) -> Option<usize> {
        let all = self.slots.iter().enumerate().filter(|(_, slot)| is(slot));
        all.min_by_key(|(_, slot)| key(slot)).map(|(index, _)| index)
    }

    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }
}

#[cfg(test)]
mod tests;
