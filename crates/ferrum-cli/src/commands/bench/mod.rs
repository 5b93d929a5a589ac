//! `ferrum bench`: a model's speed on this machine, or a server's under load.

mod model;
mod profile;
mod random;
mod serve;

use anyhow::Result;

use crate::args::{BenchCommand, BenchTarget};
use crate::config::Config;

/// Measures and prints.
pub fn run(command: &BenchCommand, config: &Config) -> Result<()> {
    match &command.target {
        Some(BenchTarget::Serve(args)) => serve::run(args, config),
        None => model::run(&command.model, config),
    }
}
