//! The table of a run.

use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use super::Row;
use super::engines::{Machine, median};
use super::peer::Peer;

/// One cell as it is measured.
pub(super) fn line(row: &Row) -> String {
    let [ratio, min, max] = ratios(row);
    format!(
        "{}, {}, {} threads: {:.1} against {:.1} tokens/s of {}, {ratio:.2}x ({min:.2} to {max:.2}); \
         read {:.1} to {:.1} GB/s",
        row.model,
        row.cell.title(),
        row.threads,
        median(&row.ferrum),
        median(&row.theirs),
        row.peer.name(),
        row.read[0],
        row.read[1],
    )
}

/// Median, least and greatest ratio of the rounds.
fn ratios(row: &Row) -> [f64; 3] {
    let ratios: Vec<f64> = row.ferrum.iter().zip(&row.theirs).map(|(f, p)| f / p).collect();
    let bound = |f: fn(f64, f64) -> f64| ratios.iter().copied().reduce(f).unwrap_or(f64::NAN);
    [median(&ratios), bound(f64::min), bound(f64::max)]
}

/// Share of the read bandwidth that a decode step makes use of, where its bytes are known.
fn of_read(row: &Row) -> Option<f64> {
    let bytes = row.step_bytes? as f64 * median(&row.ferrum);
    Some(bytes / 1e9 / ((row.read[0] + row.read[1]) / 2.0))
}

/// A section of the file of runs.
pub(super) fn section(machine: &Machine, peers: &[Peer], command: &str, rows: &[Row]) -> String {
    let Machine { commit, isa, .. } = machine;
    let peers: String = peers.iter().map(|peer| peer.describe() + "\n").collect();
    let mut text = format!("## Ferrum {commit}, {isa}\n\n    {command}\n\n{peers}\n");
    text.push_str(
        "| model | threads | | Ferrum | peer | | ratio | least | greatest | read GB/s | of read |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let [ratio, min, max] = ratios(row);
        let share = of_read(row).map_or(String::new(), |share| format!("{:.0} %", 100.0 * share));
        let (ours, theirs) = (median(&row.ferrum), median(&row.theirs));
        let speeds = format!("{ours:.1} | {} | {theirs:.1}", row.peer.name());
        let read = format!("{:.1}, {:.1}", row.read[0], row.read[1]);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {speeds} | {ratio:.2} | {min:.2} | {max:.2} | {read} | {share} |",
            row.model,
            row.threads,
            row.cell.title(),
        );
    }
    text
}

/// Adds a section to the day's file.
pub(super) fn append(path: &Path, machine: &Machine, section: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let old = match fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == ErrorKind::NotFound => heading(machine),
        // Writing would replace the runs that are there.
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    fs::write(path, format!("{old}\n{section}")).with_context(|| path.display().to_string())
}

fn heading(machine: &Machine) -> String {
    let Machine { cpu, cores, date, .. } = machine;
    format!(
        "# {date}, {cpu}, {cores} cores\n\n\
         Tokens a second, summed over sequences: medians of the rounds. Ratios are those of a round, \
         in which\nthe engines take turns. Read is the bandwidth measured before and after \
         the cell with as many threads;\n\"of read\" the share of it that decoding makes use of, every \
         weight read once a token.\n",
    )
}

#[cfg(test)]
mod tests {
    use super::super::options::Cell;
    use super::*;

    #[test]
    fn ratios_are_those_of_rounds() {
        let row = Row {
            model: "m".into(),
            cell: Cell::Decode,
            threads: 2,
            ferrum: vec![20.0, 30.0, 50.0],
            peer: Peer::Llama,
            theirs: vec![10.0, 10.0, 20.0],
            read: [30.0, 34.0],
            step_bytes: Some(800_000_000),
        };
        assert_eq!(ratios(&row), [2.5, 2.0, 3.0]);
        assert_eq!(of_read(&row), Some(0.75));
        assert!(line(&row).contains("2.50x (2.00 to 3.00)"), "{}", line(&row));
        let date = jiff::civil::date(2026, 1, 2);
        let machine =
            Machine { cpu: "c".into(), cores: 2, isa: "i".into(), date, commit: "abc".into() };
        let text = section(&machine, &[Peer::Llama], "cargo xtask bench-peers", &[row]);
        assert!(
            text.contains(
                "| m | 2 | decode, depth 0 | 30.0 | llama.cpp | 10.0 | 2.50 | 2.00 | 3.00 |"
            ),
            "{text}"
        );
        assert!(text.contains("75 %"), "{text}");
    }
}
