//! `cargo xtask nvrtc`: every kernel to machine code for every architecture, by NVIDIA's own
//! compiler, and what each takes of a card held against a committed table. Needs no card.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ferrum_models::cuda::{Architecture, Source};

use crate::command::{output, status};

pub const USAGE: &str = "       \
cargo xtask nvrtc [--write]         compiles the CUDA kernels and checks what they take of a card";

/// A100; consumer cards of 2020; L4, L40 and 4090; H100; B200; consumer cards of 2025.
const ARCHITECTURES: [Architecture; 6] = [
    Architecture(8, 0),
    Architecture(8, 6),
    Architecture(8, 9),
    Architecture(9, 0),
    Architecture(10, 0),
    Architecture(12, 0),
];

const TABLE: &str = "crates/ferrum-kernels/cuda/resources.tsv";

const HEADER: &str = "# What each kernel takes of a card, as NVRTC 13.5.37 reports it; written by `cargo xtask nvrtc --write`.
# file\tkernel\tarchitecture\tregisters\tshared bytes\tstack bytes
";

/// The library that the loader finds by itself: a second process, which has it on its path, does
/// the work.
pub fn run(root: &Path, args: &[&str]) -> Result<()> {
    match args {
        ["with-library", rest @ ..] => check(root, rest.contains(&"--write")),
        [] | ["--write"] => {
            let mut wheels = Command::new("python3");
            wheels.arg(root.join("tools/cuda/wheels.py")).arg(root.join("target/cuda"));
            let mut again = Command::new(std::env::current_exe()?);
            again.args(["nvrtc", "with-library"]).args(args);
            again.env("LD_LIBRARY_PATH", output(&mut wheels)?.trim());
            status(again)
        }
        _ => bail!("{USAGE}"),
    }
}

fn check(root: &Path, write: bool) -> Result<()> {
    let kernels = compile_all()?;
    let mut table = HEADER.to_string();
    for (what, kernel) in &kernels {
        let Kernel { name, registers, shared, stack, .. } = kernel;
        writeln!(table, "{}\t{name}\t{}\t{registers}\t{shared}\t{stack}", what.0, what.1)?;
    }
    let spilt = kernels.iter().filter(|(_, kernel)| kernel.spilt > 0);
    let spills: Vec<String> =
        spilt.map(|(what, kernel)| format!("{} {}: {kernel:?}", what.0, what.1)).collect();
    ensure!(spills.is_empty(), "registers are spilt:\n{}", spills.join("\n"));
    let path = root.join(TABLE);
    if write {
        return Ok(fs::write(path, table)?);
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let new = table.lines().filter(|line| !committed.lines().any(|old| old == *line));
    let gone = committed.lines().filter(|line| !table.lines().any(|new| new == *line));
    let changes: Vec<String> =
        gone.map(|line| format!("- {line}")).chain(new.map(|line| format!("+ {line}"))).collect();
    let count = table.lines().count() - HEADER.lines().count();
    println!("{count} kernels, no register spilt");
    ensure!(
        changes.is_empty(),
        "{TABLE} is of another state; see to it that the change is meant, and write it with \
         --write:\n{}",
        changes.join("\n")
    );
    Ok(())
}

/// What is compiled, and for what.
type Target = (Source, Architecture);

/// Compiles everything, on all processors: what each kernel takes, always in the same order.
fn compile_all() -> Result<Vec<(Target, Kernel)>> {
    let of = |source| ARCHITECTURES.map(|architecture| (source, architecture));
    let targets: Vec<Target> = Source::all().into_iter().flat_map(of).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Kernel)>> {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some((source, architecture)) = targets.get(place) else { return Ok(done) };
            let kernels = kernels(&source.compile(*architecture)?.log)?;
            done.extend(kernels.into_iter().map(|kernel| (place, kernel)));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let mut all = Vec::new();
    for thread in done {
        all.append(&mut thread.map_err(|_| anyhow!("a compiling thread has panicked"))??);
    }
    all.sort_by_key(|(place, kernel)| (*place, kernel.name.clone()));
    Ok(all.into_iter().map(|(place, kernel)| (targets[place], kernel)).collect())
}

/// What a kernel takes.
#[derive(Debug, PartialEq)]
struct Kernel {
    name: String,
    registers: usize,
    /// Static shared memory, in bytes.
    shared: usize,
    /// Local memory of a thread, in bytes.
    stack: usize,
    /// Stores and loads of registers for which there was no room, in bytes.
    spilt: usize,
}

/// The kernels of a compiler's log.
fn kernels(log: &str) -> Result<Vec<Kernel>> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default().to_string();
            kernels.push(Kernel { name, registers: 0, shared: 0, stack: 0, spilt: 0 });
        } else if let Some(kernel) = kernels.last_mut() {
            if line.contains("bytes stack frame") {
                kernel.stack = before(line, " bytes stack frame").context("a stack frame")?;
                let stores = before(line, " bytes spill stores").context("spill stores")?;
                kernel.spilt =
                    stores + before(line, " bytes spill loads").context("spill loads")?;
            } else if line.contains(" registers") {
                kernel.registers = before(line, " registers").context("registers")?;
                kernel.shared = before(line, " bytes smem").unwrap_or(0);
            }
        }
    }
    let read = !kernels.is_empty() && kernels.iter().all(|kernel| kernel.registers > 0);
    ensure!(read, "the compiler's log is not understood:\n{log}");
    Ok(kernels)
}

/// The number that stands before some words.
fn before(line: &str, words: &str) -> Option<usize> {
    line[..line.find(words)?].rsplit([' ', ',']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'one' for 'sm_80'\n\
            ptxas info    : Function properties for one\n\
            \x20   16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n\
            ptxas info    : Used 40 registers, used 1 barriers, 132 bytes smem, 392 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'two' for 'sm_80'\n\
            ptxas info    : Used 8 registers, used 0 barriers, 360 bytes cmem[0]\n";
        let kernel = |name: &str, registers, shared, stack, spilt| Kernel {
            name: name.into(),
            registers,
            shared,
            stack,
            spilt,
        };
        let read = kernels(log).unwrap();
        assert_eq!(read, [kernel("one", 40, 132, 16, 12), kernel("two", 8, 0, 0, 0)]);
        assert!(kernels("nothing").is_err());
    }
}
