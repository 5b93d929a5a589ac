//! The `ferrum` binary: arguments in, one command run, one exit code out.

mod args;
mod commands;
mod config;
mod exit;
mod packed;
mod session;
mod sizing;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::config::Config;

fn main() -> ExitCode {
    // On a usage error clap prints a message and exits with code 2.
    let cli = Cli::parse();
    let result = Config::resolve(&cli.global).and_then(|config| commands::run(cli.command, config));
    exit::code(result)
}
