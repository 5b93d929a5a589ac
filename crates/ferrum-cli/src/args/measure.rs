//! Flags of the commands that measure.

use std::path::PathBuf;

use clap::Args;
use ferrum_models::cpu::Isa;

use super::LoadArgs;

/// Flags of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Measure what the processor can do at most: memory read, f32 and 8-bit arithmetic
    #[arg(long)]
    pub measure: bool,
    /// Threads to measure with, besides one; by default one per physical core
    #[arg(long, short, value_name = "N", requires = "measure", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Instruction set to measure
    #[arg(long, value_name = "NAME", requires = "measure")]
    pub cpu_isa: Option<Isa>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The model
    pub model: String,
    /// Tokens of the prompt; 0 measures no prefill
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub prefill: u32,
    /// Tokens to generate, one step each; 0 measures no decode
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub decode: u32,
    /// Positions that are in the KV cache before the measured tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub depth: u32,
    /// Sequences at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Times that each measurement is repeated, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,
    /// Tokens of the largest prefill step
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub step_tokens: u32,
    /// Show where the time goes: time, bytes and arithmetic of each operation, beside the limits of
    /// this machine, measured before and after
    #[arg(long)]
    pub profile: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Measure how well a model predicts a text
///
/// The text is cut into windows of N tokens; of each, the tokens of the second half are predicted
/// from all that come before them in the window (the method of llama.cpp's llama-perplexity).
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct PerplexityArgs {
    /// The model
    pub model: String,
    /// A file of UTF-8 text
    pub text: PathBuf,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    pub context: u32,
    /// Stop after this many windows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub load: LoadArgs,
}
