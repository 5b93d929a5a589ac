//! Flags of `kernels`.

use clap::{Args, Subcommand};
use ferrum_models::cuda::Architecture;

/// `kernels build`.
#[derive(Debug, Args)]
pub struct KernelsArgs {
    #[command(subcommand)]
    pub action: KernelsAction,
}

/// What is done with the kernels.
#[derive(Debug, Subcommand)]
pub enum KernelsAction {
    /// Compile the kernels for NVIDIA cards now, not at the first use of each
    Build(KernelsBuildArgs),
}

/// Flags of `kernels build`.
#[derive(Debug, Args)]
pub struct KernelsBuildArgs {
    /// Architecture of the cards, such as sm_90, which need not be in this machine; by default those
    /// that are. May be given several times
    #[arg(long = "arch", value_name = "NAME")]
    pub architectures: Vec<Architecture>,
}
