//! Flags of the commands that measure.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ferrum_models::cpu::Isa;

use super::{LoadArgs, LoraArgs};

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

/// `bench MODEL` or `bench serve`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchCommand {
    #[command(subcommand)]
    pub target: Option<BenchTarget>,
    #[command(flatten)]
    pub model: BenchArgs,
}

/// What is measured instead of a model.
#[derive(Debug, Subcommand)]
pub enum BenchTarget {
    Serve(BenchServeArgs),
}

/// Put load on a running server that speaks the OpenAI API, and measure what its clients see
///
/// Clients send streamed completions with random prompts, one after the other, and measure the
/// time to the first token and between tokens. A key is taken from FERRUM_API_KEY.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct BenchServeArgs {
    /// Address of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Name of the model; by default the first that the server lists
    #[arg(long, short, value_name = "NAME")]
    pub model: Option<String>,
    /// Clients at once
    #[arg(long, short, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: u32,
    /// Requests of all clients together
    #[arg(long, short = 'n', value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,
    /// Words of a prompt, a token or two each
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub prompt_words: u32,
    /// Words that all prompts begin with, to show what a prefix cache is worth
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub shared_words: u32,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Words of one long prompt that arrives while the others' answers run, to show whether they
    /// stall
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub intruder_words: u32,
    /// Seconds before the long prompt arrives
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    pub intruder_after: f64,
    /// Ask for chat completions
    #[arg(long)]
    pub chat: bool,
    /// Let answers end by themselves: for servers that do not know `ignore_eos`
    #[arg(long)]
    pub may_stop: bool,
    /// Other prompts for another number
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Seconds after which a request is given up
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A time of at most a day.
fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    match (0.0..=86_400.0).contains(&value) {
        true => Ok(value),
        false => Err("not between 0 and 86400".into()),
    }
}

/// Flags of `bench MODEL`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The model
    #[arg(required = true)]
    pub model: Option<String>,
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
    #[command(flatten)]
    pub lora: LoraArgs,
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
    #[command(flatten)]
    pub lora: LoraArgs,
}
