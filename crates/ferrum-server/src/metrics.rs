//! What is counted, in Prometheus' words. What concerns a model has its name as the label `model`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferrum_engine::{EngineStats, Event, FinishReason};
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec,
    IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Bounds of the buckets for times, in seconds: from one fast step to a long queue.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Name, help and value of a gauge of an engine.
type EngineGauge = (&'static str, &'static str, fn(&EngineStats) -> f64);

/// The state of an engine.
const GAUGES: [EngineGauge; 8] = [
    ("ferrum_requests_running", "Requests in the batch", |s| s.running as f64),
    ("ferrum_requests_waiting", "Requests that wait for room", |s| s.waiting as f64),
    ("ferrum_kv_blocks", "Blocks of the KV cache", |s| s.kv_blocks as f64),
    ("ferrum_kv_blocks_free", "Blocks that no request holds", |s| s.kv_blocks_free as f64),
    ("ferrum_kv_blocks_cached", "Free blocks with reusable content", |s| s.kv_blocks_cached as f64),
    ("ferrum_kv_use_ratio", "Part of the KV cache that requests hold", |s| {
        let held = s.kv_blocks.saturating_sub(s.kv_blocks_free);
        held as f64 / s.kv_blocks.max(1) as f64
    }),
    ("ferrum_draft_failed", "1 if the draft model failed and is asked no more", |s| {
        f64::from(u8::from(s.draft_failed))
    }),
    ("ferrum_last_step_seconds", "Time of the last step", |s| s.last_step.as_secs_f64()),
];

/// Name, help and value of a counter of an engine.
type EngineCounter = (&'static str, &'static str, fn(&EngineStats) -> u64);

/// What an engine counts by itself.
const COUNTERS: [EngineCounter; 7] = [
    ("ferrum_steps_total", "Steps of the model", |s| s.steps),
    ("ferrum_prefix_query_tokens_total", "Tokens looked up in the cache", |s| {
        s.prefix_query_tokens
    }),
    ("ferrum_prefix_hit_tokens_total", "Of these, tokens found", |s| s.prefix_hit_tokens),
    ("ferrum_preemptions_total", "Requests that lost their blocks", |s| s.preemptions),
    ("ferrum_computed_prompt_tokens_total", "Prompt tokens computed", |s| s.prompt_tokens),
    ("ferrum_drafted_tokens_total", "Tokens that speculation proposed", |s| s.drafted_tokens),
    ("ferrum_accepted_tokens_total", "Of these, tokens that were right", |s| s.accepted_tokens),
];

/// The counters of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    responses: IntCounterVec,
    budget: IntGauge,
    models: Families,
}

/// What is counted of each model.
#[derive(Debug)]
struct Families {
    ttft: HistogramVec,
    itl: HistogramVec,
    duration: HistogramVec,
    finished: IntCounterVec,
    prompt_tokens: IntCounterVec,
    generated_tokens: IntCounterVec,
    cached_tokens: IntCounterVec,
    texts: IntCounterVec,
    embedding: CounterVec,
    loads: IntCounterVec,
    evictions: IntCounterVec,
    loaded: GaugeVec,
    memory: GaugeVec,
    load_seconds: GaugeVec,
    waiting: GaugeVec,
    gauges: Vec<GaugeVec>,
    counters: Vec<IntCounterVec>,
}

/// The counters of one model. They go on when it is loaded again.
#[derive(Debug)]
pub struct ModelMetrics {
    name: String,
    ttft: Histogram,
    itl: Histogram,
    duration: Histogram,
    finished: IntCounterVec,
    prompt_tokens: IntCounter,
    generated_tokens: IntCounter,
    cached_tokens: IntCounter,
    embeddings: Option<Embeddings>,
    loads: IntCounter,
    evictions: IntCounter,
    loaded: Gauge,
    memory: Gauge,
    load_seconds: Gauge,
    waiting: Gauge,
    gauges: Vec<Gauge>,
    counters: Vec<IntCounter>,
    /// What the engine had counted when it was asked last.
    seen: Mutex<EngineStats>,
}

/// The counters of a model that makes embeddings.
#[derive(Debug)]
struct Embeddings {
    texts: IntCounter,
    seconds: Counter,
}

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

    fn seconds(&self, name: &str, help: &str) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.add(HistogramVec::new(options, &["model"]))
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounterVec> {
        self.counters(name, help, &["model"])
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), &["model"]))
    }
}

impl Families {
    fn new(make: &Maker) -> prometheus::Result<Self> {
        let gauges = GAUGES.iter().map(|(name, help, _)| make.gauge(name, help));
        let counters = COUNTERS.iter().map(|(name, help, _)| make.counter(name, help));
        Ok(Families {
            ttft: make.seconds("ferrum_ttft_seconds", "Time from a request to its first token")?,
            itl: make.seconds("ferrum_itl_seconds", "Time between tokens of an answer")?,
            duration: make.seconds("ferrum_request_seconds", "Time from a request to its end")?,
            finished: make.counters(
                "ferrum_requests_finished_total",
                "Requests that the engine ended, by reason",
                &["model", "reason"],
            )?,
            prompt_tokens: make.counter("ferrum_prompt_tokens_total", "Tokens of prompts")?,
            generated_tokens: make.counter("ferrum_generated_tokens_total", "Tokens of answers")?,
            cached_tokens: make.counter(
                "ferrum_cached_prompt_tokens_total",
                "Tokens of prompts that were in the cache",
            )?,
            texts: make.counter("ferrum_embedded_texts_total", "Texts that became vectors")?,
            embedding: make.add(CounterVec::new(
                Opts::new("ferrum_embedding_seconds_total", "Time of the model for embeddings"),
                &["model"],
            ))?,
            loads: make.counter("ferrum_model_loads_total", "Times that the model was loaded")?,
            evictions: make
                .counter("ferrum_model_evictions_total", "Times that it made room for another")?,
            loaded: make.gauge("ferrum_model_loaded", "1 while the model is in memory")?,
            memory: make
                .gauge("ferrum_model_memory_bytes", "Memory that the model takes while loaded")?,
            load_seconds: make.gauge("ferrum_model_load_seconds", "Time of the last load")?,
            waiting: make
                .gauge("ferrum_model_waiting_requests", "Requests that wait for the model")?,
            gauges: gauges.collect::<prometheus::Result<_>>()?,
            counters: counters.collect::<prometheus::Result<_>>()?,
        })
    }

    fn of(&self, name: &str) -> ModelMetrics {
        let label = &[name];
        let gauges = self.gauges.iter().map(|gauge| gauge.with_label_values(label));
        let counters = self.counters.iter().map(|c| c.with_label_values(label));
        self.with_engine(name, gauges.collect(), counters.collect())
    }

    fn with_engine(
        &self,
        name: &str,
        gauges: Vec<Gauge>,
        counters: Vec<IntCounter>,
    ) -> ModelMetrics {
        let label = &[name];
        ModelMetrics {
            name: name.to_string(),
            ttft: self.ttft.with_label_values(label),
            itl: self.itl.with_label_values(label),
            duration: self.duration.with_label_values(label),
            finished: self.finished.clone(),
            prompt_tokens: self.prompt_tokens.with_label_values(label),
            generated_tokens: self.generated_tokens.with_label_values(label),
            cached_tokens: self.cached_tokens.with_label_values(label),
            embeddings: None,
            loads: self.loads.with_label_values(label),
            evictions: self.evictions.with_label_values(label),
            loaded: self.loaded.with_label_values(label),
            memory: self.memory.with_label_values(label),
            load_seconds: self.load_seconds.with_label_values(label),
            waiting: self.waiting.with_label_values(label),
            gauges,
            counters,
            seen: Mutex::default(),
        }
    }

    /// Of a model that makes embeddings: it has no engine.
    fn of_encoder(&self, name: &str) -> ModelMetrics {
        let label = &[name];
        let embeddings = Embeddings {
            texts: self.texts.with_label_values(label),
            seconds: self.embedding.with_label_values(label),
        };
        let embeddings = Some(embeddings);
        ModelMetrics { embeddings, ..self.with_engine(name, Vec::new(), Vec::new()) }
    }
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> prometheus::Result<Self> {
        let make = Maker(Registry::new());
        let budget = IntGauge::new("ferrum_memory_budget_bytes", "Memory that models may take");
        Ok(Metrics {
            responses: make.counters(
                "ferrum_http_responses_total",
                "Responses, by route and status",
                &["route", "status"],
            )?,
            budget: make.add(budget)?,
            models: Families::new(&make)?,
            registry: make.0,
        })
    }

    /// The counters of the model of this name.
    pub fn model(&self, name: &str) -> Arc<ModelMetrics> {
        Arc::new(self.models.of(name))
    }

    /// The counters of the model of this name, which makes embeddings.
    pub fn encoder(&self, name: &str) -> Arc<ModelMetrics> {
        Arc::new(self.models.of_encoder(name))
    }

    /// Says how many bytes models may take.
    pub fn budget(&self, bytes: u64) {
        self.budget.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts a response.
    pub fn response(&self, route: &str, status: u16) {
        self.responses.with_label_values(&[route, &status.to_string()]).inc();
    }

    /// All of it in Prometheus' text format.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

impl ModelMetrics {
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
        self.finished.with_label_values(&[self.name.as_str(), reason]).inc();
    }

    /// Takes over what the engine counts by itself.
    pub fn engine(&self, stats: &EngineStats) {
        for (gauge, (.., read)) in self.gauges.iter().zip(&GAUGES) {
            gauge.set(read(stats));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (counter, (.., read)) in self.counters.iter().zip(&COUNTERS) {
            counter.inc_by(read(stats).saturating_sub(read(&seen)));
        }
        *seen = *stats;
    }

    /// Requests that wait until the model is loaded.
    pub fn waiting(&self, requests: usize) {
        self.waiting.set(requests as f64);
    }

    /// The model was loaded in this time, and takes so many bytes.
    pub fn loaded(&self, time: Duration, bytes: u64) {
        self.loads.inc();
        self.loaded.set(1.0);
        self.memory.set(bytes as f64);
        self.load_seconds.set(time.as_secs_f64());
    }

    /// Counts texts that became vectors in this time.
    pub fn embedded(&self, texts: usize, time: Duration) {
        if let Some(embeddings) = &self.embeddings {
            embeddings.texts.inc_by(texts as u64);
            embeddings.seconds.inc_by(time.as_secs_f64());
        }
    }

    /// Counts a request for vectors of texts of so many tokens, which came in at `since`.
    pub fn embedding_finished(&self, tokens: usize, since: Instant) {
        self.duration.observe(since.elapsed().as_secs_f64());
        self.prompt_tokens.inc_by(tokens as u64);
        self.finished("stop");
    }

    /// The model made room; `last` is what its engine had counted, if it has one. The next engine
    /// counts from zero.
    pub fn evicted(&self, last: Option<&EngineStats>) {
        self.engine(last.unwrap_or(&EngineStats::default()));
        let nothing = EngineStats::default();
        self.gauges.iter().zip(&GAUGES).for_each(|(gauge, (.., read))| gauge.set(read(&nothing)));
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = nothing;
        self.evictions.inc();
        self.loaded.set(0.0);
        self.memory.set(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_when_a_model_comes_back() {
        let metrics = Metrics::new().unwrap();
        let model = metrics.model("a \"b\"");
        let stats = |steps, running| EngineStats { steps, running, ..EngineStats::default() };
        let line = |name: &str, value: &str| {
            let line = format!("{name}{{model=\"a \\\"b\\\"\"}} {value}");
            let text = metrics.text().unwrap();
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        };
        model.loaded(Duration::from_millis(500), 70);
        model.engine(&stats(5, 2));
        model.engine(&stats(7, 1));
        line("ferrum_steps_total", "7");
        line("ferrum_requests_running", "1");
        line("ferrum_model_memory_bytes", "70");
        line("ferrum_model_load_seconds", "0.5");
        model.evicted(Some(&stats(9, 0)));
        line("ferrum_steps_total", "9");
        line("ferrum_model_loaded", "0");
        model.loaded(Duration::ZERO, 70);
        model.engine(&stats(4, 3));
        line("ferrum_steps_total", "13");
        line("ferrum_model_evictions_total", "1");
        line("ferrum_model_loads_total", "2");
    }
}
