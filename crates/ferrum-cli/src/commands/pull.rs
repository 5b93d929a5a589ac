//! `ferrum pull`: download a model.

use std::io::{self, Write};

use anyhow::Result;
use ferrum_hub::{Hub, ModelRef};

use crate::args::PullArgs;
use crate::config::Config;
use crate::ui::progress;

/// Downloads what is not here of the model as it is today, and prints its path.
pub fn run(args: &PullArgs, config: &Config) -> Result<()> {
    let hub = Hub::new(config.hub.clone());
    let path = hub.pull(&ModelRef::parse(&args.model)?, &mut *progress::new(config))?;
    writeln!(io::stdout(), "{}", path.display())?;
    Ok(())
}
