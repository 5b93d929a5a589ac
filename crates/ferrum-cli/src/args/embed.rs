//! Flags of `embed`.

use std::path::PathBuf;

use clap::Args;
use ferrum_models::encoder::Pooling;

use super::LoadArgs;

/// Turn texts into vectors
///
/// Every line of the files, or of standard input, is a text. Vectors come as JSON, one line for
/// each text, or as a NumPy array.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct EmbedArgs {
    /// The model: an encoder of the bert or RoBERTa family, such as minilm, or a causal model that
    /// makes embeddings
    pub model: String,
    /// Files of UTF-8 text; by default standard input
    pub files: Vec<PathBuf>,
    /// Where the vectors go: a file, as a NumPy array if its name ends in .npy; by default standard
    /// output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Texts at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: u32,
    /// Cut texts that are longer than the model takes, instead of refusing them
    #[arg(long)]
    pub truncate: bool,
    /// How the tokens' states become one vector, where not as the model's files say: cls, mean,
    /// mean_sqrt_len_tokens, max or last
    #[arg(long, value_name = "NAME")]
    pub pooling: Option<Pooling>,
    /// Only the first N values of each vector, scaled to length 1 again if the model's are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub dimensions: Option<u32>,
    /// Tokens of the longest text, of a causal model such as Qwen3-Embedding; by default what it was
    /// trained for, 4096 at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub context: Option<u32>,
    #[command(flatten)]
    pub load: LoadArgs,
}
