//! The step loop: plan, run the model, sample, report.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_models::{
    KV_BLOCK_SIZE,
    draw::RowDraw,
    runner::{Runner, RunnerLimits, Sampled},
};

use crate::{
    constraint::Constraint,
    draft::Draft,
    drafting::Drafting,
    error::{AdmissionError, EngineError},
    generation::{Generation, Row, Rows},
    request::{FinishReason, MAX_LOGPROBS, Request, RequestId, TokenLogprobs, Usage},
    sampler::{Workspace, derive_seed},
    scheduler::{Chunk, Next, Plan, Scheduler, SchedulerConfig},
    sequence::SequenceSpec,
    speculation::Source,
    stats::EngineStats,
    vocabulary::Vocabulary,
};

/// Choices of an [`Engine`]. The default leaves the sizes to the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Requests that run at once, at most; `None`: as many as a step can hold.
    pub max_running: Option<usize>,
    /// Tokens of a step, at most; `None`: as many as a step can hold.
    pub step_tokens: Option<usize>,
    /// From this the seeds of requests without one are derived.
    pub seed: u64,
    /// Time between two tokens of an answer that reading other prompts should not exceed: prompts
    /// are read in chunks that take this long. `None`: in chunks as large as a step.
    pub itl_target: Option<Duration>,
    /// Whether prefixes that are in the KV cache are shared by all requests that begin with them.
    pub prefix_cache: bool,
    /// Tokens that prompt lookup may propose for a request in a step; 0: no speculation. The text
    /// is the same with any value. It needs rows of logits beyond one for each running request
    /// ([`ferrum_models::LoadOptions::max_samples`]), and is used only where it makes answers
    /// faster by what was measured.
    pub max_draft: usize,
}

/// Reading prompts with a draft model may take this part of the time between two tokens, divided by
/// what [`crate::pacer`] allows where nobody decodes: a quarter of it.
const DRAFT_READING: f64 = 20.0;

/// Short enough that text flows faster than it is read, and long enough that a prompt beside it
/// costs little more time than alone.
const ITL_TARGET: Duration = Duration::from_millis(100);

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            max_running: None,
            step_tokens: None,
            seed: 0,
            itl_target: Some(ITL_TARGET),
            prefix_cache: true,
            max_draft: 8,
        }
    }
}

/// What happened to a request. Each ends with exactly one [`Event::Finished`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is read: once, before the first text, unless the request ends before.
    Prompt {
        /// Whose.
        id: RequestId,
        /// Tokens of the prompt that were not computed for it.
        cached_tokens: usize,
        /// With [`Request::prompt_logprobs`] an entry for each token of the prompt, `None` for the
        /// first, which nothing predicts; otherwise empty.
        logprobs: Vec<Option<TokenLogprobs>>,
    },
    /// The answer goes on. The texts of a request, put together, are its answer.
    Text {
        /// Whose.
        id: RequestId,
        /// The token that was sampled; `None` if this only releases text that was held back.
        token: Option<u32>,
        /// What is certain of the text now; empty while it could belong to a stop string or to an
        /// unfinished character.
        text: String,
        /// Of the token, where [`Request::logprobs`] asks for it.
        logprobs: Option<TokenLogprobs>,
    },
    /// The answer is complete.
    Finished {
        /// Whose.
        id: RequestId,
        /// Why.
        reason: FinishReason,
        /// Tokens that it took.
        usage: Usage,
    },
}

/// Runs requests on a model. It owns the model; one thread drives it.
///
/// ```text
/// let id = engine.add(request)?;
/// while !engine.is_idle() {
///     for event in engine.step()? { … }
/// }
/// ```
pub struct Engine {
    runner: Box<dyn Runner>,
    limits: RunnerLimits,
    vocabulary: Arc<dyn Vocabulary>,
    scheduler: Scheduler,
    generations: HashMap<RequestId, Generation>,
    drafting: Option<Drafting>,
    workspace: Workspace,
    /// Reported by the next step.
    events: Vec<Event>,
    next_id: u64,
    seed: u64,
    prefix_cache: bool,
    itl_target: Option<Duration>,
    /// Counters; what the scheduler knows is filled in when they are asked for.
    stats: EngineStats,
}

impl Engine {
    /// An engine without requests.
    pub fn new(
        runner: Box<dyn Runner>,
        vocabulary: Arc<dyn Vocabulary>,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        let limits = *runner.limits();
        let scheduling = SchedulerConfig {
            max_running: config.max_running,
            step_tokens: config.step_tokens,
            prefix_cache: config.prefix_cache,
            step_target: config.itl_target.map(|target| target.as_secs_f64()),
            max_draft: config.max_draft,
        };
        Ok(Engine {
            scheduler: Scheduler::new(&limits, &scheduling)?,
            runner,
            limits,
            vocabulary,
            generations: HashMap::new(),
            drafting: None,
            workspace: Workspace::default(),
            events: Vec::new(),
            next_id: 0,
            seed: config.seed,
            prefix_cache: config.prefix_cache,
            itl_target: config.itl_target,
            stats: EngineStats::default(),
        })
    }

    /// Lets a draft model propose tokens, up to [`EngineConfig::max_draft`] at once, where that makes
    /// answers faster by what is measured. It must have the vocabulary of the engine's own model; the
    /// answers are the same with any. Fails where it has too few tokens, or no room for one sequence.
    pub fn with_draft(mut self, runner: Box<dyn Runner>) -> Result<Self, EngineError> {
        let limits = runner.limits();
        let unusable =
            |what: &str| EngineError::Limits { what: format!("{what} of a draft model") };
        if limits.vocab == 0 || limits.kv_blocks == 0 || limits.context == 0 {
            return Err(unusable("size 0"));
        }
        let capacity = &limits.capacity;
        let least = capacity.tokens.min(capacity.seqs).min(capacity.samples);
        if least == 0 || capacity.blocks_per_seq == 0 {
            return Err(unusable("a step of size 0"));
        }
        if i32::try_from(limits.kv_blocks.saturating_mul(KV_BLOCK_SIZE)).is_err() {
            return Err(unusable("more slots than an i32 can name"));
        }
        let target = self.itl_target.map(|target| target.as_secs_f64() / DRAFT_READING);
        self.drafting =
            Some(Drafting::new(Draft::new(runner, self.limits.vocab, self.prefix_cache, target)));
        Ok(self)
    }

    /// Queues a request, or refuses it when it is malformed or could never run to its end.
    pub fn add(&mut self, request: Request) -> Result<RequestId, AdmissionError> {
        let vocab = self.limits.vocab;
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocab) {
            return Err(AdmissionError::Vocabulary { token, vocab });
        }
        let adapters = self.runner.adapters();
        if request.adapter as usize >= adapters {
            return Err(AdmissionError::Adapter { number: request.adapter, adapters });
        }
        if request.stop.strings.iter().any(String::is_empty) {
            return Err(AdmissionError::EmptyStopString);
        }
        if let Some(tokens) = request.constraint.as_ref().map(Constraint::vocab)
            && tokens > vocab
        {
            return Err(AdmissionError::Constraint { tokens, vocab });
        }
        if let Some(limit) = &request.reasoning {
            if limit.close.is_empty() || limit.end.is_empty() {
                return Err(AdmissionError::Reasoning);
            }
            if let Some(&token) = limit.close.iter().find(|&&token| token as usize >= vocab) {
                return Err(AdmissionError::Vocabulary { token, vocab });
            }
        }
        let logprobs = request.logprobs.max(request.prompt_logprobs).unwrap_or(0);
        if logprobs > MAX_LOGPROBS {
            return Err(AdmissionError::Logprobs { asked: logprobs, most: MAX_LOGPROBS });
        }
        let score_prompt = request.prompt_logprobs.is_some();
        let room = self.scheduler.max_len().saturating_sub(request.prompt.len());
        let max_tokens = match request.max_tokens {
            Some(0) if !score_prompt => return Err(AdmissionError::NoTokens),
            Some(max_tokens) => max_tokens,
            // At least one, so that a prompt that leaves no room is refused for its length.
            None => room.max(1),
        };
        let id = RequestId(self.next_id);
        let seed = derive_seed(self.seed, id.0);
        let vocabulary = self.vocabulary.as_ref();
        let generation = Generation::new(id, &request, max_tokens, vocab, vocabulary, seed)?;
        let spec = SequenceSpec {
            prompt: request.prompt,
            max_tokens,
            score_prompt,
            salt: request.cache_salt,
            adapter: request.adapter,
        };
        self.scheduler.add(id, spec)?;
        self.generations.insert(id, generation);
        self.next_id += 1;
        Ok(id)
    }

    /// Gives up a request and frees its blocks at once; the next step reports its end. Says
    /// whether there was one to give up.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let Some(generation) = self.generations.remove(&id) else { return false };
        self.scheduler.remove(id);
        self.forget_draft(id);
        generation.end(FinishReason::Cancelled, &mut self.events);
        true
    }

    /// Runs one step and returns what happened, in order. After an error the requests are as they
    /// were before the step.
    pub fn step(&mut self) -> Result<Vec<Event>, EngineError> {
        let begun = Instant::now();
        for id in self.scheduler.open_to_proposals() {
            let ahead = self.generations.get(&id).map(Generation::ahead).unwrap_or_default();
            self.scheduler.offer(id, Source::Grammar, ahead);
        }
        if let Some(drafting) = &mut self.drafting {
            drafting.prepare(&mut self.scheduler, &self.generations, &mut self.workspace);
        }
        let start = Instant::now();
        if let Some(plan) = self.scheduler.schedule() {
            let before = self.stats.generated_tokens;
            let next = self.run(&plan)?;
            self.scheduler.commit(&plan, next);
            self.stats.steps += 1;
            self.stats.last_step = begun.elapsed();
            self.scheduler.observe(&plan, start.elapsed().as_secs_f64());
            if let Some(drafting) = &mut self.drafting
                && plan.load.prefill_tokens == 0
            {
                let tokens = (self.stats.generated_tokens - before) as usize;
                drafting.observe(plan.load.decodes, begun.elapsed().as_secs_f64(), tokens);
            }
        }
        Ok(std::mem::take(&mut self.events))
    }

    /// Runs the model and tells each request what it gave.
    fn run(&mut self, plan: &Plan) -> Result<Vec<Next>, EngineError> {
        let prepared = self.prepare_draws(plan);
        let draws = draws(plan, &prepared, &self.scheduler, &self.generations);
        let drawing: Vec<bool> = draws.iter().map(Option::is_some).collect();
        let sampled = self.runner.sample(&plan.step, &draws)?;
        let rows = rows(&sampled, &drawing, self.limits.vocab)?;
        let mut rows = rows.as_slice();
        let mut next = Vec::new();
        for chunk in &plan.chunks {
            let &Chunk { id, rows: count, .. } = chunk;
            let (Some(generation), Some(tokens), Some(cached)) = (
                self.generations.get_mut(&id),
                self.scheduler.tokens(id),
                self.scheduler.cached_tokens(id),
            ) else {
                unreachable!("{id} is scheduled but has no generation");
            };
            let before = generation.progress();
            self.stats.count_prompt(chunk, &before);
            if count > 0 {
                let (own, others) = rows.split_at(count);
                rows = others;
                let (start, draft) = (chunk.first_row(), plan.draft(chunk));
                let rows = Rows { rows: own, start, tokens, draft: &draft, cached };
                let outcome = generation.advance(&rows, &mut self.workspace, &mut self.events);
                self.stats.count_answer(chunk, &before, &generation.progress());
                if outcome == Next::End {
                    self.generations.remove(&id);
                    if let Some(drafting) = &mut self.drafting {
                        drafting.forget(id);
                    }
                }
                next.push(outcome);
            }
        }
        Ok(next)
    }

    /// For each chunk of the plan, whether the device draws its tokens; grammars have their masks then, and
    /// rows the logits that they adjust.
    fn prepare_draws(&mut self, plan: &Plan) -> Vec<bool> {
        let (draws, mut room) = (self.runner.draws(), self.runner.adjusted());
        let prepare = |chunk: &Chunk| {
            let tokens = self.scheduler.tokens(chunk.id).unwrap_or_default();
            // Tokens are drawn after the last known one and after proposed ones.
            if !draws || chunk.rows == 0 || chunk.start + chunk.len < tokens.len() {
                return false;
            }
            let generation = self.generations.get_mut(&chunk.id);
            generation.is_some_and(|g| g.prepare_draws(tokens, &plan.draft(chunk), &mut room))
        };
        plan.chunks.iter().map(prepare).collect()
    }

    fn forget_draft(&mut self, id: RequestId) {
        if let Some(drafting) = &mut self.drafting {
            drafting.forget(id);
        }
    }

    /// Holds the states of queue and caches against their invariants.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check_integrity(&self) {
        self.scheduler.check_integrity();
        if let Some(drafting) = &self.drafting {
            drafting.draft().check_integrity();
        }
    }

    /// Whether a step would do nothing: no request is left, and no end to report.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.events.is_empty()
    }

    /// Why the model has failed for good, if it has: every further step would be an error.
    pub fn failure(&self) -> Option<String> {
        self.runner.failure()
    }

    /// Tokens that a request may have, prompt and answer together.
    pub fn max_len(&self) -> usize {
        self.scheduler.max_len()
    }

    /// Counters, and the state of queue and cache.
    pub fn stats(&self) -> EngineStats {
        let (waiting, running) = self.scheduler.queue();
        let pool = self.scheduler.pool();
        let (draft_kv_blocks, draft_kv_blocks_free) =
            self.drafting.as_ref().map_or((0, 0), |drafting| drafting.draft().blocks());
        EngineStats {
            waiting,
            running,
            kv_blocks: pool.capacity(),
            kv_blocks_free: pool.free(),
            kv_blocks_cached: pool.cached(),
            draft_kv_blocks,
            draft_kv_blocks_free,
            draft_failed: self.drafting.as_ref().is_some_and(Drafting::has_failed),
            preemptions: self.scheduler.preemptions(),
            ..self.stats
        }
    }

    /// The state of the queue and of the KV cache.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
}

/// How the token after each row of a plan is drawn; `None` where logits are wanted. `prepared`: for
/// each chunk, whether the device draws.
fn draws<'a>(
    plan: &Plan,
    prepared: &[bool],
    scheduler: &Scheduler,
    generations: &'a HashMap<RequestId, Generation>,
) -> Vec<Option<RowDraw<'a>>> {
    let mut draws = Vec::with_capacity(plan.step.sample_rows.len());
    for (chunk, &prepared) in plan.chunks.iter().zip(prepared) {
        let tokens = scheduler.tokens(chunk.id).unwrap_or_default();
        let generation = generations.get(&chunk.id);
        let of = |len: usize| match tokens.get(len) {
            // What follows an earlier token than the last is known, and may be scored.
            Some(&token) => generation?.row_score(token),
            None => generation.filter(|_| prepared).map(|g| g.row_draw(len)),
        };
        draws.extend((chunk.first_row()..chunk.start + chunk.len).map(|position| of(position + 1)));
    }
    draws
}

/// What a step gave for each row. `drawing`: for which rows a token was to be drawn.
fn rows<'a>(
    sampled: &Sampled<'a>,
    drawing: &[bool],
    vocab: usize,
) -> Result<Vec<Row<'a>>, EngineError> {
    let &Sampled { logits, drawn, scored } = sampled;
    let wanted = match drawn.len() == drawing.len() {
        true => drawing.iter().rposition(|drawing| !drawing).map_or(0, |last| last + 1),
        false => drawing.len(),
    };
    if logits.len() != wanted * vocab {
        return Err(EngineError::Logits { rows: wanted, vocab, got: logits.len() });
    }
    let row = |(row, &drawing): (usize, &bool)| match drawn.get(row) {
        Some(&token) if drawing => Row::Drawn(token, scored.get(row).and_then(Option::as_ref)),
        _ => Row::Logits(&logits[row * vocab..][..vocab]),
    };
    Ok(drawing.iter().enumerate().map(row).collect())
}
