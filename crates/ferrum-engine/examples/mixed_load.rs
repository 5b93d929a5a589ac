//! What running answers and a long prompt do to each other, and what a shared prefix saves:
//! figures of the engine alone, without a server.
//!
//!     cargo run --release -p ferrum-engine --example mixed_load MODEL.gguf [SECONDS OF ITL TARGET]

use std::{
    collections::HashMap,
    env,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_engine::{
    Engine, EngineConfig, Event, Request, RequestId, SamplingParams, StopConditions,
};
use ferrum_models::{LoadOptions, gguf::Gguf, load, tokenizer::Tokenizer};

/// Arrival and tokens of a request.
struct Timeline {
    arrival: Instant,
    tokens: Vec<Instant>,
}

struct Load {
    engine: Engine,
    vocab: u32,
    /// Makes every prompt another one.
    counter: u32,
    lines: HashMap<RequestId, Timeline>,
}

impl Load {
    /// Adds a request of `shared` tokens that are always the same, `own` that never are.
    fn add(&mut self, shared: u32, own: u32, answer: usize) -> Result<RequestId, Box<dyn Error>> {
        self.counter += 1;
        let token = |i: u32, salt: u32| {
            (i.wrapping_mul(2_654_435_761) ^ salt.wrapping_mul(0x9e37_79b9)) % (self.vocab - 100)
                + 50
        };
        let own = (0..own).map(|i| token(i, self.counter));
        let request = Request {
            prompt: (0..shared).map(|i| token(i, 0)).chain(own).collect(),
            sampling: SamplingParams::greedy(),
            stop: StopConditions { ignore_eos: true, ..Default::default() },
            max_tokens: Some(answer),
            ..Default::default()
        };
        let id = self.engine.add(request)?;
        self.lines.insert(id, Timeline { arrival: Instant::now(), tokens: Vec::new() });
        Ok(id)
    }

    fn step(&mut self) -> Result<(), Box<dyn Error>> {
        for event in self.engine.step()? {
            if let Event::Text { id, token: Some(_), .. } = event {
                self.lines.get_mut(&id).ok_or("an unknown request")?.tokens.push(Instant::now());
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Box<dyn Error>> {
        while !self.engine.is_idle() {
            self.step()?;
        }
        Ok(())
    }

    fn ttft(&self, id: RequestId) -> f64 {
        let line = &self.lines[&id];
        line.tokens.first().map_or(f64::NAN, |first| (*first - line.arrival).as_secs_f64())
    }
}

/// Four answers run when a prompt of `len` tokens arrives.
fn intruder(load: &mut Load, len: u32) -> Result<(), Box<dyn Error>> {
    let alone = load.add(0, len, 8)?;
    load.drain()?;
    let streams = (0..4).map(|_| load.add(0, 80, 400)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        load.step()?;
    }
    let beside = load.add(0, len, 8)?;
    load.drain()?;
    let mut gaps: Vec<f64> = streams
        .iter()
        .flat_map(|id| load.lines[id].tokens.windows(2))
        .map(|pair| (pair[1] - pair[0]).as_secs_f64())
        .collect();
    gaps.sort_by(f64::total_cmp);
    let (alone, beside) = (load.ttft(alone), load.ttft(beside));
    println!(
        "prompt of {len} tokens beside 4 answers: gaps median {:.1} ms, p99 {:.1} ms, largest {:.1} \
         ms; first token after {beside:.2} s, alone {alone:.2} s, ratio {:.2}",
        1e3 * gaps[gaps.len() / 2],
        1e3 * gaps[gaps.len() * 99 / 100],
        1e3 * gaps[gaps.len() - 1],
        beside / alone,
    );
    Ok(())
}

/// Twelve requests at once that begin with the same `shared` tokens.
fn prefix(load: &mut Load, shared: u32) -> Result<(), Box<dyn Error>> {
    let before = load.engine.stats();
    let ids = (0..12).map(|_| load.add(shared, 40, 32)).collect::<Result<Vec<_>, _>>()?;
    load.drain()?;
    let mut ttft: Vec<f64> = ids.iter().map(|&id| load.ttft(id)).collect();
    ttft.sort_by(f64::total_cmp);
    let stats = load.engine.stats();
    println!(
        "12 prompts with {shared} tokens in common: first token after {:.2} to {:.2} s; {} tokens of \
         prompts computed, {} cached",
        ttft[0],
        ttft[11],
        stats.prompt_tokens - before.prompt_tokens,
        stats.prefix_hit_tokens - before.prefix_hit_tokens,
    );
    Ok(())
}

/// The speed of one answer that repeats itself, as after a prompt that it copies.
fn copying(load: &mut Load, what: &str) -> Result<(), Box<dyn Error>> {
    let before = load.engine.stats();
    let id = load.add(64, 0, 400)?;
    load.drain()?;
    let tokens = &load.lines[&id].tokens;
    let seconds = (tokens[tokens.len() - 1] - tokens[0]).as_secs_f64();
    let stats = load.engine.stats();
    println!(
        "an answer of {} tokens {what}: {:.1} tokens/s; {} proposed, {} right",
        tokens.len(),
        (tokens.len() - 1) as f64 / seconds,
        stats.drafted_tokens - before.drafted_tokens,
        stats.accepted_tokens - before.accepted_tokens,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let path = args.next().ok_or("usage: mixed_load MODEL.gguf [SECONDS]")?;
    let target = args.next().map(|text| text.parse()).transpose()?.map(Duration::from_secs_f64);
    let file = Gguf::open(path.as_ref())?;
    let tokenizer = Arc::new(Tokenizer::from_metadata(file.metadata())?);
    let (context, max_seqs, max_samples) = (Some(6144), 8, Some(24));
    let options = LoadOptions { context, max_seqs, max_samples, ..Default::default() };
    let vocab = u32::try_from(tokenizer.vocab_size())?;
    let new = |config| -> Result<Load, Box<dyn Error>> {
        let engine = Engine::new(load(&file, &options)?, tokenizer.clone(), config)?;
        Ok(Load { engine, vocab, counter: 0, lines: HashMap::new() })
    };
    let defaults = EngineConfig::default();
    copying(&mut new(EngineConfig { max_draft: 0, ..defaults })?, "without speculation")?;
    copying(&mut new(defaults)?, "with speculation")?;
    let mut load = new(EngineConfig { itl_target: target.or(defaults.itl_target), ..defaults })?;
    intruder(&mut load, 4400)?;
    intruder(&mut load, 4400)?;
    prefix(&mut load, 650)
}
