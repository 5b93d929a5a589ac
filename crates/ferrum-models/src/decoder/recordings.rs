//! Which steps are recorded: those that only decode, of a shape that comes again.

use std::collections::HashMap;

use ferrum_kernels::{Backend, StepShape};

/// Shapes that are kept; a device has a few hundred kilobytes for each.
const MOST: usize = 128;

/// Recorded steps by their shapes.
pub(super) struct Recordings<B: Backend> {
    /// `None` once the backend has said that it cannot record.
    kept: Option<HashMap<StepShape, Option<B::Recording>>>,
}

impl<B: Backend> Default for Recordings<B> {
    fn default() -> Self {
        Recordings { kept: Some(HashMap::new()) }
    }
}

impl<B: Backend> Recordings<B> {
    /// Whether a step of this shape is to be replayed or recorded: one token a sequence, and not the
    /// first of its shape, so that all scratch memory is there.
    pub fn wants(&mut self, shape: &StepShape) -> bool {
        let Some(kept) = &mut self.kept else { return false };
        if shape.tokens != shape.seqs {
            return false;
        }
        if kept.contains_key(shape) {
            return true;
        }
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(*shape, None);
        false
    }

    /// What was recorded of a step of this shape.
    pub fn get(&self, shape: &StepShape) -> Option<&B::Recording> {
        self.kept.as_ref()?.get(shape)?.as_ref()
    }

    /// Keeps what was recorded.
    pub fn keep(&mut self, shape: StepShape, recording: B::Recording) -> &B::Recording {
        let kept = self.kept.get_or_insert_default();
        kept.entry(shape).insert_entry(None).into_mut().insert(recording)
    }

    /// The backend cannot record.
    pub fn give_up(&mut self) {
        self.kept = None;
    }
}
