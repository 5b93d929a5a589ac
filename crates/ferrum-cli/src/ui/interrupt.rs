//! Ctrl-C: stops an answer, and the program only where no answer is being given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::exit;

/// What the signal handler and the program tell each other.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    answering: AtomicBool,
    set: AtomicBool,
}

impl Interrupt {
    /// Installs the handler; once per process.
    pub fn install() -> Result<Self> {
        let interrupt = Interrupt::default();
        let state = interrupt.state.clone();
        ctrlc::set_handler(move || {
            // A second Ctrl-C during one answer ends the program: the step may be a long one.
            let first = !state.set.swap(true, Ordering::SeqCst);
            if !(first && state.answering.load(Ordering::SeqCst)) {
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
        })
        .context("cannot handle Ctrl-C")?;
        Ok(interrupt)
    }

    /// Until the guard is dropped, Ctrl-C is kept for [`Self::is_set`].
    pub fn answering(&self) -> Answering<'_> {
        self.state.set.store(false, Ordering::SeqCst);
        self.state.answering.store(true, Ordering::SeqCst);
        Answering(&self.state)
    }

    /// Whether Ctrl-C was pressed during this answer.
    pub fn is_set(&self) -> bool {
        self.state.set.load(Ordering::SeqCst)
    }
}

/// See [`Interrupt::answering`].
#[derive(Debug)]
pub struct Answering<'a>(&'a State);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.answering.store(false, Ordering::SeqCst);
        self.0.set.store(false, Ordering::SeqCst);
    }
}
