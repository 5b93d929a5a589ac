//! All settings of a run, from flags and environment, resolved once.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ferrum_hub::HubConfig;

use crate::args::GlobalArgs;

/// What every command gets.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where models come from and where they are kept.
    pub hub: HubConfig,
    /// Only errors on standard error.
    pub quiet: bool,
    /// The file of the chat's input history.
    pub history: PathBuf,
    /// `FERRUM_API_KEY`: a key that requests to the server must have, as it is in the
    /// environment: only the server cares whether it is text.
    pub api_key: Option<OsString>,
    /// Which standard streams are terminals.
    pub terminal: Terminal,
    /// NVIDIA cards.
    pub cuda: CudaConfig,
}

/// How NVIDIA cards are used.
#[derive(Debug, Clone)]
pub struct CudaConfig {
    /// `FERRUM_CUDA_DEVICE`: the card that `--device cuda` means.
    pub ordinal: usize,
    /// Where compiled kernels are kept.
    pub kernel_cache: PathBuf,
}

/// Which standard streams are terminals.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Standard input.
    pub stdin: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Config {
    /// Reads the environment and the streams, and applies the flags.
    pub fn resolve(global: &GlobalArgs) -> Result<Self> {
        let mut hub = HubConfig::from_process_env()?;
        if let Some(url) = &global.package_index {
            hub.set_package_index(url)?;
        }
        let history = hub.models_dir.with_file_name("history.txt");
        let terminal = Terminal {
            stdin: std::io::stdin().is_terminal(),
            stderr: std::io::stderr().is_terminal(),
        };
        let api_key = std::env::var_os("FERRUM_API_KEY");
        let kernel_cache = hub.models_dir.with_file_name("kernels");
        let cuda = CudaConfig { ordinal: cuda_device()?, kernel_cache };
        Ok(Config { hub, quiet: global.quiet, history, api_key, terminal, cuda })
    }
}

fn cuda_device() -> Result<usize> {
    let Some(number) = std::env::var_os("FERRUM_CUDA_DEVICE").filter(|text| !text.is_empty())
    else {
        return Ok(0);
    };
    let number = number.to_string_lossy();
    number.parse().with_context(|| format!("FERRUM_CUDA_DEVICE={number} is not a card's number"))
}
