//! `ferrum inspect`: what is in a model file. Files are taken to be hostile.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, anyhow};
use ferrum_hub::{Hub, ModelRef};
use ferrum_models::gguf::{
    Array, Gguf, GgufError, Metadata, ParseError, RawTensor, Value, read_header,
};
use ferrum_models::hf::{Folder, StoredTensor};
use ferrum_models::{Checkpoint, LoadOptions, memory_estimate};

use crate::args::InspectArgs;
use crate::config::Config;
use crate::ui::table::{Align, Table};
use crate::ui::text;

/// Characters of a metadata value, and elements of an array, that are shown without `--full`.
const SHORT_TEXT: usize = 100;
const SHORT_ARRAY: usize = 8;

/// Memory of a process that runs a model, without the model: the program's own pages, stacks and
/// tables. `ferrum --version` takes as much.
const PROGRAM_BYTES: u64 = 14_000_000;

/// Prints metadata, tensors, sums by type, and the memory that the model would need.
pub fn run(args: &InspectArgs, config: &Config) -> Result<()> {
    let reference = ModelRef::parse(&args.file)?;
    let path = Hub::new(config.hub.clone()).local(&reference)?.ok_or_else(|| {
        anyhow!("{} is not on this machine; `ferrum pull {}` gets it", args.file, args.file)
    })?;
    let options = LoadOptions {
        context: args.context.map(|n| n as usize),
        ..args.load.options(&config.cuda)
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let name = text::escaped(&path.display().to_string(), usize::MAX);
    // Nothing is printed of what cannot be opened.
    if path.is_dir() {
        let folder = Folder::open(&path)?;
        writeln!(out, "{name}")?;
        let settings = folder.metadata();
        let title = format!("settings ({}, by their names in GGUF)", settings.len());
        metadata(&mut out, &title, settings, args.full)?;
        let stored = folder.stored().tensors.iter();
        tensors(&mut out, &stored.map(Listed::from).collect::<Vec<_>>())?;
        memory(&mut out, &folder, &options)?;
    } else {
        let header = read_header(&path)?;
        writeln!(out, "{name}")?;
        let (version, entries) = (header.version, header.metadata.len());
        let title = format!("metadata (GGUF version {version}, {entries} entries)");
        metadata(&mut out, &title, &header.metadata, args.full)?;
        tensors(&mut out, &header.tensors.iter().map(Listed::from).collect::<Vec<_>>())?;
        file_memory(&mut out, &path, &options)?;
    }
    out.flush()?;
    Ok(())
}

/// A tensor in the list.
struct Listed<'a> {
    name: &'a str,
    type_name: String,
    /// Innermost first.
    dims: Vec<u64>,
}

impl<'a> From<&'a RawTensor> for Listed<'a> {
    fn from(tensor: &'a RawTensor) -> Self {
        Listed { name: &tensor.name, type_name: tensor.type_name(), dims: tensor.dims.clone() }
    }
}

impl<'a> From<&'a StoredTensor> for Listed<'a> {
    fn from(tensor: &'a StoredTensor) -> Self {
        let dims = tensor.raw.shape.iter().rev().map(|d| *d as u64).collect();
        Listed { name: &tensor.raw.name, type_name: tensor.raw.dtype.to_string(), dims }
    }
}

fn metadata(out: &mut dyn Write, title: &str, metadata: &Metadata, full: bool) -> Result<()> {
    writeln!(out, "\n{title}")?;
    let mut table =
        Table::new(&[("KEY", Align::Left), ("TYPE", Align::Left), ("VALUE", Align::Left)]);
    for (key, value) in metadata.iter() {
        table.row([text::escaped(key, usize::MAX), value.describe(), shown(value, full)]);
    }
    Ok(table.print(out)?)
}

/// A value as text; long ones are cut unless `full`.
fn shown(value: &Value, full: bool) -> String {
    let max = if full { usize::MAX } else { SHORT_TEXT };
    match value {
        Value::String(s) => text::escaped(s, max),
        Value::Array(array) => shown_array(array, full),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        other => other.as_integer().map_or_else(String::new, |v| v.to_string()),
    }
}

fn shown_array(array: &Array, full: bool) -> String {
    let max = if full { usize::MAX } else { SHORT_ARRAY };
    let mut items = match array {
        Array::U8(v) => joined(v, max),
        Array::I8(v) => joined(v, max),
        Array::U16(v) => joined(v, max),
        Array::I16(v) => joined(v, max),
        Array::U32(v) => joined(v, max),
        Array::I32(v) => joined(v, max),
        Array::U64(v) => joined(v, max),
        Array::I64(v) => joined(v, max),
        Array::F32(v) => joined(v, max),
        Array::F64(v) => joined(v, max),
        Array::Bool(v) => joined(v, max),
        Array::String(v) => {
            let quoted: Vec<_> =
                v.iter().take(max).map(|s| format!("'{}'", text::escaped(s, SHORT_TEXT))).collect();
            quoted.join(", ")
        }
    };
    if array.len() > max {
        items.push_str(&format!(", … {} in all", array.len()));
    }
    format!("[{items}]")
}

fn joined<T: ToString>(values: &[T], max: usize) -> String {
    values.iter().take(max).map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn tensors(out: &mut dyn Write, all: &[Listed<'_>]) -> Result<()> {
    writeln!(out, "\ntensors ({})", all.len())?;
    let mut table =
        Table::new(&[("NAME", Align::Left), ("TYPE", Align::Left), ("SHAPE", Align::Left)]);
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for tensor in all {
        let shape = joined(&tensor.dims, usize::MAX).replace(", ", " × ");
        table.row([text::escaped(tensor.name, usize::MAX), tensor.type_name.clone(), shape]);
        let sum = sums.entry(tensor.type_name.clone()).or_default();
        // One tensor's count fits, the sum of a hostile file's need not.
        *sum = (sum.0 + 1, sum.1.saturating_add(tensor.dims.iter().product()));
    }
    table.print(out)?;
    writeln!(out, "\nby type")?;
    let mut table =
        Table::new(&[("TYPE", Align::Left), ("TENSORS", Align::Right), ("VALUES", Align::Right)]);
    for (name, (count, values)) in sums {
        table.row([name, count.to_string(), text::count(values)]);
    }
    Ok(table.print(out)?)
}

/// Memory, or the reason why Ferrum cannot run the model; the listing above is worth having then.
/// A file that is damaged rather than unsupported is an error.
fn file_memory(out: &mut dyn Write, path: &Path, options: &LoadOptions) -> Result<()> {
    match Gguf::open(path) {
        Ok(file) => memory(out, &file, options),
        Err(reason @ GgufError::Parse { reason: ParseError::TensorType { .. }, .. }) => {
            Ok(writeln!(out, "\nFerrum cannot run this model: {reason}")?)
        }
        Err(damage) => {
            out.flush()?;
            Err(damage.into())
        }
    }
}

/// Memory, or the reason why Ferrum cannot run the model.
fn memory(out: &mut dyn Write, file: &dyn Checkpoint, options: &LoadOptions) -> Result<()> {
    let memory = match memory_estimate(file, options) {
        Ok(memory) => memory,
        Err(reason) => return Ok(writeln!(out, "\nFerrum cannot run this model: {reason}")?),
    };
    writeln!(out, "\nmemory")?;
    let mut table = Table::new(&[("PART", Align::Left), ("BYTES", Align::Right)]);
    for (part, size) in [
        ("file", file.file_bytes()),
        ("weights", memory.weights as u64),
        ("KV cache", memory.kv_cache as u64),
        ("buffers", memory.buffers.saturating_add(memory.tables) as u64),
        ("vocabulary", memory.vocabulary as u64),
        ("program", PROGRAM_BYTES),
        ("in all", (memory.total() as u64).saturating_add(PROGRAM_BYTES)),
    ] {
        table.row([part.to_string(), text::bytes(size)]);
    }
    Ok(table.print(out)?)
}
