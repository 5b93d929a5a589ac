//! The commands, one file each.

mod bench;
mod chat;
mod convert;
mod devices;
mod embed;
mod inspect;
mod kernels;
mod list;
mod perplexity;
mod pull;
mod rm;
mod run;
mod serve;
mod tokenize;

use std::io::{self, Write};

use anyhow::Result;
use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::config::Config;
use crate::exit::Outcome;

/// Runs one command.
pub fn run(command: Command, config: Config) -> Result<Outcome> {
    match command {
        Command::Run(args) => return run::run(&args, &config),
        Command::Serve(args) => serve::run(&args, &config)?,
        Command::Embed(args) => embed::run(&args, &config)?,
        Command::Pull(args) => pull::run(&args, &config)?,
        Command::List(args) => list::run(&args, &config)?,
        Command::Rm(args) => rm::run(&args, &config)?,
        Command::Inspect(args) => inspect::run(&args, &config)?,
        Command::Convert(args) => return convert::run(&args, &config),
        Command::Tokenize(args) => tokenize::run(&args, &config)?,
        Command::Bench(args) => bench::run(&args, &config)?,
        Command::Perplexity(args) => perplexity::run(&args, &config)?,
        Command::Devices(args) => devices::run(&args)?,
        Command::Kernels(args) => kernels::run(&args, &config)?,
        Command::Completions { shell } => completions(shell)?,
        Command::Man => man()?,
    }
    Ok(Outcome::Done)
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    // Written to memory first: the generator panics where standard output is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ferrum", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// One page with all commands, so that `ferrum man | man -l -` shows everything.
fn man() -> Result<()> {
    let mut page = Vec::new();
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    clap_mangen::Man::new(cli.clone()).render(&mut page)?;
    for command in cli.get_subcommands() {
        man_sections(&mut page, command)?;
    }
    Ok(io::stdout().write_all(&page)?)
}

/// A command's part of the page, then those of its own commands.
fn man_sections(page: &mut Vec<u8>, command: &clap::Command) -> Result<()> {
    let man = clap_mangen::Man::new(command.clone());
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    command.get_subcommands().try_for_each(|own| man_sections(page, own))
}
