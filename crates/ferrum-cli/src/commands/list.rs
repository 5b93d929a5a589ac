//! `ferrum list`: the models on this machine.

use std::io::{self, Write};

use anyhow::Result;
use ferrum_hub::{Hub, Installed, catalogue};
use serde::Serialize;

use crate::args::ListArgs;
use crate::config::Config;
use crate::ui::table::{Align, Table};
use crate::ui::text;

/// A line of the list.
#[derive(Serialize)]
struct Item {
    name: String,
    bytes: u64,
    /// `ready`, `partial` (an unfinished download) or `not here`.
    state: &'static str,
    path: Option<String>,
}

/// Prints what is in the store, and with `--all` what the catalogue has besides.
pub fn run(args: &ListArgs, config: &Config) -> Result<()> {
    let installed = Hub::new(config.hub.clone()).installed()?;
    let mut items: Vec<Item> = installed.into_iter().map(Item::from).collect();
    if args.all {
        for entry in catalogue::ENTRIES {
            if !items.iter().any(|item| item.name == entry.name()) {
                let (name, bytes) = (entry.name().to_string(), entry.size);
                items.push(Item { name, bytes, state: "not here", path: None });
            }
        }
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&items)?)?;
        return Ok(());
    }
    if items.is_empty() {
        if !config.quiet {
            eprintln!("no models here yet: `ferrum pull {}` gets one", catalogue::DEFAULT_ALIAS);
        }
        return Ok(());
    }
    let columns = [
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("STATE", Align::Left),
        ("FILE", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for item in items {
        let path = item.path.unwrap_or_default();
        table.row([item.name, text::bytes(item.bytes), item.state.into(), path]);
    }
    table.print(&mut out)?;
    Ok(())
}

impl From<Installed> for Item {
    fn from(model: Installed) -> Self {
        let state = if model.partial { "partial" } else { "ready" };
        let path = Some(model.path.display().to_string());
        Item { name: model.name, bytes: model.bytes, state, path }
    }
}
