//! Which model an adapter is for.

use anyhow::{Error, Result};
use ferrum_models::{Checkpoint, LoraSource, lora};

use crate::args::named_source;

/// An adapter by its name in requests.
pub struct Named {
    /// The name.
    pub name: String,
    /// Where it is.
    pub source: LoraSource,
    /// Why the first model does not take it.
    refused: Option<Error>,
}

/// The adapters of the command line.
pub fn parse(words: &[String]) -> Vec<Named> {
    let named = words.iter().map(|word| named_source(word));
    named.map(|(name, source)| Named { name, source, refused: None }).collect()
}

/// Takes out of `adapters` those that fit a model.
pub fn take_fitting(model: &dyn Checkpoint, adapters: &mut Vec<Named>) -> Vec<Named> {
    let mut fitting = Vec::new();
    for mut adapter in std::mem::take(adapters) {
        match lora::check(model, &adapter.source) {
            Ok(()) => fitting.push(adapter),
            Err(error) => {
                adapter.refused.get_or_insert(error.into());
                adapters.push(adapter);
            }
        }
    }
    fitting
}

/// Refuses what no model took.
pub fn none_left(adapters: Vec<Named>) -> Result<()> {
    match adapters.into_iter().next() {
        Some(Named { name, refused: Some(why), .. }) => {
            Err(why.context(format!("the adapter {name} fits no model")))
        }
        _ => Ok(()),
    }
}
