//! Real models for the tests of other crates.

use std::path::PathBuf;

use crate::{Hub, HubConfig, ModelRef, Progress, Result};

/// The file of a catalogue model, downloaded into the user's ordinary store if it is not there yet,
/// so that neither `cargo test` nor `ferrum run` downloads what the other already has. Safe to call
/// from several tests at once: one downloads, the others wait.
pub fn fetch_alias(alias: &str) -> Result<PathBuf> {
    let hub = Hub::new(HubConfig::from_process_env()?);
    hub.fetch(&ModelRef::parse(alias)?, &mut ToStderr)
}

/// Notes as plain lines on standard error, which the test harness shows when a test fails.
struct ToStderr;

impl Progress for ToStderr {
    fn note(&mut self, line: &str) {
        eprintln!("{line}");
    }
    fn begin(&mut self, _what: &str, _total: u64, _have: u64) {}
    fn at(&mut self, _have: u64) {}
    fn end(&mut self) {}
}
