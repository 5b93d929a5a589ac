//! Other programs that a chore runs.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Runs a command that must work, and shows what it prints.
pub(crate) fn status(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

/// Standard output of a command that must work.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let done = command.output().with_context(|| program.clone())?;
    let errors = String::from_utf8_lossy(&done.stderr);
    let last: Vec<&str> = errors.lines().rev().take(5).collect();
    ensure!(
        done.status.success(),
        "{program} failed: {}",
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    );
    Ok(String::from_utf8(done.stdout)?)
}

/// The same, of a command that prints JSON.
pub(crate) fn json(command: &mut Command) -> Result<Value> {
    Ok(serde_json::from_str(&output(command)?)?)
}
