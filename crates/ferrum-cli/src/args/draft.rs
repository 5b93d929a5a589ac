//! Flags of speculation. Which draft models there are is each command's own flag: a server may have
//! several.

use clap::Args;

/// Tokens that are proposed before the model says them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Speculation")]
pub struct DraftArgs {
    /// Tokens that are proposed at once, at most; 0: no speculation
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub draft_max: u16,
}

/// Rows of logits for `seqs` sequences with a draft model that proposes up to `most` tokens: half of
/// those beyond one for each are for proposals.
pub fn draft_samples(seqs: usize, most: u16) -> usize {
    2 * (seqs + usize::from(most))
}
