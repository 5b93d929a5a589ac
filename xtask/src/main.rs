//! Repository chores: `cargo xtask <chore>`.

mod command;
mod gpu_check;
mod nvrtc;
mod peers;
mod synth;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

const USAGE: &str = "\
usage: cargo xtask tidy                checks the rules of ARCHITECTURE.md
       cargo xtask synth PRESET OUT    writes a synthetic GGUF model";

/// The repository's root: the folder above this crate.
fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent")
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["synth", preset, out] => synth::run(preset, Path::new(out)),
        ["tidy"] => tidy::run(),
        ["nvrtc", args @ ..] => root().and_then(|root| nvrtc::run(root, args)),
        ["gpu-check", args @ ..] => root().and_then(|root| gpu_check::run(root, args)),
        ["bench-peers", args @ ..] => root().and_then(|root| peers::run(root, args)),
        _ => Err(anyhow::anyhow!(
            "{USAGE}\n{}\n{}\n{}",
            nvrtc::USAGE,
            gpu_check::USAGE,
            peers::USAGE
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
