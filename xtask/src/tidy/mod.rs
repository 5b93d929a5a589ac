//! The rules of ARCHITECTURE.md that a program can check.

mod layers;
mod source;
mod tree;

use anyhow::{Context, Result, bail};

/// One broken rule: where, and what.
pub(crate) struct Finding {
    /// Path relative to the repository, with a line where there is one.
    pub place: String,
    pub what: String,
}

/// Checks the whole repository and fails with every broken rule.
pub(crate) fn run() -> Result<()> {
    let root = crate::root()?;
    let files = tree::tracked_files(root)?;
    let mut findings = tree::check(root, &files)?;
    findings.extend(layers::check(root)?);
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
        let text =
            std::fs::read_to_string(root.join(file)).with_context(|| file.display().to_string())?;
        findings.extend(source::check(file, &text));
    }
    if findings.is_empty() {
        println!("tidy: {} files, nothing to mend", files.len());
        return Ok(());
    }
    for finding in &findings {
        println!("{}: {}", finding.place, finding.what);
    }
    bail!("tidy: {} rules broken", findings.len())
}
