//! The built binary, run in a home of its own without any network.
#![allow(dead_code, reason = "each test crate uses a part")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ferrum_models::synth::SynthSpec;

/// A folder for models, and the binary that uses it.
pub struct Home {
    dir: tempfile::TempDir,
}

/// What a run gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Home {
    pub fn new() -> Home {
        Home { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file in the home; folders are made.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        std::fs::write(&path, bytes).expect("writable");
        path
    }

    /// A tiny model of random weights with a chat template.
    pub fn model(&self) -> PathBuf {
        self.model_of("tiny.gguf", 400)
    }

    /// One with so many tokens.
    pub fn model_of(&self, name: &str, vocab: usize) -> PathBuf {
        let preset = SynthSpec::preset("llama-tiny").expect("a preset");
        let spec = SynthSpec { layers: 2, hidden: 64, ffn: 96, heads: 2, vocab, ..preset };
        let path = self.path(name);
        spec.write(File::create(&path).expect("writable")).expect("written");
        path
    }

    /// The binary with these arguments, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrum"));
        command
            .args(args)
            .env_clear()
            .env("FERRUM_HOME", self.dir.path())
            // No pip either.
            .env("PATH", self.dir.path())
            // The discard port, where nobody listens.
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .current_dir(self.dir.path());
        command
    }

    /// Runs it with nothing on standard input.
    pub fn run(&self, args: &[&str]) -> Run {
        self.run_with_input(args, b"")
    }

    /// Runs it with `input` on standard input.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Run {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        // The program may end without reading; that is not this side's error.
        let _ = child.stdin.take().expect("piped").write_all(input);
        Run::of(child.wait_with_output().expect("it ends"))
    }
}

impl Run {
    pub fn of(output: Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// Standard output of a run that must have worked.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// The single line that a failed run must have printed.
    pub fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{self:?}");
        assert!(self.err.starts_with("error: ") && self.err.lines().count() == 1, "{self:?}");
        self.err
    }
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
