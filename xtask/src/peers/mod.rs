//! `cargo xtask bench-peers`: Ferrum beside llama.cpp on the same files, as ratios.
//!
//! The engines take turns, one process a measurement, so that a machine that drifts drifts for
//! both; the read bandwidth is measured before and after each cell, so that what is left of it can
//! be said too. Nothing else should run meanwhile.

mod engines;
mod models;
mod options;
mod report;

use std::path::{Path, PathBuf};

use anyhow::Result;

use engines::{Engines, Machine};
use models::Model;
pub(crate) use options::USAGE;
use options::{Cell, Options};

/// A cell of the table, measured.
struct Row {
    model: String,
    cell: Cell,
    threads: usize,
    /// Tokens a second, of every round.
    ferrum: Vec<f64>,
    peer: Vec<f64>,
    /// Gigabytes of memory read a second, before and after.
    read: [f64; 2],
    /// Bytes of weights that a decode step of one token reads; `None` where that depends.
    step_bytes: Option<u64>,
}

/// Measures, prints a table, and appends it to `bench/runs/<date>-<cpu>.md`.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<()> {
    let options = Options::parse(args)?;
    let engines = Engines::new(root, &options)?;
    let models: Vec<Model> =
        options.models.iter().map(|m| Model::find(m, &engines)).collect::<Result<_>>()?;
    let machine = Machine::describe(root, &engines)?;
    let mut rows = Vec::new();
    for model in &models {
        for &threads in &options.threads {
            for &cell in &options.cells {
                let row = measure(&engines, &options, model, threads, cell)?;
                println!("{}", report::line(&row));
                rows.push(row);
            }
        }
    }
    let path: PathBuf = root.join("bench/runs").join(machine.file_name());
    let text = report::section(&machine, &command(args), &rows);
    report::append(&path, &machine, &text)?;
    println!("\n{text}\n{}", path.display());
    Ok(())
}

/// One cell: as many rounds of both engines as asked for, the first of them changing each round.
fn measure(
    engines: &Engines,
    options: &Options,
    model: &Model,
    threads: usize,
    cell: Cell,
) -> Result<Row> {
    let before = engines.read_bandwidth(threads)?;
    let (mut ferrum, mut peer) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        if round % 2 == 0 {
            ferrum.push(engines.ferrum(&model.path, cell, threads)?);
            peer.push(engines.llama(&model.path, cell, threads)?);
        } else {
            peer.push(engines.llama(&model.path, cell, threads)?);
            ferrum.push(engines.ferrum(&model.path, cell, threads)?);
        }
    }
    let read = [before, engines.read_bandwidth(threads)?];
    let step_bytes = model.step_bytes.filter(|_| cell == Cell::Decode);
    Ok(Row { model: model.name.clone(), cell, threads, ferrum, peer, read, step_bytes })
}

/// The command as a person would type it elsewhere: without the paths of this machine.
fn command(args: &[&str]) -> String {
    let pairs = args.chunks(2).filter(|pair| !["--python", "--ferrum"].contains(&pair[0]));
    let mut words = vec!["cargo xtask bench-peers".to_string()];
    for pair in pairs {
        words.push(pair[0].to_string());
        words.extend(pair.get(1).map(|value| match pair[0] {
            "--models" => file_names(value),
            _ => value.to_string(),
        }));
    }
    words.join(" ")
}

/// Models without the folders that they are in.
fn file_names(models: &str) -> String {
    let name = |model: &str| match Path::new(model).file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => model.to_string(),
    };
    models.split(',').map(name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn commands_name_no_machine() {
        let args = ["--python", "/somewhere/python", "--rounds", "1", "--ferrum", "x"];
        assert_eq!(command(&args), "cargo xtask bench-peers --rounds 1");
        let args = ["--models", "/somewhere/a.gguf,llama-1b:q4_k_m,../b.gguf", "--threads", "2,1"];
        assert_eq!(
            command(&args),
            "cargo xtask bench-peers --models a.gguf,llama-1b:q4_k_m,b.gguf --threads 2,1"
        );
    }
}
