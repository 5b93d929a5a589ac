//! The engines that are measured, each in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::options::{Cell, Options};
use super::peer::Peer;
use crate::command::{json, output};

/// How the engines are started.
pub(super) struct Engines {
    /// Ours.
    pub(super) ferrum: PathBuf,
    /// Its instruction set, if it is not to be the best.
    cpu_isa: Option<String>,
    /// The interpreter that has the peers.
    pub(super) python: PathBuf,
    /// Folder of the Python scripts.
    pub(super) scripts: PathBuf,
    /// Folder for what is made on the way.
    pub(super) made: PathBuf,
}

impl Engines {
    /// Builds and installs what is missing.
    pub(super) fn new(root: &Path, options: &Options) -> Result<Self> {
        let target = root.join("target");
        let ferrum = match &options.ferrum {
            Some(path) => path.clone(),
            None => {
                let mut cargo = Command::new(env!("CARGO"));
                cargo.args(["build", "--release", "--package", "ferrum-cli"]).current_dir(root);
                output(&mut cargo)?;
                target.join("release/ferrum")
            }
        };
        let python = match &options.python {
            Some(path) => path.clone(),
            None => environment(&target.join("peers/venv"), &options.peers)?,
        };
        options.peers.iter().try_for_each(|peer| peer.check(&python))?;
        let (scripts, made) = (root.join("tools/bench"), target.join("peers"));
        let cpu_isa = options.cpu_isa.clone();
        Ok(Engines { ferrum, cpu_isa, python, scripts, made })
    }

    /// Tokens a second of Ferrum.
    pub(super) fn ferrum(&self, model: &Path, cell: Cell, threads: usize) -> Result<f64> {
        let (tokens, none) = (cell.tokens().to_string(), "0".to_string());
        let (prefill, decode) =
            if cell == Cell::Prefill { (&tokens, &none) } else { (&none, &tokens) };
        let mut command = Command::new(&self.ferrum);
        command.arg("bench").arg(model).args(["--json", "--prefill", prefill, "--decode", decode]);
        command.args(["--depth", &cell.depth().to_string(), "--batch", &cell.batch().to_string()]);
        command.args(["--repetitions", &cell.repetitions().to_string()]);
        command.args(["--threads", &threads.to_string()]).args(self.isa());
        let report = json(&mut command)?;
        let key = if cell == Cell::Prefill { "prefill_tps" } else { "decode_tps" };
        report[key].as_f64().with_context(|| format!("no {key} in {report}"))
    }

    /// Flags for the instruction set.
    fn isa(&self) -> impl Iterator<Item = &str> {
        self.cpu_isa.iter().flat_map(|isa| ["--cpu-isa", isa.as_str()])
    }

    /// Tokens a second of another engine.
    pub(super) fn peer(&self, peer: Peer, model: &Path, cell: Cell, threads: usize) -> Result<f64> {
        let test = if cell == Cell::Prefill { "prefill" } else { "decode" };
        let mut command = Command::new(&self.python);
        command.arg(self.scripts.join(peer.script())).arg(model).arg(test);
        for (flag, value) in [
            ("--tokens", cell.tokens()),
            ("--depth", cell.depth()),
            ("--batch", cell.batch()),
            ("--threads", threads),
            ("--repetitions", cell.repetitions()),
        ] {
            command.args([flag, &value.to_string()]);
        }
        let report = json(&mut command)?;
        let speeds = report["tps"].as_array().context("no tps")?;
        let speeds: Vec<f64> = speeds.iter().filter_map(Value::as_f64).collect();
        ensure!(!speeds.is_empty(), "{} measured nothing: {report}", peer.name());
        Ok(median(&speeds))
    }

    /// Gigabytes of memory that so many threads read a second now.
    pub(super) fn read_bandwidth(&self, threads: usize) -> Result<f64> {
        let mut command = Command::new(&self.ferrum);
        command.args(["devices", "--measure", "--json", "--threads", &threads.to_string()]);
        let report = json(&mut command)?;
        let limits = report["limits"].as_array().context("no limits")?;
        limits.last().and_then(|l| l["read_gb_per_s"].as_f64()).context("no read bandwidth")
    }
}

/// A virtual environment with the peers.
fn environment(folder: &Path, peers: &[Peer]) -> Result<PathBuf> {
    let python = folder.join("bin/python");
    if !python.exists() {
        output(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    }
    peers.iter().try_for_each(|peer| peer.install(&python))?;
    Ok(python)
}

/// What the table is about.
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) isa: String,
    pub(super) date: jiff::civil::Date,
    pub(super) commit: String,
}

impl Machine {
    pub(super) fn describe(root: &Path, engines: &Engines) -> Result<Self> {
        let report = json(Command::new(&engines.ferrum).args(["devices", "--json"]))?;
        let sets = report["instruction_sets"].as_array().context("no instruction sets")?;
        let used = sets.iter().find(|set| set["status"] == "in use");
        let best = used.and_then(|set| set["name"].as_str()).unwrap_or("?");
        let mut git = Command::new("git");
        git.args(["describe", "--always", "--dirty"]).current_dir(root);
        Ok(Machine {
            cpu: cpu_name(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cores: report["cores"].as_u64().context("no cores")? as usize,
            isa: engines.cpu_isa.clone().unwrap_or_else(|| best.to_string()),
            date: jiff::Zoned::now().date(),
            commit: output(&mut git)?.trim().to_string(),
        })
    }

    /// `<date>-<cpu>.md`
    pub(super) fn file_name(&self) -> String {
        let words: Vec<String> = self
            .cpu
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        format!("{}-{}.md", self.date, words.join("-"))
    }
}

/// The first `model name` of a Linux `cpuinfo`.
fn cpu_name(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.filter(|name| !name.is_empty()).unwrap_or(std::env::consts::ARCH).to_string()
}

/// The middle value, or the mean of the two.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processors_and_files() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7B13 64-Core\nflags : x\n";
        assert_eq!(cpu_name(cpuinfo), "AMD EPYC 7B13 64-Core");
        assert_eq!(cpu_name(""), std::env::consts::ARCH);
        let date = jiff::civil::date(2026, 1, 2);
        let cpu = "Intel(R) Xeon(R) @ 2.20GHz".to_string();
        let machine = Machine { cpu, cores: 2, isa: "avx2".into(), date, commit: "x".into() };
        assert_eq!(machine.file_name(), "2026-01-02-intel-r-xeon-r-2-20ghz.md");
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
    }
}
