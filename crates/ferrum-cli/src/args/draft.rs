//! Flags of speculation.

use clap::Args;

/// Tokens that are proposed before the model says them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Speculation")]
pub struct DraftArgs {
    /// Small model of the same vocabulary that proposes what the model may say next. The answers
    /// are the same; it is asked only where that makes them faster
    #[arg(long, value_name = "MODEL")]
    pub draft_model: Option<String>,
    /// Tokens that are proposed at once, at most; 0: no speculation
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub draft_max: u16,
}

impl DraftArgs {
    /// Rows of logits for `seqs` sequences, where more than one for each are needed: half of those
    /// beyond these are for proposals.
    pub fn samples(&self, seqs: usize) -> Option<usize> {
        self.draft_model.as_ref().map(|_| 2 * (seqs + usize::from(self.draft_max)))
    }
}
