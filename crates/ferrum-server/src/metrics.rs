//! What is counted, in Prometheus' words.

use std::time::Instant;

use ferrum_engine::{EngineStats, Event, FinishReason};
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// Bounds of the buckets for times, in seconds: from one fast step to a long queue.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The counters of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ttft: Histogram,
    itl: Histogram,
    duration: Histogram,
    finished: IntCounterVec,
    responses: IntCounterVec,
    prompt_tokens: IntCounter,
    generated_tokens: IntCounter,
    cached_tokens: IntCounter,
    engine: EngineMetrics,
}

/// What the engine counts by itself; set when it is asked for.
#[derive(Debug)]
struct EngineMetrics {
    running: IntGauge,
    waiting: IntGauge,
    kv_blocks: IntGauge,
    kv_free: IntGauge,
    kv_cached: IntGauge,
    kv_use: Gauge,
    last_step: Gauge,
    counters: [(IntCounter, Read); 7],
}

/// Reads a counter of the engine.
type Read = fn(&EngineStats) -> u64;

/// Makes metrics in one registry.
struct Maker(Registry);

impl Maker {
    fn add<T: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: prometheus::Result<T>,
    ) -> prometheus::Result<T> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn seconds(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.add(Histogram::with_opts(options))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help))
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn float(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.add(Gauge::new(name, help))
    }
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> prometheus::Result<Self> {
        let make = Maker(Registry::new());
        Ok(Metrics {
            ttft: make.seconds("ferrum_ttft_seconds", "Time from a request to its first token")?,
            itl: make.seconds("ferrum_itl_seconds", "Time between tokens of an answer")?,
            duration: make.seconds("ferrum_request_seconds", "Time from a request to its end")?,
            finished: make.counters(
                "ferrum_requests_finished_total",
                "Requests that the engine ended, by reason",
                &["reason"],
            )?,
            responses: make.counters(
                "ferrum_http_responses_total",
                "Responses, by route and status",
                &["route", "status"],
            )?,
            prompt_tokens: make.counter("ferrum_prompt_tokens_total", "Tokens of prompts")?,
            generated_tokens: make.counter("ferrum_generated_tokens_total", "Tokens of answers")?,
            cached_tokens: make.counter(
                "ferrum_cached_prompt_tokens_total",
                "Tokens of prompts that were in the cache",
            )?,
            engine: EngineMetrics::new(&make)?,
            registry: make.0,
        })
    }

    /// Counts an event of a request that came in at `since` and had its last token at
    /// `last_token`.
    pub fn event(
        &self,
        event: &Event,
        since: Instant,
        last_token: &mut Option<Instant>,
        now: Instant,
    ) {
        match event {
            Event::Prompt { cached_tokens, .. } => self.cached_tokens.inc_by(*cached_tokens as u64),
            Event::Text { token: Some(_), .. } => match last_token.replace(now) {
                None => self.ttft.observe((now - since).as_secs_f64()),
                Some(last) => self.itl.observe((now - last).as_secs_f64()),
            },
            Event::Text { token: None, .. } => {}
            Event::Finished { reason, usage, .. } => {
                self.duration.observe((now - since).as_secs_f64());
                self.prompt_tokens.inc_by(usage.prompt_tokens as u64);
                self.generated_tokens.inc_by(usage.completion_tokens as u64);
                self.finished(match reason {
                    FinishReason::Length => "length",
                    FinishReason::Cancelled => "cancelled",
                    FinishReason::Error(_) => "error",
                    FinishReason::EndOfText(_)
                    | FinishReason::StopToken(_)
                    | FinishReason::GrammarComplete
                    | FinishReason::StopString(_) => "stop",
                });
            }
        }
    }

    /// Counts the end of a request.
    pub fn finished(&self, reason: &str) {
        self.finished.with_label_values(&[reason]).inc();
    }

    /// Counts a response.
    pub fn response(&self, route: &str, status: u16) {
        self.responses.with_label_values(&[route, &status.to_string()]).inc();
    }

    /// All of it in Prometheus' text format, with the engine as `stats` has it.
    pub fn text(&self, stats: &EngineStats) -> prometheus::Result<String> {
        self.engine.set(stats);
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

impl EngineMetrics {
    fn new(make: &Maker) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| make.counter(name, help);
        Ok(EngineMetrics {
            running: make.gauge("ferrum_requests_running", "Requests in the batch")?,
            waiting: make.gauge("ferrum_requests_waiting", "Requests that wait for room")?,
            kv_blocks: make.gauge("ferrum_kv_blocks", "Blocks of the KV cache")?,
            kv_free: make.gauge("ferrum_kv_blocks_free", "Blocks that no request holds")?,
            kv_cached: make
                .gauge("ferrum_kv_blocks_cached", "Free blocks with reusable content")?,
            kv_use: make.float("ferrum_kv_use_ratio", "Part of the KV cache that requests hold")?,
            last_step: make.float("ferrum_last_step_seconds", "Time of the last step")?,
            counters: [
                (counter("ferrum_steps_total", "Steps of the model")?, |s| s.steps),
                (
                    counter("ferrum_prefix_query_tokens_total", "Tokens looked up in the cache")?,
                    |s| s.prefix_query_tokens,
                ),
                (counter("ferrum_prefix_hit_tokens_total", "Of these, tokens found")?, |s| {
                    s.prefix_hit_tokens
                }),
                (counter("ferrum_preemptions_total", "Requests that lost their blocks")?, |s| {
                    s.preemptions
                }),
                (counter("ferrum_computed_prompt_tokens_total", "Prompt tokens computed")?, |s| {
                    s.prompt_tokens
                }),
                (
                    counter("ferrum_drafted_tokens_total", "Tokens that speculation proposed")?,
                    |s| s.drafted_tokens,
                ),
                (
                    counter("ferrum_accepted_tokens_total", "Of these, tokens that were right")?,
                    |s| s.accepted_tokens,
                ),
            ],
        })
    }

    fn set(&self, stats: &EngineStats) {
        self.running.set(stats.running as i64);
        self.waiting.set(stats.waiting as i64);
        self.kv_blocks.set(stats.kv_blocks as i64);
        self.kv_free.set(stats.kv_blocks_free as i64);
        self.kv_cached.set(stats.kv_blocks_cached as i64);
        let held = stats.kv_blocks.saturating_sub(stats.kv_blocks_free);
        self.kv_use.set(held as f64 / stats.kv_blocks.max(1) as f64);
        self.last_step.set(stats.last_step.as_secs_f64());
        for (counter, read) in &self.counters {
            counter.inc_by(read(stats).saturating_sub(counter.get()));
        }
    }
}
