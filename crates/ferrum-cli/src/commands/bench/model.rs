//! `ferrum bench MODEL`: how fast a model reads a prompt and generates.
//!
//! Drives the runner without engine and sampler, over random tokens, as llama.cpp's llama-bench
//! does: only the model is measured. Speeds are sums over all sequences.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use ferrum_models::cpu::{Cpu, CpuConfig, physical_cores};
use ferrum_models::profile::Profiler;
use ferrum_models::runner::Runner;
use ferrum_models::{Device, LoadOptions, load, load_profiled};
use serde::Serialize;

use super::profile::{Limits, Profile};
use super::random::Random;
use crate::args::BenchArgs;
use crate::commands::devices;
use crate::config::Config;
use crate::exit::UsageError;
use crate::packed::Lockstep;
use crate::session::open_model;
use crate::ui::table::{Align, Table};

/// Tokens per second of the repetitions.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Speed {
    median: f64,
    min: f64,
    max: f64,
}

/// A phase, measured.
#[derive(Debug)]
struct Phase {
    speed: Speed,
    profile: Option<Profile>,
}

/// What is printed as JSON; speeds in tokens per second.
#[derive(Debug, Serialize)]
struct Report<'a> {
    model: &'a str,
    threads: usize,
    threads_batch: usize,
    device: &'static str,
    tensor_parallel: u16,
    prefill: usize,
    decode: usize,
    depth: usize,
    batch: usize,
    repetitions: usize,
    load_seconds: f64,
    /// Medians; absent where nothing was measured.
    prefill_tps: Option<f64>,
    decode_tps: Option<f64>,
    prefill_tps_range: Option<[f64; 2]>,
    decode_tps_range: Option<[f64; 2]>,
    /// With `--profile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<ProfileReport<'a>>,
}

/// Where the time goes.
#[derive(Debug, Serialize)]
struct ProfileReport<'a> {
    limits: Limits,
    prefill: Option<&'a Profile>,
    decode: Option<&'a Profile>,
}

/// Measures and prints.
pub fn run(name: &str, args: &BenchArgs, config: &Config) -> Result<()> {
    let [prefill, decode, depth, batch] =
        [args.prefill, args.decode, args.depth, args.batch].map(|n| n as usize);
    if prefill == 0 && decode == 0 {
        return Err(UsageError("--prefill 0 --decode 0 leaves nothing to measure".into()).into());
    }
    let file = open_model(name, config)?;
    let options = load_options(args, config);
    let limits = || args.profile.then(|| machine(&options)).transpose();
    let before = limits()?;
    let start = Instant::now();
    let (runner, profiler) = match args.profile {
        true => load_profiled(&*file.checkpoint, &options).map(|(runner, p)| (runner, Some(p)))?,
        false => (load(&*file.checkpoint, &options)?, None),
    };
    let load_seconds = start.elapsed().as_secs_f64();
    let mut bench = Bench::new(runner, profiler, batch)?;
    let repetitions = args.repetitions as usize;
    bench.read(depth)?;
    let prefill_phase = bench.measure(prefill, depth, repetitions, Bench::read)?;
    let decode_phase = bench.measure(decode, depth, repetitions, Bench::generate)?;
    drop(bench);
    let limits = before.zip(limits()?).map(|(before, after)| Limits { before, after });
    let phases = [&prefill_phase, &decode_phase].map(Option::as_ref);
    let tps = phases.map(|p| p.map(|p| p.speed.median));
    let ranges = phases.map(|p| p.map(|p| [p.speed.min, p.speed.max]));
    let profiles = phases.map(|p| p?.profile.as_ref());
    let threads = threads(&options);
    let report = Report {
        model: name,
        threads,
        threads_batch: options.threads_batch.unwrap_or(threads),
        device: args.load.device_name(),
        tensor_parallel: args.load.tensor_parallel,
        prefill,
        decode,
        depth,
        batch,
        repetitions,
        load_seconds,
        prefill_tps_range: ranges[0],
        decode_tps_range: ranges[1],
        prefill_tps: tps[0],
        decode_tps: tps[1],
        profile: limits.map(|limits| {
            let [prefill, decode] = profiles;
            ProfileReport { limits, prefill, decode }
        }),
    };
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?);
    }
    print_table(&mut out, &report, phases.map(|p| p.map(|p| &p.speed)))?;
    print_profile(&mut out, &report)
}

fn load_options(args: &BenchArgs, config: &Config) -> LoadOptions {
    let batch = args.batch as usize;
    LoadOptions {
        context: Some(args.depth as usize + args.prefill.max(args.decode) as usize),
        max_seqs: batch,
        step_tokens: (args.step_tokens as usize).max(batch),
        lora: args.lora.sources(),
        ..args.load.options(&config.cuda)
    }
}

/// Threads of all ranks together.
fn threads(options: &LoadOptions) -> usize {
    options.threads.unwrap_or_else(|| physical_cores().max(options.tensor_parallel))
}

/// What the machine can do with the threads that decode, measured; or a card by its data sheet.
fn machine(options: &LoadOptions) -> Result<devices::Measured> {
    if let Device::Cuda(ordinal) = options.device {
        return devices::card_peaks(ordinal);
    }
    // A profile is that of the first rank.
    let threads = threads(options) / options.tensor_parallel.max(1);
    let config = CpuConfig { threads, isa: options.isa, ..CpuConfig::default() };
    devices::measure(&Cpu::new(config)?, threads)
}

fn print_profile(out: &mut dyn Write, report: &Report<'_>) -> Result<()> {
    let Some(ProfileReport { limits, prefill, decode }) = &report.profile else { return Ok(()) };
    for (phase, profile) in [("prefill", prefill), ("decode", decode)] {
        if let Some(profile) = profile {
            profile.print(out, phase, limits)?;
        }
    }
    limits.print(out)
}

fn print_table(
    out: &mut dyn Write,
    report: &Report<'_>,
    [prefill, decode]: [Option<&Speed>; 2],
) -> Result<()> {
    writeln!(out, "{}, loaded in {:.2} s", report.model, report.load_seconds)?;
    let mut table = Table::new(&[
        ("TEST", Align::Left),
        ("TOKENS", Align::Right),
        ("DEPTH", Align::Right),
        ("BATCH", Align::Right),
        ("TOKENS/S", Align::Right),
        ("MIN", Align::Right),
        ("MAX", Align::Right),
    ]);
    for (test, tokens, speed) in
        [("prefill", report.prefill, prefill), ("decode", report.decode, decode)]
    {
        let Some(speed) = speed else { continue };
        let counts = [tokens, report.depth, report.batch].map(|n| n.to_string());
        let speeds = [speed.median, speed.min, speed.max].map(|v| format!("{v:.1}"));
        table.row([vec![test.to_string()], counts.to_vec(), speeds.to_vec()].concat());
    }
    Ok(table.print(out)?)
}

/// A runner with its sequences and a source of tokens.
struct Bench {
    runner: Box<dyn Runner>,
    profiler: Option<Profiler>,
    cache: Lockstep,
    batch: usize,
    random: Random,
}

impl Bench {
    fn new(runner: Box<dyn Runner>, profiler: Option<Profiler>, batch: usize) -> Result<Self> {
        let cache = Lockstep::new(runner.limits(), batch)
            .ok_or_else(|| anyhow!("the KV cache has no room for {batch} sequences"))?;
        Ok(Bench { runner, profiler, cache, batch, random: Random::new(1) })
    }

    /// Runs `what` over `tokens` of each sequence behind `depth` others, once to warm up and then
    /// `repetitions` times.
    fn measure(
        &mut self,
        tokens: usize,
        depth: usize,
        repetitions: usize,
        what: fn(&mut Self, usize) -> Result<()>,
    ) -> Result<Option<Phase>> {
        if tokens == 0 {
            return Ok(None);
        }
        let mut speeds = Vec::with_capacity(repetitions);
        let mut total = Duration::ZERO;
        for repetition in 0..=repetitions {
            self.cache.truncate(depth);
            let start = Instant::now();
            what(self, tokens)?;
            let time = start.elapsed();
            if repetition > 0 {
                total += time;
                speeds.push((tokens * self.batch) as f64 / time.as_secs_f64());
            } else if let Some(profiler) = &self.profiler {
                // What went before was to warm up.
                profiler.take();
            }
        }
        self.cache.truncate(depth);
        let profile = self.profiler.as_ref().map(|p| Profile::new(&p.take(), total));
        Ok(Some(Phase { speed: Speed::of(speeds), profile }))
    }

    /// Appends `n` tokens to each sequence in steps as large as the runner takes. Only the last
    /// step asks for logits, as in serving.
    fn read(&mut self, n: usize) -> Result<()> {
        let chunk = (self.runner.limits().capacity.tokens / self.batch).max(1);
        let mut left = n;
        while left > 0 {
            let now = left.min(chunk);
            left -= now;
            self.step(now, if left == 0 { 1 } else { 0 })?;
        }
        Ok(())
    }

    /// Appends `n` tokens to each sequence, one a step.
    fn generate(&mut self, n: usize) -> Result<()> {
        (0..n).try_for_each(|_| self.step(1, 1))
    }

    fn step(&mut self, each: usize, samples: usize) -> Result<()> {
        let vocab = self.runner.limits().vocab;
        let tokens: Vec<u32> =
            (0..each * self.batch).map(|_| self.random.below(vocab) as u32).collect();
        let step = self.cache.append(&tokens, samples);
        self.runner.step(&step)?;
        Ok(())
    }
}

impl Speed {
    /// Of at least one value.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (min, max) = (values[0], values[values.len() - 1]);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Speed { median, min, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Speed::of(vec![3.0, 1.0, 2.0]), Speed { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Speed::of(vec![4.0, 1.0]).median, 2.5);
    }
}
