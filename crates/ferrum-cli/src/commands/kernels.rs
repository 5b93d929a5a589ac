//! `ferrum kernels build`: the kernels for NVIDIA cards, compiled ahead of their first use.

use std::io::{self, Write};

use anyhow::{Context, Result};
use ferrum_models::cuda::{self, Architecture, Source};

use crate::args::{KernelsAction, KernelsArgs, KernelsBuildArgs};
use crate::config::Config;

/// Runs the command.
pub fn run(args: &KernelsArgs, config: &Config) -> Result<()> {
    match &args.action {
        KernelsAction::Build(args) => build(args, config),
    }
}

fn build(args: &KernelsBuildArgs, config: &Config) -> Result<()> {
    let folder = &config.cuda.kernel_cache;
    let mut architectures = args.architectures.clone();
    if architectures.is_empty() {
        let cards = cuda::devices().context("give --arch for cards that are elsewhere")?;
        architectures = cards.iter().map(|card| card.architecture()).collect();
        architectures.sort_unstable();
        architectures.dedup();
    }
    let mut out = io::stdout().lock();
    for architecture in architectures {
        let bytes = build_for(architecture, config)?;
        let count = Source::all().len();
        writeln!(out, "{architecture}: {count} files of kernels, {} KiB", bytes >> 10)?;
    }
    Ok(writeln!(out, "in {}", folder.display())?)
}

/// Compiles everything for one architecture: its bytes.
fn build_for(architecture: Architecture, config: &Config) -> Result<usize> {
    let folder = &config.cuda.kernel_cache;
    let mut bytes = 0;
    for source in Source::all() {
        let compiled = source.compile(architecture)?;
        cuda::keep(folder, source, architecture, &compiled.image)
            .with_context(|| folder.display().to_string())?;
        bytes += compiled.image.len();
    }
    Ok(bytes)
}
