//! `ferrum convert`: a model as a GGUF file, in any of the formats that Ferrum reads.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ferrum_models::convert::{Conversion, ConvertError, ConvertOptions, Planned};
use ferrum_models::cpu::physical_cores;

use crate::args::ConvertArgs;
use crate::config::Config;
use crate::exit::Outcome;
use crate::session::open_model;
use crate::ui::interrupt::Interrupt;
use crate::ui::table::{Align, Table};
use crate::ui::{progress, text};

/// Converts and prints what was written.
pub fn run(args: &ConvertArgs, config: &Config) -> Result<Outcome> {
    check_output(args)?;
    let cannot = || format!("cannot convert {}", args.model);
    let model = open_model(&args.model, config).with_context(cannot)?;
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(&model.path, &args.output) {
        bail!("{} is the model itself", args.output.display());
    }
    let options = ConvertOptions {
        quant: args.quant,
        threads: args.threads.map_or_else(physical_cores, |n| n as usize),
        allow_requantize: args.allow_requantize,
        name: model.path.file_name().map(|name| name.to_string_lossy().into_owned()),
    };
    let plan = match Conversion::plan(&*model.checkpoint, &options) {
        Err(error @ ConvertError::Quantized { .. }) => {
            return Err(error).context("see --allow-requantize");
        }
        plan => plan?,
    };
    if !config.quiet {
        plan.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    let start = Instant::now();
    let Some(bytes) = write(&plan, args, config)? else { return Ok(Outcome::Interrupted) };
    report(&plan, bytes, start.elapsed().as_secs_f64())?;
    Ok(Outcome::Done)
}

/// Refuses before any work what would be refused after it.
fn check_output(args: &ConvertArgs) -> Result<()> {
    match fs::metadata(&args.output) {
        Ok(found) if !found.is_file() => bail!("{} is no file", args.output.display()),
        Ok(_) if !args.force => {
            bail!("{} is there already; --force replaces it", args.output.display())
        }
        _ => Ok(()),
    }
}

/// A file that is removed unless it is finished.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    /// Creates a file beside `output`.
    fn create(output: &Path) -> io::Result<(Self, File)> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let path = output.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok((Unfinished { path }, file))
    }

    /// Gives the file its name.
    fn finish(self, output: &Path) -> io::Result<()> {
        fs::rename(&self.path, output)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Renamed, it is not there any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes the file; its bytes, unless the user stopped it.
fn write(plan: &Conversion<'_>, args: &ConvertArgs, config: &Config) -> Result<Option<u64>> {
    let cannot = || format!("cannot write {}", args.output.display());
    let (unfinished, file) = Unfinished::create(&args.output).with_context(cannot)?;
    let interrupt = Interrupt::install()?;
    let stopping = interrupt.answering();
    let mut progress = progress::new(config);
    let total = plan.tensors().iter().map(Planned::source_bytes).sum();
    progress.begin(&format!("converting {} tensors", plan.tensors().len()), total, 0);
    let written = plan.write(BufWriter::new(file), &mut |done| {
        progress.at(done);
        !interrupt.is_set()
    });
    progress.end();
    let file = match written {
        Err(ConvertError::Interrupted) => return Ok(None),
        written => written.with_context(cannot)?,
    };
    drop(stopping);
    let file = file.into_inner().map_err(io::IntoInnerError::into_error).with_context(cannot)?;
    file.sync_all().with_context(cannot)?;
    let bytes = file.metadata().with_context(cannot)?.len();
    check_output(args)?;
    unfinished.finish(&args.output).with_context(cannot)?;
    Ok(Some(bytes))
}

/// Sizes by format, and of the whole.
fn report(plan: &Conversion<'_>, bytes: u64, seconds: f64) -> Result<()> {
    let mut sums: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for tensor in plan.tensors() {
        let sum = sums.entry(tensor.format.to_string()).or_default();
        *sum = (sum.0 + 1, sum.1 + tensor.elements() as u64, sum.2 + tensor.bytes());
    }
    let mut table = Table::new(&[
        ("TYPE", Align::Left),
        ("TENSORS", Align::Right),
        ("VALUES", Align::Right),
        ("BYTES", Align::Right),
    ]);
    for (format, (tensors, values, bytes)) in sums {
        table.row([format, tensors.to_string(), text::count(values), text::bytes(bytes)]);
    }
    let mut out = io::stdout().lock();
    table.print(&mut out)?;
    let values: u64 = plan.tensors().iter().map(|t| t.elements() as u64).sum();
    let sum = |of: fn(&Planned) -> u64| plan.tensors().iter().map(of).sum::<u64>();
    let (before, after) = (sum(Planned::source_bytes), sum(Planned::bytes));
    let bits = |bytes: u64| 8.0 * bytes as f64 / values.max(1) as f64;
    writeln!(
        out,
        "\n{} weights: {} ({:.2} bits each) to {} ({:.2}), file {}, in {seconds:.1} s",
        text::count(values),
        text::bytes(before),
        bits(before),
        text::bytes(after),
        bits(after),
        text::bytes(bytes),
    )?;
    Ok(())
}
