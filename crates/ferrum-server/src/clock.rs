//! How long a piece of work has been running, for others to see: what takes too long hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The clock of work of which one piece runs at a time.
#[derive(Debug)]
pub struct Clock {
    /// Origin of `began`.
    start: Instant,
    /// Milliseconds from `start` to the beginning of the piece that runs, plus one; 0: none does.
    began: AtomicU64,
}

/// A piece that runs as long as this lives, also where it ends in a panic: it does not hang then.
#[derive(Debug)]
pub struct Piece<'a>(&'a AtomicU64);

impl Default for Clock {
    fn default() -> Self {
        Clock { start: Instant::now(), began: AtomicU64::new(0) }
    }
}

impl Clock {
    /// A piece begins.
    pub fn begin(&self) -> Piece<'_> {
        let began = self.start.elapsed().as_millis() as u64 + 1;
        self.began.store(began, Ordering::Release);
        Piece(&self.began)
    }

    /// How long the piece that runs has been running.
    pub fn time(&self) -> Duration {
        match self.began.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            began => self.start.elapsed().saturating_sub(Duration::from_millis(began - 1)),
        }
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}
