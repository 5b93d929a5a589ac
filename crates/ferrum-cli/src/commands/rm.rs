//! `ferrum rm`: remove models.

use anyhow::{Result, bail};
use ferrum_hub::{Hub, ModelRef};

use crate::args::RmArgs;
use crate::config::Config;
use crate::ui::text;

/// Removes each model; the first that is not here is an error.
pub fn run(args: &RmArgs, config: &Config) -> Result<()> {
    let hub = Hub::new(config.hub.clone());
    for name in &args.models {
        let freed = hub.remove(&ModelRef::parse(name)?)?;
        if freed == 0 {
            bail!("{name} is not here; `ferrum list` shows what is");
        }
        if !config.quiet {
            eprintln!("removed {name} ({})", text::bytes(freed));
        }
    }
    Ok(())
}
