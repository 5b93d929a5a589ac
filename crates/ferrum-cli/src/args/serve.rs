//! Flags of `serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{DraftArgs, LoadArgs};

/// Answer requests over HTTP: the OpenAI API
///
/// Several models share the memory: each is loaded when it is first asked for.
///
/// Listens on this machine alone unless --host says otherwise. Ends on Ctrl-C or SIGTERM once the
/// running answers are complete; a second signal ends it at once.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub struct ServeArgs {
    /// The models, as MODEL or as NAME=MODEL; the default is smollm2. A request's `model` picks one
    /// of several; the first is for requests that name none
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,
    /// Address to listen on; 0.0.0.0 is all of IPv4
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,
    /// Further name of the first model in requests; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// LoRA adapter: a folder from PEFT, or a GGUF file; =SCALE changes its strength. Requests whose
    /// `model` is NAME (by default the folder's or file's) have it over its model, the first that
    /// it fits. May be given more than once
    #[arg(
        long,
        alias = "lora-modules",
        value_name = "[NAME=]PATH[=SCALE]",
        help_heading = "Model options"
    )]
    pub lora: Vec<String>,
    #[command(flatten)]
    pub size: SizeArgs,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Small model of the same vocabulary that proposes what the model may say next. The answers
    /// are the same; it is asked only where that makes them faster. Of several models that generate
    /// each may have one, as NAME=MODEL with the name of its model
    #[arg(long, value_name = "[NAME=]MODEL", help_heading = "Speculation")]
    pub draft_model: Vec<String>,
    #[command(flatten)]
    pub draft: DraftArgs,
}

/// How much the server holds.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sizes")]
pub struct SizeArgs {
    /// Tokens of prompt and answer together; by default what the model was trained for, as far as
    /// the memory goes
    #[arg(long, short, alias = "ctx-size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Requests that are answered at once
    #[arg(long, alias = "parallel", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_seqs: u32,
    /// Requests that wait besides; a further one is answered 429
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=65536))]
    pub queue: u32,
    /// Memory for all models that are loaded at once, such as 8GB or 512MiB; by default 70 % of
    /// what is free, of a card 90 %. Of several models, the one that was used longest ago makes room for another
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Memory for the KV cache of each model; by default as much as all requests at their longest
    /// need, as far as the memory goes
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub kv_memory: Option<u64>,
    /// Load no model before the first request for it
    #[arg(long)]
    pub lazy: bool,
    /// Seconds that a request waits for its model to be loaded
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    pub load_wait: u32,
    /// Tokens of a step, at most
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub step_tokens: u32,
    /// Milliseconds between two tokens of an answer that reading the prompts of others should not
    /// exceed
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub itl_target_ms: u32,
    /// Bytes of a request's body, at most
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = size)]
    pub max_body: u64,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Seconds for running answers to end once the server is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u32,
    /// Seconds after which a step counts as hanging, for /health
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub stall: u32,
}

/// Who may use the server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Key that requests must have; may be given more than once. Other users of this machine can
    /// see it in the list of processes: FERRUM_API_KEY or --api-key-file keep it from them
    #[arg(long, value_name = "KEY")]
    pub api_key: Vec<String>,
    /// File of keys, one a line; empty lines and lines that begin with # are skipped
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Requests of one key at once, waiting ones included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub per_key: Option<u32>,
    /// Name by which this machine is called where no key is needed; may be given more than once.
    /// Addresses and localhost are always right
    #[arg(long, value_name = "NAME")]
    pub host_name: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  ferrum serve
  ferrum serve gemma3 --port 9000 --max-seqs 4
  ferrum serve ./large.gguf --draft-model ./small.gguf
  ferrum serve smollm2 --lora pirate=./pirate-adapter --lora terse=./terse=0.5
  ferrum serve smollm2 gemma3 small=./model.gguf --memory 4GB
  ferrum serve a=./a.gguf b=./b.gguf --draft-model a=./tiny-a.gguf --draft-model b=./tiny-b.gguf
  FERRUM_API_KEY=secret ferrum serve ./model.gguf --host 0.0.0.0";

/// A size in bytes, with a decimal (kB, MB, GB) or binary (KiB, MiB, GiB) unit.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(format!("'{unit}' is not a unit of size")),
    };
    let number: f64 = number.parse().map_err(|_| format!("'{number}' is not a number"))?;
    // Sizes of machines are far below where the conversion saturates.
    Ok((number * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size("17"), Ok(17));
        assert_eq!(size("2GB"), Ok(2_000_000_000));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        assert_eq!(size("64k"), Ok(64_000));
        assert!(size("GB").is_err() && size("1 TBit").is_err() && size("-1").is_err());
    }
}
