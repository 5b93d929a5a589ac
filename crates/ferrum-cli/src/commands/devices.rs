//! `ferrum devices`: what models can run on.

use std::io;

use anyhow::Result;
use ferrum_models::cpu::{Isa, physical_cores};

use crate::ui::table::{Align, Table};

/// Prints each device with its name for `--device`.
pub fn run() -> Result<()> {
    let columns =
        [("DEVICE", Align::Left), ("THREADS", Align::Right), ("DESCRIPTION", Align::Left)];
    let mut table = Table::new(&columns);
    let isas: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
    let cpu = format!("processor, {} (has: {})", Isa::best(), isas.join(", "));
    table.row(["cpu".to_string(), physical_cores().to_string(), cpu]);
    table.row(["reference", "1", "plain f32 arithmetic, slow, for comparisons"]);
    table.print(&mut io::stdout().lock())?;
    Ok(())
}
