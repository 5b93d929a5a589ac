//! Percentiles of what the clients saw.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::Run;
use super::client::Sample;
use crate::ui::table::{Align, Table};

/// What is printed as JSON.
#[derive(Debug, Serialize)]
pub struct Report {
    completed: usize,
    failed: usize,
    seconds: f64,
    /// Of the clients' requests; the long prompt is not counted.
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    /// Completion tokens of all clients per second of the run.
    tokens_per_s: f64,
    requests_per_s: f64,
    /// From sending to the first text; absent, as the next ones, where nothing came.
    ttft_ms: Option<Percentiles>,
    /// Inter-token latency: between one piece of text and the next, of all answers.
    itl_ms: Option<Percentiles>,
    /// From sending to the end.
    total_ms: Option<Percentiles>,
    /// TTFT of the long prompt.
    intruder_ttft_ms: Option<f64>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Report {
    pub fn new(run: &Run) -> Self {
        let samples: Vec<&Sample> = run.outcomes.iter().filter_map(|o| o.as_ref().ok()).collect();
        let sum = |of: fn(&Sample) -> u64| samples.iter().map(|s| of(s)).sum::<u64>();
        let seconds = run.time.as_secs_f64();
        let intruder = run.intruder.as_ref().and_then(|o| o.as_ref().ok());
        Report {
            completed: samples.len(),
            failed: run.outcomes.len() - samples.len(),
            seconds,
            prompt_tokens: sum(|s| s.prompt_tokens),
            cached_tokens: sum(|s| s.cached_tokens),
            completion_tokens: sum(|s| s.completion_tokens),
            tokens_per_s: sum(|s| s.completion_tokens) as f64 / seconds,
            requests_per_s: samples.len() as f64 / seconds,
            ttft_ms: Percentiles::of(samples.iter().map(|s| s.ttft)),
            itl_ms: Percentiles::of(samples.iter().flat_map(|s| s.gaps.iter().copied())),
            total_ms: Percentiles::of(samples.iter().map(|s| s.total)),
            intruder_ttft_ms: intruder.map(|sample| ms(sample.ttft)),
        }
    }

    pub fn print(&self, out: &mut dyn Write) -> Result<()> {
        writeln!(
            out,
            "{} requests in {:.2} s, {} failed: {:.1} tokens/s, {:.2} requests/s",
            self.completed + self.failed,
            self.seconds,
            self.failed,
            self.tokens_per_s,
            self.requests_per_s,
        )?;
        writeln!(
            out,
            "tokens: {} of prompts ({} of them from the prefix cache), {} of answers",
            self.prompt_tokens, self.cached_tokens, self.completion_tokens,
        )?;
        if self.completed == 0 {
            return Ok(());
        }
        let columns = ["P50", "P90", "P99", "MAX"].map(|name| (name, Align::Right));
        let mut table = Table::new(&[&[("MS", Align::Left)][..], &columns].concat());
        for (name, percentiles) in [
            ("time to first token", self.ttft_ms),
            ("inter-token latency", self.itl_ms),
            ("whole answer", self.total_ms),
        ] {
            let Some(p) = percentiles else { continue };
            let cells = [p.p50, p.p90, p.p99, p.max].map(|ms| format!("{ms:.1}"));
            table.row([vec![name.to_string()], cells.to_vec()].concat());
        }
        table.print(out)?;
        if let Some(ttft) = self.intruder_ttft_ms {
            writeln!(out, "time to first token of the long prompt: {ttft:.1} ms")?;
        }
        Ok(())
    }
}

impl Percentiles {
    /// By the nearest rank; `None` of nothing.
    fn of(times: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        let rank = |percent: usize| {
            let rank = (percent * times.len()).div_ceil(100).max(1);
            times.get(rank - 1).copied().map(ms)
        };
        Some(Percentiles { p50: rank(50)?, p90: rank(90)?, p99: rank(99)?, max: rank(100)? })
    }
}

fn ms(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_rank() {
        let of = |n: u64| Percentiles::of((1..=n).rev().map(Duration::from_millis));
        assert_eq!(of(0), None);
        let want = |p50, p90, p99, max| Some(Percentiles { p50, p90, p99, max });
        assert_eq!(of(1), want(1.0, 1.0, 1.0, 1.0));
        assert_eq!(of(10), want(5.0, 9.0, 10.0, 10.0));
        assert_eq!(of(200), want(100.0, 180.0, 198.0, 200.0));
    }

    #[test]
    fn failed_requests_count_in_nothing_else() {
        let sample = Sample {
            ttft: Duration::from_millis(10),
            total: Duration::from_millis(30),
            gaps: vec![Duration::from_millis(4); 3],
            prompt_tokens: 5,
            cached_tokens: 2,
            completion_tokens: 4,
        };
        let outcomes = vec![Ok(sample.clone()), Err("refused".into()), Ok(sample)];
        let run = Run { outcomes, intruder: None, time: Duration::from_secs(2) };
        let report = Report::new(&run);
        assert_eq!((report.completed, report.failed), (2, 1));
        assert_eq!((report.completion_tokens, report.tokens_per_s), (8, 4.0));
        assert_eq!(report.itl_ms.unwrap().max, 4.0);
    }
}
