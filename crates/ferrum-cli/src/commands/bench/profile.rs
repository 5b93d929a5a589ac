//! `ferrum bench --profile`: where the time of a step goes, beside what the machine can do.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use ferrum_models::profile::{Op, OpRecord};
use serde::Serialize;

use crate::commands::devices::{Measured, print_limits};
use crate::ui::table::{Align, Table};

/// The operations of the measured repetitions of a phase.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    /// Time of the repetitions, also outside of operations.
    seconds: f64,
    ops: Vec<Row>,
}

/// One operation with weights of one format.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    op: String,
    /// Of the weights that it reads, such as `Q4_K` or `Q4_K Q6_K`.
    format: String,
    calls: u64,
    seconds: f64,
    /// Share of the phase's time.
    share: f64,
    /// Bytes and operations that it takes at least, whoever computes it.
    bytes: u64,
    ops: u64,
    gb_per_s: f64,
    gop_per_s: f64,
    /// Computed with 8-bit dot products rather than in `f32`.
    int8: bool,
}

/// The machine's limits around a measurement.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Limits {
    /// Before and after: they drift.
    pub before: Measured,
    /// After.
    pub after: Measured,
}

impl Profile {
    /// The records of `time`, those that took longest first.
    pub fn new(records: &[OpRecord], time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        let mut ops: Vec<Row> = records.iter().map(|record| Row::new(record, seconds)).collect();
        ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Profile { seconds, ops }
    }

    /// A table, with what is left of the time in the last line.
    pub fn print(&self, out: &mut dyn Write, phase: &str, limits: &Limits) -> Result<()> {
        writeln!(out, "\n{phase}: {:.1} ms", 1e3 * self.seconds)?;
        let mut table = Table::new(&[
            ("OPERATION", Align::Left),
            ("FORMAT", Align::Left),
            ("CALLS", Align::Right),
            ("MS", Align::Right),
            ("SHARE", Align::Right),
            ("US/CALL", Align::Right),
            ("MB", Align::Right),
            ("GB/S", Align::Right),
            ("OF READ", Align::Right),
            ("GOP/S", Align::Right),
            ("OF PEAK", Align::Right),
        ]);
        let mean = |f: fn(&Measured) -> f64| (f(&limits.before) + f(&limits.after)) / 2.0;
        let read = mean(|m| m.read_gb_per_s);
        let (f32_peak, int8_peak) = (mean(|m| m.f32_gflop_per_s), mean(|m| m.int8_gop_per_s));
        for row in &self.ops {
            table.row([
                row.op.clone(),
                row.format.clone(),
                row.calls.to_string(),
                format!("{:.2}", 1e3 * row.seconds),
                percent(row.share),
                format!("{:.1}", 1e6 * row.seconds / row.calls as f64),
                format!("{:.1}", row.bytes as f64 / 1e6),
                format!("{:.1}", row.gb_per_s),
                percent(row.gb_per_s / read),
                format!("{:.1}", row.gop_per_s),
                percent(row.gop_per_s / if row.int8 { int8_peak } else { f32_peak }),
            ]);
        }
        let rest = self.seconds - self.ops.iter().map(|row| row.seconds).sum::<f64>();
        let mut last = vec![String::new(); 11];
        last[0] = "outside".into();
        last[3] = format!("{:.2}", 1e3 * rest);
        last[4] = percent(rest / self.seconds);
        table.row(last);
        Ok(table.print(out)?)
    }
}

impl Row {
    fn new(record: &OpRecord, total: f64) -> Self {
        let seconds = record.time.as_secs_f64();
        let formats: Vec<String> = record.formats.iter().map(ToString::to_string).collect();
        Row {
            op: record.op.name().to_string(),
            int8: is_int8(record.op, &formats),
            format: formats.join(" "),
            calls: record.calls,
            seconds,
            share: seconds / total,
            bytes: record.bytes,
            ops: record.ops,
            gb_per_s: record.bytes as f64 / seconds / 1e9,
            gop_per_s: record.ops as f64 / seconds / 1e9,
        }
    }
}

impl Limits {
    /// What 100 % is.
    pub fn print(&self, out: &mut dyn Write) -> Result<()> {
        writeln!(
            out,
            "\nlimits of this machine, before and after; the peak of a quantised linear is INT8, of \
             all else F32"
        )?;
        print_limits(out, &[self.before, self.after])
    }
}

/// Whether the products are those of quantised weights.
fn is_int8(op: Op, formats: &[String]) -> bool {
    let float = |name: &String| ["F32", "F16", "BF16"].contains(&name.as_str());
    op != Op::Embed && !formats.is_empty() && !formats.iter().any(float)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_shares() {
        let record = |op, millis, bytes, ops| OpRecord {
            op,
            formats: Vec::new(),
            calls: 2,
            time: Duration::from_millis(millis),
            bytes,
            ops,
        };
        let records = [record(Op::Norm, 10, 1_000_000, 0), record(Op::Head, 50, 0, 100_000_000)];
        let profile = Profile::new(&records, Duration::from_millis(100));
        let [head, norm] = profile.ops.as_slice() else { panic!("{profile:?}") };
        assert_eq!((head.op.as_str(), norm.op.as_str()), ("linear head", "norm"));
        assert!((head.gop_per_s - 2.0).abs() < 1e-9 && (norm.gb_per_s - 0.1).abs() < 1e-9);
        assert!((head.share - 0.5).abs() < 1e-9 && (norm.share - 0.1).abs() < 1e-9);
    }
}
