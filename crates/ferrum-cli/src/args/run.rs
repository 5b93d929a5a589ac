//! Flags of `run`, and what its positional words mean.

use clap::Args;
use ferrum_hub::{HubError, ModelRef, catalogue};

use super::{DraftArgs, LoadArgs, LoraArgs, SamplingArgs};
use crate::exit::UsageError;

/// Answer a prompt, or chat
///
/// With a prompt it answers once; the answer goes to standard output, all else to standard error.
/// Without one it reads the prompt from standard input, or, on a terminal, starts a chat.
///
/// One word or text alone is a model if it is an alias, an existing file or model folder, ends in .gguf or has the
/// form owner/repo[:QUANT][@REVISION]; anything else is a prompt for the default model. -m and -p say it
/// without doubt.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub struct RunArgs {
    /// The model; the default is smollm2
    #[arg(value_name = "MODEL")]
    first: Option<String>,
    /// The prompt
    #[arg(value_name = "PROMPT")]
    second: Option<String>,
    /// The model
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// The prompt
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// The system message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// Continue the text as it is, without the model's chat template
    #[arg(long)]
    pub raw: bool,
    /// Tokens of the answer, at most; by default until the model ends it or the context is full
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// End the answer before this text; may be given more than once
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Tokens of prompt and answer together; by default 4096 or what the model was trained for
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Print token counts and speeds to standard error
    #[arg(long, short)]
    pub verbose: bool,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Small model of the same vocabulary that proposes what the model may say next. The answers
    /// are the same; it is asked only where that makes them faster
    #[arg(long, value_name = "MODEL", help_heading = "Speculation")]
    pub draft_model: Option<String>,
    #[command(flatten)]
    pub lora: LoraArgs,
    #[command(flatten)]
    pub draft: DraftArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

const EXAMPLES: &str = "\
Examples:
  ferrum run \"Why is the sky blue?\"
  ferrum run smollm2                                    chat
  ferrum run ./model.gguf -p \"Hello\" --temperature 0
  ferrum run gemma3 --raw \"Once upon a time\" -n 64
  git diff | ferrum run -m smollm2 --system \"Explain this change.\"";

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// This text.
    Prompt(String),
    /// What standard input gives.
    Stdin,
    /// Whatever the user types, turn by turn.
    Chat,
}

/// What the positional words mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// The model.
    pub model: ModelRef,
    /// What to answer.
    pub input: Input,
    /// A single word that could have been meant as a model but is taken as the prompt.
    pub doubtful: Option<String>,
}

impl RunArgs {
    /// Tells model and prompt apart.
    pub fn meaning(&self, stdin_is_terminal: bool) -> anyhow::Result<Meaning> {
        let (first, second) = (self.first.as_deref(), self.second.as_deref());
        let mut doubtful = None;
        let (model, prompt) = match (self.model.as_deref(), self.prompt.as_deref()) {
            (Some(_), Some(_)) if first.is_some() => {
                return Err(UsageError("-m and -p leave no room for other words".into()).into());
            }
            (Some(model), Some(prompt)) => (Some(model), Some(prompt)),
            (Some(_), None) if second.is_some() => {
                return Err(UsageError("with -m, only the prompt may follow".into()).into());
            }
            (Some(model), None) => (Some(model), first),
            (None, Some(_)) if second.is_some() => {
                return Err(UsageError("with -p, only the model may follow".into()).into());
            }
            (None, Some(prompt)) => (first, Some(prompt)),
            (None, None) => match (first, second) {
                (Some(text), None) if is_prompt(text)? => {
                    doubtful = (!text.contains(char::is_whitespace)).then(|| text.to_string());
                    (None, Some(text))
                }
                words => words,
            },
        };
        let input = match prompt {
            Some(text) if text.trim().is_empty() => {
                return Err(UsageError("the prompt is empty".into()).into());
            }
            Some(text) => Input::Prompt(text.to_string()),
            None if stdin_is_terminal => Input::Chat,
            None => Input::Stdin,
        };
        let model = ModelRef::parse(model.unwrap_or(catalogue::DEFAULT_ALIAS))?;
        Ok(Meaning { model, input, doubtful })
    }
}

/// Whether a single text is a prompt: it names no model.
fn is_prompt(text: &str) -> Result<bool, HubError> {
    match ModelRef::parse(text) {
        Ok(_) => Ok(false),
        Err(HubError::UnknownModel { .. }) => Ok(true),
        Err(other) => Err(other),
    }
}
