//! The files that are measured: given by a path, by a name that `ferrum pull` knows, or made from a
//! synthetic shape.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ferrum_models::gguf::Gguf;

use super::engines::Engines;
use crate::command::output;
use crate::synth;

/// A file to measure.
pub(super) struct Model {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Bytes of weights that a step of one token reads; `None` where that depends on the token.
    pub(super) step_bytes: Option<u64>,
}

impl Model {
    /// The file that `name` means; it is downloaded or made if it is not there.
    pub(super) fn find(name: &str, engines: &Engines) -> Result<Self> {
        let path = match name.split_once(':') {
            _ if Path::new(name).exists() => PathBuf::from(name),
            Some((preset, kind)) if !preset.contains('/') => made(preset, kind, engines)?,
            _ => pulled(name, engines)?,
        };
        let file = Gguf::open(&path).with_context(|| path.display().to_string())?;
        let stem = path.file_stem().map_or(name.to_string(), |s| s.to_string_lossy().into_owned());
        Ok(Model { name: stem, step_bytes: step_bytes(&file), path })
    }
}

/// `ferrum pull`, and where the file then is.
fn pulled(name: &str, engines: &Engines) -> Result<PathBuf> {
    output(Command::new(&engines.ferrum).args(["pull", name, "--quiet"]))?;
    let text = output(Command::new(&engines.ferrum).args(["inspect", name]))?;
    let path = PathBuf::from(text.lines().next().unwrap_or_default());
    ensure!(path.exists(), "`ferrum inspect {name}` names no file");
    Ok(path)
}

/// A synthetic shape, quantised by llama.cpp's quantiser.
fn made(preset: &str, kind: &str, engines: &Engines) -> Result<PathBuf> {
    let path = engines.made.join(format!("{preset}.{kind}.gguf"));
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(&engines.made)?;
    let source = engines.made.join(format!("{preset}.f16.gguf"));
    if !source.exists() {
        println!("making {}", source.display());
        let part = source.with_extension("part");
        synth::run(preset, &part)?;
        std::fs::rename(part, &source)?;
    }
    if kind == "f16" {
        return Ok(source);
    }
    println!("making {}", path.display());
    let part = path.with_extension("part");
    let script = engines.scripts.join("quantize.py");
    output(Command::new(&engines.python).arg(script).arg(&source).arg(&part).arg(kind))?;
    std::fs::rename(part, &path)?;
    Ok(path)
}

/// Every tensor but an input embedding that is not the output head too, of which only a row is read.
fn step_bytes(file: &Gguf) -> Option<u64> {
    let tied = file.tensor("output.weight").is_none();
    let read = |name: &str| tied || name != "token_embd.weight";
    let tensors = || file.tensors().iter();
    if tensors().any(|t| t.name.contains("_exps.")) {
        return None;
    }
    Some(tensors().filter(|t| read(&t.name)).map(|t| file.data(t).len() as u64).sum())
}
