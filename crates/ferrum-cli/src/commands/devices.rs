//! `ferrum devices`: what models can run on, and what this machine can do at most.

use std::io::{self, Write};

use anyhow::{Context, Result};
use ferrum_models::cpu::{Cpu, CpuConfig, Isa, Limits, Tested, physical_cores};
use ferrum_models::cuda;
use serde::Serialize;

use crate::args::DevicesArgs;
use crate::ui::table::{Align, Table};

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Report {
    cores: usize,
    instruction_sets: Vec<InstructionSet>,
    cuda: Cards,
    /// Absent where nothing was measured.
    limits: Option<Vec<Measured>>,
}

/// An instruction set as the table and the JSON show it.
#[derive(Debug, Serialize)]
struct InstructionSet {
    name: String,
    description: &'static str,
    status: &'static str,
    /// Where its tests have run so far.
    tested: &'static str,
    /// Processor features that it lacks here.
    missing: Vec<&'static str>,
}

/// NVIDIA cards.
#[derive(Debug, Serialize)]
struct Cards {
    devices: Vec<Card>,
    /// NVIDIA's libraries; none where there is no card.
    libraries: Vec<Library>,
    /// Why there are none, or why they cannot be used.
    problem: Option<String>,
}

/// A card as the table and the JSON show it.
#[derive(Debug, Serialize)]
struct Card {
    /// For `--device`.
    name: String,
    description: String,
    memory_bytes: usize,
}

/// A library of NVIDIA's.
#[derive(Debug, Serialize)]
struct Library {
    name: &'static str,
    /// Absent where it is not found.
    version: Option<String>,
    /// What is done without it.
    without: &'static str,
}

/// What some threads can do at most, or the multiprocessors of a card.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Measured {
    threads: usize,
    /// Gigabytes of memory read a second.
    pub read_gb_per_s: f64,
    /// Billions of `f32` operations a second, a multiply-add counted as two.
    pub f32_gflop_per_s: f64,
    /// Billions of operations of 8-bit dot products a second, a multiply-add counted as two.
    pub int8_gop_per_s: f64,
}

/// Prints each device with its name for `--device`, the instruction sets with theirs for
/// `--cpu-isa`, and what was measured.
pub fn run(args: &DevicesArgs) -> Result<()> {
    let cores = physical_cores();
    let used = args.cpu_isa.unwrap_or_else(Isa::best);
    let limits = if args.measure {
        let threads = args.threads.map_or(cores, usize::from);
        let counts = if threads == 1 { vec![1] } else { vec![1, threads] };
        let cpu = Cpu::new(CpuConfig { threads, isa: args.cpu_isa, ..CpuConfig::default() })?;
        Some(counts.into_iter().map(|n| measure(&cpu, n)).collect::<Result<Vec<_>>>()?)
    } else {
        None
    };
    let instruction_sets = Isa::ALL.into_iter().map(|isa| instruction_set(isa, used)).collect();
    let report = Report { cores, instruction_sets, cuda: cards(), limits };
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?);
    }
    print(&mut out, &report)
}

/// Measures the limits of `threads` threads.
pub fn measure(cpu: &Cpu, threads: usize) -> Result<Measured> {
    let Limits { read, f32_ops, int8_ops, .. } = cpu.limits(threads)?;
    Ok(Measured {
        threads,
        read_gb_per_s: read / 1e9,
        f32_gflop_per_s: f32_ops / 1e9,
        int8_gop_per_s: int8_ops / 1e9,
    })
}

/// What a card can do at most.
pub fn card_peaks(ordinal: usize) -> Result<Measured> {
    let cards = cuda::devices()?;
    let card = cards.get(ordinal).with_context(|| format!("no card {ordinal}"))?;
    let cuda::Peaks { read, f32_ops, int8_ops } = card.peaks();
    Ok(Measured {
        threads: card.multiprocessors,
        read_gb_per_s: read / 1e9,
        f32_gflop_per_s: f32_ops / 1e9,
        int8_gop_per_s: int8_ops / 1e9,
    })
}

fn cards() -> Cards {
    match cuda::devices() {
        Ok(found) => {
            let some = !found.is_empty();
            let libraries = some.then(cuda::libraries).into_iter().flatten().map(library).collect();
            Cards { devices: found.iter().map(card).collect(), libraries, problem: None }
        }
        Err(error) => {
            let problem = Some(error.to_string());
            Cards { devices: Vec::new(), libraries: Vec::new(), problem }
        }
    }
}

fn library(library: cuda::Library) -> Library {
    let cuda::Library { name, version, without } = library;
    Library { name, version, without }
}

fn card(card: &cuda::Properties) -> Card {
    Card {
        name: format!("cuda:{}", card.ordinal),
        description: match card.problem() {
            Some(problem) => format!("{card}, cannot be used: {problem}"),
            None => card.to_string(),
        },
        memory_bytes: card.memory,
    }
}

fn instruction_set(isa: Isa, used: Isa) -> InstructionSet {
    let missing = isa.missing();
    let status = match (missing.is_empty(), isa == used) {
        (true, true) => "in use",
        (true, false) => "available",
        (false, _) => "not on this processor",
    };
    let tested = match isa.tested() {
        Tested::Hardware => "on hardware",
        Tested::Emulation => "under emulation only",
        Tested::Nowhere => "on no machine so far: used with --cpu-isa only",
    };
    let (name, description) = (isa.to_string(), isa.description());
    InstructionSet { name, description, status, tested, missing }
}

fn print(out: &mut dyn Write, report: &Report) -> Result<()> {
    let columns =
        [("DEVICE", Align::Left), ("THREADS", Align::Right), ("DESCRIPTION", Align::Left)];
    let mut table = Table::new(&columns);
    table.row(["cpu".to_string(), report.cores.to_string(), "the processor".to_string()]);
    table.row(["reference", "1", "plain f32 arithmetic, slow, for comparisons"]);
    for card in &report.cuda.devices {
        let memory = card.memory_bytes as f64 / f64::from(1 << 30);
        let description = format!("{}, {memory:.0} GiB", card.description);
        table.row([card.name.clone(), String::new(), description]);
    }
    table.print(out)?;
    if !report.cuda.libraries.is_empty() {
        writeln!(out)?;
    }
    for Library { name, version, without } in &report.cuda.libraries {
        match version {
            Some(version) => writeln!(out, "{name} {version}")?,
            None => writeln!(out, "{name} is not found: {without}")?,
        }
    }
    if let Some(problem) = &report.cuda.problem {
        writeln!(out, "\n{problem}")?;
    }

    writeln!(out)?;
    let titles = ["CPU ISA", "STATUS", "TESTED", "DESCRIPTION"];
    let mut table = Table::new(&titles.map(|title| (title, Align::Left)));
    for isa in &report.instruction_sets {
        let status = match isa.missing.as_slice() {
            [] => isa.status.to_string(),
            missing => format!("{} ({})", isa.status, missing.join(", ")),
        };
        table.row([isa.name.as_str(), &status, isa.tested, isa.description]);
    }
    table.print(out)?;

    let Some(limits) = &report.limits else { return Ok(()) };
    writeln!(out)?;
    print_limits(out, limits)
}

/// A table of what was measured.
pub fn print_limits(out: &mut dyn Write, limits: &[Measured]) -> Result<()> {
    let mut table = Table::new(&[
        ("THREADS", Align::Right),
        ("READ GB/S", Align::Right),
        ("F32 GFLOP/S", Align::Right),
        ("INT8 GOP/S", Align::Right),
    ]);
    for m in limits {
        let cells =
            [m.read_gb_per_s, m.f32_gflop_per_s, m.int8_gop_per_s].map(|v| format!("{v:.1}"));
        table.row([vec![m.threads.to_string()], cells.to_vec()].concat());
    }
    Ok(table.print(out)?)
}
