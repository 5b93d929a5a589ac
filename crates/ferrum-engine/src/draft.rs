//! A small model that proposes what the large one may say next.
//!
//! It has a KV cache of its own with an account of its own: for each request that was drafted for,
//! the state of a sequence. What it reads is what is known of the request, and then its own guesses;
//! what was written for guesses that did not come is written over. All of it is a cache: whatever
//! the draft model does or forgets, the answers are the same.

use std::{collections::BTreeMap, time::Instant};

use ferrum_models::{
    KV_BLOCK_SIZE, KernelError, StepInput,
    runner::{Runner, RunnerLimits},
};

use crate::{
    blocks::{BlockId, BlockPool},
    pacer::{Pacer, StepLoad},
    request::RequestId,
    sequence::{Sequence, SequenceSpec},
};

/// Known tokens that are read in the step that makes the first guess; more are read before.
const AT_ONCE: usize = 32;

/// A request that a draft is wanted for.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) id: RequestId,
    /// Prompt and answer so far.
    pub(crate) tokens: Vec<u32>,
    /// Separates tenants, as in the large model's cache.
    pub(crate) salt: u64,
    /// Tokens that may be proposed.
    pub(crate) most: usize,
}

/// Chooses the token after a history by the draft model's logits; `None`: no guess.
pub(crate) type Guess<'a> = dyn FnMut(RequestId, &[f32], &[u32]) -> Option<u32> + 'a;

/// See the module.
pub(crate) struct Draft {
    runner: Box<dyn Runner>,
    limits: RunnerLimits,
    /// Tokens that both models know.
    vocab: usize,
    pool: BlockPool,
    states: BTreeMap<RequestId, State>,
    pacer: Pacer,
}

/// What the draft model has of a request.
struct State {
    sequence: Sequence,
    /// Guesses that are written behind the known tokens.
    guessed: Vec<u32>,
    /// Of the computed tokens, those whose blocks are published.
    published: usize,
}

/// The part of a sequence in a step.
struct Part<'a> {
    blocks: &'a [BlockId],
    start: usize,
    tokens: &'a [u32],
    /// Whether the logits of the last token are wanted.
    row: bool,
}

/// A draft while it grows.
struct Growing {
    id: RequestId,
    /// Known tokens and guesses.
    history: Vec<u32>,
    /// Tokens of these that are computed.
    computed: usize,
    /// Length of the history at the end.
    end: usize,
}

impl Draft {
    /// The draft model of a model of `vocab` tokens; reading prompts may take `target` seconds of a
    /// step.
    pub(crate) fn new(
        runner: Box<dyn Runner>,
        vocab: usize,
        prefix_cache: bool,
        target: Option<f64>,
    ) -> Self {
        let limits = *runner.limits();
        Draft {
            vocab: vocab.min(limits.vocab),
            pool: BlockPool::new(limits.kv_blocks, prefix_cache),
            runner,
            limits,
            states: BTreeMap::new(),
            pacer: Pacer::new(target),
        }
    }

    /// Seconds of a step that makes a guess for each of `seqs` sequences.
    pub(crate) fn step_seconds(&self, seqs: usize) -> f64 {
        self.pacer.predict(&StepLoad { decodes: seqs, rows: seqs, ..StepLoad::default() })
    }

    /// Blocks of its cache: all, and those that nobody holds.
    pub(crate) fn blocks(&self) -> (usize, usize) {
        (self.pool.capacity(), self.pool.free())
    }

    /// Known tokens of a request that it has not read.
    pub(crate) fn unread(&self, want: &Want) -> usize {
        let read = self.states.get(&want.id).map_or(0, |state| state.sequence.computed);
        want.tokens.len().saturating_sub(read)
    }

    /// Lets go of a request.
    pub(crate) fn forget(&mut self, id: RequestId) {
        if let Some(state) = self.states.remove(&id) {
            for &block in state.sequence.blocks.iter().rev() {
                self.pool.release(block);
            }
        }
    }

    /// Lets go of all requests.
    pub(crate) fn forget_all(&mut self) {
        let ids: Vec<RequestId> = self.states.keys().copied().collect();
        ids.into_iter().for_each(|id| self.forget(id));
    }

    /// Holds the account of the cache against what the requests hold.
    ///
    /// # Panics
    /// If a block leaked.
    pub(crate) fn check_integrity(&self) {
        let held = self.states.values().flat_map(|state| state.sequence.blocks.iter().copied());
        self.pool.check_integrity(held);
    }

    /// Takes over what is known of the requests, and reads more of those that it is behind with.
    /// Returns which ones it can draft for.
    pub(crate) fn read(&mut self, wants: &[Want]) -> Result<Vec<bool>, KernelError> {
        let has_room: Vec<bool> = wants.iter().map(|want| self.take_over(want, wants)).collect();
        let mut budget = self.pacer.budget(&StepLoad::default());
        let mut left = self.limits.capacity.tokens;
        let mut parts = Vec::new();
        for (want, _) in wants.iter().zip(&has_room).filter(|(_, has_room)| **has_room) {
            let Some(State { sequence, .. }) = self.states.get(&want.id) else { continue };
            let start = sequence.computed;
            // The last token is for the first guess.
            let unread = sequence.remaining().saturating_sub(1);
            if unread < AT_ONCE || parts.len() == self.limits.capacity.seqs {
                continue;
            }
            let len = unread.min(left).min(budget.fitting(start));
            budget.take(start, len);
            left -= len;
            if len > 0 {
                parts.push((want.id, len));
            }
        }
        self.read_parts(&parts)?;
        let is_ready = |(want, has_room): (&Want, &bool)| {
            let state = self.states.get(&want.id);
            *has_room && state.is_some_and(|state| state.sequence.remaining() <= AT_ONCE)
        };
        Ok(wants.iter().zip(&has_room).map(is_ready).collect())
    }

    fn read_parts(&mut self, parts: &[(RequestId, usize)]) -> Result<(), KernelError> {
        if parts.is_empty() {
            return Ok(());
        }
        let part = |&(id, len): &(RequestId, usize)| {
            let sequence = &self.states[&id].sequence;
            let start = sequence.computed;
            let tokens = &sequence.tokens[start..start + len];
            Part { blocks: &sequence.blocks, start, tokens, row: false }
        };
        let (step, load) = pack(&parts.iter().map(part).collect::<Vec<_>>());
        self.run(&step, &load)?;
        for (id, len) in parts {
            if let Some(state) = self.states.get_mut(id) {
                state.sequence.advance(*len);
                state.publish(&mut self.pool);
            }
        }
        Ok(())
    }

    /// Guesses up to `depth` tokens for each of the requests, which [`Draft::read`] found ready.
    pub(crate) fn propose(
        &mut self,
        wants: &[Want],
        depth: usize,
        guess: &mut Guess<'_>,
    ) -> Result<Vec<(RequestId, Vec<u32>)>, KernelError> {
        let mut room = self.limits.capacity.tokens;
        let mut drafts: Vec<Growing> = Vec::new();
        for want in wants.iter().take(self.limits.capacity.seqs.min(self.limits.capacity.samples)) {
            let Some(State { sequence, .. }) = self.states.get(&want.id) else { continue };
            let Some(left) = room.checked_sub(sequence.remaining()) else { continue };
            room = left;
            let known = sequence.tokens.len();
            let blocks = sequence.blocks.len() * KV_BLOCK_SIZE;
            // The last guess is not computed.
            let end = (known + depth.min(want.most)).min(blocks + 1).min(self.limits.context);
            let (id, computed, history) = (want.id, sequence.computed, sequence.tokens.clone());
            drafts.push(Growing { id, history, computed, end });
        }
        for _ in 0..depth {
            self.grow(&mut drafts, guess)?;
        }
        let mut out = Vec::new();
        for Growing { id, history, computed, .. } in drafts {
            let Some(State { sequence, guessed, .. }) = self.states.get_mut(&id) else { continue };
            let known = sequence.tokens.len();
            sequence.advance(computed.min(known) - sequence.computed);
            *guessed = history[known.min(computed)..computed].to_vec();
            out.push((id, history[known..].to_vec()));
        }
        Ok(out)
    }

    /// A guess for each draft that is not at its end.
    fn grow(&mut self, drafts: &mut [Growing], guess: &mut Guess<'_>) -> Result<(), KernelError> {
        let grows = |draft: &&mut Growing| draft.history.len() < draft.end;
        let mut growing: Vec<&mut Growing> = drafts.iter_mut().filter(grows).collect();
        if growing.is_empty() {
            return Ok(());
        }
        let states = &self.states;
        let parts: Vec<Part> = growing.iter().map(|draft| draft.part(states)).collect();
        let (step, load) = pack(&parts);
        let (vocab, both) = (self.limits.vocab, self.vocab);
        let logits = self.run(&step, &load)?;
        for (draft, logits) in growing.iter_mut().zip(logits.chunks_exact(vocab)) {
            draft.computed = draft.history.len();
            match guess(draft.id, logits, &draft.history) {
                Some(token) if (token as usize) < both => draft.history.push(token),
                _ => draft.end = draft.history.len(),
            }
        }
        Ok(())
    }

    fn run(&mut self, step: &StepInput, load: &StepLoad) -> Result<&[f32], KernelError> {
        let start = Instant::now();
        let logits = self.runner.step(step)?;
        self.pacer.observe(load, start.elapsed().as_secs_f64());
        Ok(logits)
    }

    /// Books what is known of a request, and gets the blocks for it and for guesses. Says whether
    /// there is room; requests outside `wants` make room.
    fn take_over(&mut self, want: &Want, wants: &[Want]) -> bool {
        let known = want.tokens.len();
        let longest = self.limits.capacity.blocks_per_seq;
        let unknown = want.tokens.iter().any(|&token| token as usize >= self.vocab);
        if unknown || known >= self.limits.context || known > longest * KV_BLOCK_SIZE {
            self.forget(want.id);
            return false;
        }
        let state = self.states.entry(want.id).or_insert_with(|| State::new(want));
        state.take_over(&want.tokens);
        state.publish(&mut self.pool);
        let found = state.sequence.find_computed(&self.pool);
        state.sequence.take_computed(&found, &mut self.pool);
        state.published = state.published.max(state.sequence.computed);
        let end = (known + want.most).min(self.limits.context);
        let has = state.sequence.blocks.len();
        let missing = end.div_ceil(KV_BLOCK_SIZE).min(longest).saturating_sub(has);
        while missing > self.pool.free() {
            let others = |id: &&RequestId| !wants.iter().any(|want| want.id == **id);
            let Some(&other) = self.states.keys().find(others) else {
                self.forget(want.id);
                return false;
            };
            self.forget(other);
        }
        let blocks = self.pool.allocate(missing).unwrap_or_default();
        if let Some(state) = self.states.get_mut(&want.id) {
            state.sequence.blocks.extend(blocks);
        }
        true
    }
}

impl Growing {
    /// What it does not have the logits of yet.
    fn part<'a>(&'a self, states: &'a BTreeMap<RequestId, State>) -> Part<'a> {
        Part {
            blocks: &states[&self.id].sequence.blocks,
            start: self.computed,
            tokens: &self.history[self.computed..],
            row: true,
        }
    }
}

impl State {
    fn new(want: &Want) -> Self {
        let spec = SequenceSpec {
            prompt: want.tokens.clone(),
            salt: want.salt,
            ..SequenceSpec::default()
        };
        State { sequence: Sequence::new(want.id, spec), guessed: Vec::new(), published: 0 }
    }

    /// Books the tokens that came: what was guessed right is computed already.
    fn take_over(&mut self, tokens: &[u32]) {
        let sequence = &mut self.sequence;
        let new = &tokens[sequence.tokens.len()..];
        let right = self.guessed.iter().zip(new).take_while(|(a, b)| a == b).count();
        self.guessed.clear();
        sequence.tokens.extend_from_slice(new);
        // At least the last token is to be read: the next guess is by its logits.
        sequence.computed = (sequence.computed + right).min(tokens.len() - 1);
        sequence.rows_from = tokens.len() - 1;
    }

    /// Publishes the blocks that are full of known tokens and will not be written again: the one
    /// with the last token may be.
    fn publish(&mut self, pool: &mut BlockPool) {
        self.sequence.publish(self.published, pool);
        self.published = self.published.max(self.sequence.computed);
    }
}

/// Packs a step.
fn pack(parts: &[Part<'_>]) -> (StepInput, StepLoad) {
    let blocks_per_seq = parts.iter().map(|part| part.blocks.len()).max().unwrap_or(0);
    let mut step = StepInput { query_starts: vec![0], blocks_per_seq, ..StepInput::default() };
    let mut load = StepLoad::default();
    for &Part { blocks, start, tokens, row } in parts {
        let end = start + tokens.len();
        // Ids and positions fit: they are those of the large model's steps.
        step.tokens.extend(tokens.iter().map(|&token| token as i32));
        step.positions.extend(start as i32..end as i32);
        step.query_starts.push(step.tokens.len() as i32);
        step.kv_lens.push(end as i32);
        step.block_tables.extend(blocks);
        step.block_tables.resize(step.kv_lens.len() * blocks_per_seq, 0);
        if row {
            step.sample_rows.push(step.tokens.len() as i32 - 1);
        }
        load.add(start, tokens.len(), usize::from(row), tokens.len() > 1);
    }
    (step, load)
}
