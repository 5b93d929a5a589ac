//! A model and a tokenizer for tests, and the slow, plain definition of what an answer is.
//!
//! The fake model's logits are a hash of the whole prefix, which it reads back from its own KV
//! cache through the step's block tables; so a wrong table, position, slot or row, or a block that
//! two sequences write to, gives another text.

pub mod rng;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ferrum_engine::{
    Detokenizer, FinishReason, Request, SamplingParams, StopConditions, Vocabulary,
    sampler::{Sampler, Workspace},
};
use ferrum_models::{
    KV_BLOCK_SIZE, KernelError, StepCapacity, StepInput,
    draw::{Candidates, Drawn, RowDraw, Scored, apply_adjustments, apply_mask, logprobs},
    runner::{Runner, RunnerLimits, Sampled},
};

pub use self::rng::Rng;
use self::rng::hash;

/// Tokens of the fake vocabulary.
pub const VOCAB: usize = 40;
/// Its end-of-generation token.
pub const EOS: u32 = 0;
/// A prefix with this token has NaN among its logits.
pub const POISON: u32 = 39;

/// After this token, only the last two tokens count: such answers repeat themselves.
pub const LOOP: u32 = 38;

/// Sizes for tests that want preemptions: `kv_blocks` blocks for up to 6 sequences, and rows of
/// logits for proposed tokens and for scores.
pub fn limits(kv_blocks: usize) -> RunnerLimits {
    let capacity = StepCapacity { tokens: 64, seqs: 6, blocks_per_seq: 8, samples: 20 };
    RunnerLimits { vocab: VOCAB, context: 200, kv_blocks, capacity }
}

/// See the module.
pub struct FakeRunner {
    limits: RunnerLimits,
    /// Token and position of each slot.
    cache: Vec<Option<(i32, i32)>>,
    logits: Vec<f32>,
    drawn: Vec<Drawn>,
    scored: Vec<Option<Scored>>,
    /// Whether it draws tokens where that is asked for.
    pub draws: bool,
    /// Logits that the draws of a step may adjust.
    pub adjusted: usize,
    /// Logits that draws have adjusted.
    pub adjustments: Arc<AtomicUsize>,
    /// Tokens that were computed, recomputed ones included.
    pub computed: Arc<AtomicUsize>,
    /// Steps that fail before one succeeds.
    pub failures: usize,
    /// Makes it another model.
    pub twist: Option<u32>,
    /// Time that a step takes.
    pub delay: Duration,
}

impl FakeRunner {
    pub fn new(limits: RunnerLimits) -> Self {
        FakeRunner {
            limits,
            cache: vec![None; limits.kv_blocks * KV_BLOCK_SIZE],
            logits: Vec::new(),
            drawn: Vec::new(),
            scored: Vec::new(),
            draws: true,
            adjusted: 1000,
            adjustments: Arc::default(),
            computed: Arc::default(),
            failures: 0,
            twist: None,
            delay: Duration::ZERO,
        }
    }
}

impl Runner for FakeRunner {
    fn limits(&self) -> &RunnerLimits {
        &self.limits
    }

    fn step(&mut self, step: &StepInput) -> Result<&[f32], KernelError> {
        step.validate(&self.limits.capacity, self.limits.kv_blocks, self.limits.vocab)?;
        if self.failures > 0 {
            self.failures -= 1;
            return Err(KernelError::OutOfMemory { bytes: 1, what: "a test" });
        }
        if !self.delay.is_zero() {
            std::thread::sleep(self.delay);
        }
        self.computed.fetch_add(step.tokens.len(), Ordering::Relaxed);
        let block = KV_BLOCK_SIZE as i32;
        let slot = |seq: usize, position: i32| {
            let entry = step.block_tables[seq * step.blocks_per_seq + (position / block) as usize];
            (entry * block + position % block) as usize
        };
        let seq_of = |row: i32| step.query_starts.iter().rposition(|&start| start <= row).unwrap();
        for (row, (&token, &position)) in step.tokens.iter().zip(&step.positions).enumerate() {
            self.cache[slot(seq_of(row as i32), position)] = Some((token, position));
        }
        self.logits.clear();
        for &row in &step.sample_rows {
            let seq = seq_of(row);
            let read = |position| {
                let (token, written) = self.cache[slot(seq, position)].expect("a written slot");
                assert_eq!(written, position, "a slot of another position");
                token as u32
            };
            let mut prefix: Vec<u32> = (0..=step.positions[row as usize]).map(read).collect();
            if let Some(twist) = self.twist {
                prefix.insert(0, twist);
                prefix.push(twist);
            }
            self.logits.extend(logits(&prefix));
        }
        Ok(&self.logits)
    }

    fn draws(&self) -> bool {
        self.draws
    }

    fn adjusted(&self) -> usize {
        self.adjusted
    }

    fn sample(
        &mut self,
        step: &StepInput,
        draws: &[Option<RowDraw<'_>>],
    ) -> Result<Sampled<'_>, KernelError> {
        self.step(step)?;
        if !self.draws || draws.iter().all(Option::is_none) {
            return Ok(Sampled { logits: &self.logits, drawn: &[], scored: &[] });
        }
        assert_eq!(draws.len(), step.sample_rows.len());
        let adjusted = draws.iter().flatten().map(|draw| draw.adjust.len()).sum();
        assert!(adjusted <= self.adjusted, "{adjusted} logits are to be adjusted");
        self.adjustments.fetch_add(adjusted, Ordering::Relaxed);
        self.drawn.clear();
        self.scored.clear();
        for (row, draw) in self.logits.chunks_exact_mut(VOCAB).zip(draws) {
            let Some(RowDraw { draw, mask, adjust, known, logprobs: wanted }) = draw else {
                self.drawn.push(Drawn(-1));
                self.scored.push(None);
                continue;
            };
            let plain = row.to_vec();
            apply_adjustments(adjust.iter().copied(), row);
            if let Some(mask) = mask {
                apply_mask(mask, row);
            }
            let chosen = || Candidates::default().choose(row, draw, 1.0);
            let token = known.map_or_else(chosen, Ok);
            self.drawn.push(Drawn::new(token));
            let score = |top| token.and_then(|token| logprobs(&plain, token, top));
            self.scored.push(wanted.map(score));
            // Nobody may look at them.
            row.fill(f32::NAN);
        }
        let wanted = draws.iter().rposition(Option::is_none).map_or(0, |last| last + 1);
        self.logits.truncate(wanted * VOCAB);
        Ok(Sampled { logits: &self.logits, drawn: &self.drawn, scored: &self.scored })
    }
}

/// Logits of the token after `prefix`.
pub fn logits(prefix: &[u32]) -> Vec<f32> {
    let seen = if prefix.contains(&LOOP) { prefix.len().saturating_sub(2) } else { 0 };
    let state = prefix[seen..]
        .iter()
        .fold(1, |state, &token| hash(state ^ u64::from(token)).rotate_left(7));
    let mut logits: Vec<f32> = (0..VOCAB as u64)
        .map(|token| (hash(state.wrapping_add(token)) >> 40) as f32 / (1 << 21) as f32 - 4.0)
        .collect();
    if prefix.contains(&POISON) {
        logits[7] = f32::NAN;
    }
    // Rare, so that answers have some length.
    logits[EOS as usize] -= 2.0;
    logits[POISON as usize] = f32::NEG_INFINITY;
    logits
}

/// Letters, a space, characters of several bytes, and halves of one.
pub struct FakeVocabulary;

fn bytes(token: u32) -> Vec<u8> {
    match token {
        1..=26 => vec![b'a' + token as u8 - 1],
        27 => b" ".to_vec(),
        28 => vec![0xc3],
        29 => vec![0xa9],
        30 => "é".into(),
        31 => "→x".into(),
        32 => "日本".into(),
        33 => "the ".into(),
        _ => b"ab".to_vec(),
    }
}

/// The characters that are complete, taken off the front of `pending`; at the end, all.
fn decode(pending: &mut Vec<u8>, end: bool) -> String {
    let mut text = String::new();
    while !pending.is_empty() {
        let (valid, bad) = match std::str::from_utf8(pending) {
            Ok(valid) => (valid.len(), Some(0)),
            Err(error) => (error.valid_up_to(), error.error_len()),
        };
        text.push_str(std::str::from_utf8(&pending[..valid]).unwrap());
        pending.drain(..valid);
        match bad {
            Some(0) => {}
            Some(len) => {
                text.push('\u{fffd}');
                pending.drain(..len);
            }
            None if end => {
                text.push('\u{fffd}');
                pending.clear();
            }
            None => break,
        }
    }
    text
}

struct FakeDetokenizer(Vec<u8>);

impl Detokenizer for FakeDetokenizer {
    fn push(&mut self, id: u32) -> String {
        self.0.extend(bytes(id));
        decode(&mut self.0, false)
    }

    fn finish(&mut self) -> String {
        decode(&mut self.0, true)
    }
}

impl Vocabulary for FakeVocabulary {
    fn detokenizer(&self, _: &[u32]) -> Box<dyn Detokenizer> {
        Box::new(FakeDetokenizer(Vec::new()))
    }

    fn end_of_generation(&self) -> &[u32] {
        &[EOS]
    }
}

/// An answer: its tokens, its text, why it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub text: String,
    pub reason: FinishReason,
}

/// What the engine must answer to `request` with `max_tokens` and a seed: one sequence, token by
/// token, no cache.
pub fn expected(request: &Request, max_tokens: usize) -> Answer {
    let mut sampler = Sampler::new(request.sampling.clone(), VOCAB, 0).unwrap();
    let mut workspace = Workspace::default();
    let mut prefix = request.prompt.clone();
    let (mut tokens, mut content) = (Vec::new(), Vec::new());
    loop {
        let end = |content: &[u8], tokens, reason| {
            let text = decode(&mut content.to_vec(), true);
            match first_stop(&text, &request.stop.strings) {
                Some((text, stop)) => {
                    Answer { tokens, text, reason: FinishReason::StopString(stop) }
                }
                None => Answer { tokens, text, reason },
            }
        };
        let token = match sampler.sample(&logits(&prefix), &prefix, &mut workspace) {
            Ok(token) => token,
            Err(error) => return end(&content, tokens, FinishReason::Error(error.to_string())),
        };
        tokens.push(token);
        prefix.push(token);
        if token == EOS && !request.stop.ignore_eos {
            return end(&content, tokens, FinishReason::EndOfText(token));
        }
        if request.stop.tokens.contains(&token) {
            return end(&content, tokens, FinishReason::StopToken(token));
        }
        content.extend(bytes(token));
        let text = decode(&mut content.clone(), false);
        if tokens.len() == max_tokens || first_stop(&text, &request.stop.strings).is_some() {
            return end(&content, tokens, FinishReason::Length);
        }
    }
}

/// The text before the stop string that is complete first (the longest of several), and that
/// string.
fn first_stop(text: &str, strings: &[String]) -> Option<(String, String)> {
    let ends = text.char_indices().map(|(at, char)| at + char.len_utf8());
    ends.map(|end| &text[..end]).find_map(|text| {
        let complete = strings.iter().filter(|&string| text.ends_with(string.as_str()));
        let stop = complete.max_by_key(|string| string.len())?;
        Some((text[..text.len() - stop.len()].to_owned(), stop.clone()))
    })
}

/// A prompt of 1 to `longest` tokens, none of them poisonous.
pub fn random_prompt(rng: &mut Rng, longest: usize) -> Vec<u32> {
    (0..=rng.below(longest)).map(|_| rng.below(POISON as usize) as u32).collect()
}

/// The first `len` tokens of a text that has a number.
pub fn common_prompt(number: usize, len: usize) -> Vec<u32> {
    let mut rng = Rng(1000 + number as u64);
    (0..len).map(|_| rng.below(POISON as usize) as u32).collect()
}

/// A request that always fits a pool of six blocks.
pub fn random_request(rng: &mut Rng) -> Request {
    let sampling = SamplingParams {
        temperature: rng.pick(&[0.0, 0.0, 0.7, 1.0, 1.5]),
        top_k: rng.pick(&[0, 1, 5, 100]),
        top_p: rng.pick(&[1.0, 0.9]),
        min_p: rng.pick(&[0.0, 0.05]),
        repetition_penalty: rng.pick(&[1.0, 1.2]),
        frequency_penalty: rng.pick(&[0.0, 0.3]),
        penalty_last_n: rng.pick(&[None, Some(16)]),
        logit_bias: rng.pick(&[vec![], vec![(33, 1.0), (5, f32::NEG_INFINITY)]]),
        seed: Some(rng.below(1000) as u64),
        ..Default::default()
    };
    let strings = ["ab", "abc", "é", "→", "the x", " ", "zq", "日本a"];
    let stop = StopConditions {
        strings: (0..rng.below(3)).map(|_| rng.pick(&strings).to_owned()).collect(),
        tokens: rng.pick(&[vec![], vec![9, 22]]),
        ignore_eos: rng.one_in(2),
    };
    let mut prompt = random_prompt(rng, 120);
    if rng.one_in(2) {
        // One of three conversations: from somewhere in it on, another one.
        let common = common_prompt(rng.below(3), rng.below(110));
        prompt.splice(..common.len().min(prompt.len() - 1), common.iter().copied());
        prompt.truncate(120);
    }
    if rng.one_in(3) {
        prompt.push(LOOP);
    }
    let max_tokens = Some(1 + rng.below(60));
    let cache_salt = rng.below(2) as u64;
    Request { prompt, sampling, stop, max_tokens, cache_salt, ..Default::default() }
}
