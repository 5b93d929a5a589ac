//! `cargo xtask synth`: writes a synthetic model, for measurements and other engines.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use ferrum_models::synth::{LARGE_PRESETS, PRESETS, SynthSpec};

/// Writes the preset `name` to `path`.
pub(crate) fn run(name: &str, path: &Path) -> Result<()> {
    let spec = SynthSpec::preset(name).with_context(|| {
        let names = [&PRESETS[..], &LARGE_PRESETS].concat().join(", ");
        format!("no preset {name:?}; there are: {names}")
    })?;
    let file = File::create(path).with_context(|| path.display().to_string())?;
    spec.write(BufWriter::new(file)).with_context(|| path.display().to_string())?;
    Ok(())
}
