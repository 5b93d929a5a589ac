//! Flags of the commands about models and files.

use std::path::PathBuf;

use clap::Args;

use super::LoadArgs;

/// Flags of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Alias, or hub repository as owner/repo, owner/repo:QUANT or owner/repo/file.gguf, with
    /// @REVISION at its end for another branch, tag or commit than main
    pub model: String,
}

/// Flags of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Also show the models that have an alias but are not here
    #[arg(long, short)]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The models, named as `ferrum list` names them
    #[arg(required = true)]
    pub models: Vec<String>,
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A GGUF file, or a model that is on this machine
    pub file: String,
    /// Print whole metadata values, also long texts and arrays
    #[arg(long)]
    pub full: bool,
    /// Positions of the KV cache for which memory is counted; by default as for `run`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Flags of `tokenize`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// The model whose tokenizer is used
    pub model: String,
    /// Read the text from this file instead of standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print only the ids, as one list: [1, 2, 3]
    #[arg(long)]
    pub ids: bool,
    /// Do not put the beginning-of-text token in front, even if the model wants it
    #[arg(long)]
    pub no_bos: bool,
    /// Read the names of special tokens in the text as those tokens
    #[arg(long)]
    pub parse_special: bool,
}
