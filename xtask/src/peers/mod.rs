//! `cargo xtask bench-peers`: Ferrum beside other engines on the same files, as ratios.
//!
//! The engines take turns, one process a measurement, so that a machine that drifts drifts for
//! all; the read bandwidth is measured before and after each cell, so that what is left of it can
//! be said too. Nothing else should run meanwhile.

mod engines;
mod models;
mod options;
mod peer;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use engines::{Engines, Machine};
use models::Model;
pub(crate) use options::USAGE;
use options::{Cell, Options};
use peer::Peer;

/// A cell of the table, measured, beside one peer.
struct Row {
    model: String,
    cell: Cell,
    threads: usize,
    /// Tokens a second, of every round.
    ferrum: Vec<f64>,
    peer: Peer,
    theirs: Vec<f64>,
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
                let measured = measure(&engines, &options, model, threads, cell)?;
                measured.iter().for_each(|row| println!("{}", report::line(row)));
                rows.extend(measured);
            }
        }
    }
    ensure!(!rows.is_empty(), "no peer could run any model");
    let path: PathBuf = root.join("bench/runs").join(machine.file_name());
    let text = report::section(&machine, &options.peers, &command(args), &rows);
    report::append(&path, &machine, &text)?;
    println!("\n{text}\n{}", path.display());
    Ok(())
}

/// One cell: as many rounds of all engines as asked for, another of them the first each round. A peer
/// that cannot run the model has no row.
fn measure(
    engines: &Engines,
    options: &Options,
    model: &Model,
    threads: usize,
    cell: Cell,
) -> Result<Vec<Row>> {
    let before = engines.read_bandwidth(threads)?;
    let mut ferrum = Vec::new();
    let mut peers: Vec<(Peer, Vec<f64>)> = options.peers.iter().map(|&p| (p, vec![])).collect();
    for round in 0..options.rounds {
        let count = peers.len() + 1;
        let mut failed = Vec::new();
        for turn in 0..count {
            // Ferrum is number 0.
            let Some(i) = ((round + turn) % count).checked_sub(1) else {
                ferrum.push(engines.ferrum(&model.path, cell, threads)?);
                continue;
            };
            let (peer, speeds) = &mut peers[i];
            match engines.peer(*peer, &model.path, cell, threads) {
                Ok(speed) => speeds.push(speed),
                Err(error) => {
                    println!("{}, {}: no row: {error:#}", model.name, peer.name());
                    failed.push(*peer);
                }
            }
        }
        peers.retain(|(peer, _)| !failed.contains(peer));
    }
    let read = [before, engines.read_bandwidth(threads)?];
    let step_bytes = model.step_bytes.filter(|_| cell == Cell::Decode);
    let row = |(peer, theirs)| Row {
        model: model.name.clone(),
        cell,
        threads,
        ferrum: ferrum.clone(),
        peer,
        theirs,
        read,
        step_bytes,
    };
    Ok(peers.into_iter().map(row).collect())
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
