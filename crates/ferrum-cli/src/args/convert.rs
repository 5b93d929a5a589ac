//! Flags of `convert`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use ferrum_models::convert::Quant;

/// Convert a model to a GGUF file
///
/// Reads a folder of Hugging Face (safetensors) or a GGUF file, and writes a GGUF file that other
/// programs read too. The mixes of formats have llama.cpp's names and are what it makes of them.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The model: a folder, a GGUF file, an alias or a hub repository
    pub model: String,
    /// The file to write
    pub output: PathBuf,
    /// What the weights are converted to; without it they stay as they are
    #[arg(long, short = 't', value_name = "MIX", ignore_case = true, value_parser = quants())]
    pub quant: Option<Quant>,
    /// Quantise again what is quantised already, which costs quality
    #[arg(long)]
    pub allow_requantize: bool,
    /// Replace the file if it is there
    #[arg(long, short)]
    pub force: bool,
    /// Threads; by default one per physical core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// The names, of which those in the middle go without an ending too.
fn quants() -> impl TypedValueParser<Value = Quant> {
    let names = Quant::ALL
        .map(|quant| PossibleValue::new(quant.name()).aliases(quant.name().strip_suffix("_m")));
    PossibleValuesParser::new(names)
        .try_map(|name| Quant::by_name(&name).ok_or("there is no such mix"))
}
