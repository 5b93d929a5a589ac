//! `ferrum bench serve`: load on a server that speaks the OpenAI API, seen from its clients.
//!
//! Each client sends one streamed request after another. No two prompts are the same, so that only
//! what `--shared-words` puts before each can be found in a cache.

mod client;
mod report;

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::client::{Client, Outcome};
use self::report::Report;
use super::random::Random;
use crate::args::BenchServeArgs;
use crate::config::Config;

/// What prompts are made of: words of one or two tokens each.
const WORDS: [&str; 48] = [
    "river", "stone", "garden", "winter", "letter", "bread", "window", "forest", "music", "paper",
    "summer", "bridge", "island", "silver", "market", "village", "candle", "shadow", "mountain",
    "harbour", "teacher", "engine", "number", "answer", "morning", "evening", "travel", "season",
    "butter", "clock", "cloud", "field", "glass", "horse", "kitchen", "ladder", "mirror", "needle",
    "ocean", "pencil", "rabbit", "saddle", "table", "valley", "wagon", "yellow", "apple", "basket",
];

/// Tokens of the long prompt's answer: only its first one matters.
const INTRUDER_TOKENS: u32 = 8;

/// Sends, measures and prints. Fails if a request did.
pub fn run(args: &BenchServeArgs, config: &Config) -> Result<()> {
    let client = Client::new(args, config)?;
    let load = Load::new(args);
    let run = load.send(&client);
    let report = Report::new(&run);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        false => report.print(&mut out)?,
    }
    let failures: Vec<&String> =
        run.outcomes.iter().chain(&run.intruder).filter_map(|o| o.as_ref().err()).collect();
    if let Some(first) = failures.first() {
        bail!("{} of the requests failed, the first one: {first}", failures.len());
    }
    Ok(())
}

/// What a run gave.
#[derive(Debug)]
struct Run {
    /// Of the clients' requests, in the order in which they ended.
    outcomes: Vec<Outcome>,
    /// Of the one long prompt, if there was one.
    intruder: Option<Outcome>,
    /// From the first request to the end of the last.
    time: Duration,
}

/// The requests to send.
#[derive(Debug)]
struct Load<'a> {
    args: &'a BenchServeArgs,
    /// What all prompts begin with.
    shared: String,
}

impl<'a> Load<'a> {
    fn new(args: &'a BenchServeArgs) -> Self {
        let mut shared = text(args.shared_words, args.seed);
        if !shared.is_empty() {
            shared.push(' ');
        }
        Load { args, shared }
    }

    /// Sends them all and waits for their ends.
    fn send(&self, client: &Client) -> Run {
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(Vec::new());
        let start = Instant::now();
        let intruder = thread::scope(|scope| {
            for _ in 0..self.args.concurrency.min(self.args.requests) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= self.args.requests as usize {
                            return;
                        }
                        let outcome = client.ask(&self.prompt(i), self.args.max_tokens);
                        outcomes.lock().unwrap_or_else(|e| e.into_inner()).push(outcome);
                    }
                });
            }
            (self.args.intruder_words > 0).then(|| {
                thread::sleep(Duration::from_secs_f64(self.args.intruder_after));
                client.ask(&text(self.args.intruder_words, !self.args.seed), INTRUDER_TOKENS)
            })
        });
        let outcomes = outcomes.into_inner().unwrap_or_else(|e| e.into_inner());
        Run { outcomes, intruder, time: start.elapsed() }
    }

    fn prompt(&self, request: usize) -> String {
        let seed = self.args.seed.wrapping_mul(1_000_003).wrapping_add(1 + request as u64);
        self.shared.clone() + &text(self.args.prompt_words, seed)
    }
}

/// Random words with a space between two.
fn text(words: u32, seed: u64) -> String {
    let mut random = Random::new(seed);
    let words: Vec<&str> = (0..words).map(|_| WORDS[random.below(WORDS.len())]).collect();
    words.join(" ")
}

/// The name of the server's first model.
fn first_model(answer: &str) -> Result<String> {
    let list: serde_json::Value =
        serde_json::from_str(answer).context("the list of models is no JSON")?;
    match list["data"][0]["id"].as_str() {
        Some(id) => Ok(id.to_string()),
        None => bail!("the server lists no models; name one with --model"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_and_repeat() {
        let distinct: std::collections::HashSet<String> = (0..500).map(|i| text(8, i)).collect();
        assert_eq!(distinct.len(), 500);
        assert_eq!(text(8, 3), text(8, 3));
        assert_eq!(text(8, 3).split(' ').count(), 8);
        assert_eq!(text(0, 3), "");
    }

    #[test]
    fn models() {
        assert_eq!(first_model(r#"{"data": [{"id": "a"}, {"id": "b"}]}"#).unwrap(), "a");
        for none in ["{}", r#"{"data": []}"#, "<html>"] {
            assert!(first_model(none).is_err());
        }
    }
}
