//! Exit codes, and errors as one line.
//!
//! 0: done. 1: it could not be done. 2: the command line is wrong. 130: interrupted (Ctrl-C).

use std::fmt;
use std::io;
use std::process::ExitCode;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Done,
    /// The user stopped it.
    Interrupted,
}

/// The code of a process that Ctrl-C ended: 128 and the number of SIGINT.
pub const INTERRUPTED: u8 = 130;

/// The command line asks for something that makes no sense; found after clap accepted it.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (see --help)", self.0)
    }
}

impl std::error::Error for UsageError {}

/// The exit code of a command's result; prints an error as one line to standard error.
pub fn code(result: anyhow::Result<Outcome>) -> ExitCode {
    let error = match result {
        Ok(Outcome::Done) => return ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => return ExitCode::from(INTERRUPTED),
        Err(error) => error,
    };
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS; // the reader has what it wanted, as in `ferrum list | head -1`
    }
    eprintln!("error: {}", one_line(&error));
    ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
}

/// Whether standard output was closed by its reader.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes, joined by colons. Control characters, which file names and servers
/// can bring in, become spaces.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        // Errors that already print their cause would say it twice.
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn errors_are_one_line_with_their_causes() {
        let error = anyhow!("no such\nfile").context("cannot read").context("cannot run");
        assert_eq!(one_line(&error), "cannot run: cannot read: no such file");
        let error = anyhow!("reason").context("what: reason");
        assert_eq!(one_line(&error), "what: reason");
    }
}
