//! `ferrum bench`: a model's speed on this machine, or a server's under load.

mod model;
mod profile;
mod random;
mod serve;

use anyhow::Result;

use crate::args::{BenchCommand, BenchTarget};
use crate::config::Config;
use crate::exit::UsageError;

/// Measures and prints.
pub fn run(command: &BenchCommand, config: &Config) -> Result<()> {
    match (&command.target, &command.model.model) {
        (Some(BenchTarget::Serve(args)), _) => serve::run(args, config),
        (None, Some(name)) => model::run(name, &command.model, config),
        (None, None) => Err(UsageError("no model is named".into()).into()),
    }
}
