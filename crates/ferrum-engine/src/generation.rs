//! The answer to one request as it grows: sampler, text, and what ends it.

use std::borrow::Cow;

use ferrum_models::draw::{Drawn, RowDraw, Scored, logprobs};

use crate::{
    engine::Event,
    reasoning::Reasoning,
    request::{FinishReason, Request, RequestId, TokenLogprobs, Usage},
    sampler::{ParamError, SampleError, Sampler, Workspace},
    scheduler::Next,
    stop::StopMatcher,
    vocabulary::{Detokenizer, Vocabulary},
};

pub(crate) struct Generation {
    id: RequestId,
    sampler: Sampler,
    text: Box<dyn Detokenizer>,
    stop: StopMatcher,
    reasoning: Option<Reasoning>,
    stop_tokens: Vec<u32>,
    eos_tokens: Vec<u32>,
    max_tokens: usize,
    /// Alternatives to report with each token, if log-probabilities are wanted.
    logprobs: Option<usize>,
    prompt: PromptReport,
    usage: Usage,
}

/// What is told of the prompt once it is read.
struct PromptReport {
    done: bool,
    /// Alternatives to report with each token, if log-probabilities are wanted.
    top: Option<usize>,
    logprobs: Vec<Option<TokenLogprobs>>,
}

/// How far an answer is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// Whether the prompt is read.
    pub(crate) prompt_read: bool,
    /// Tokens so far.
    pub(crate) usage: Usage,
}

/// What the model gave for a token.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row<'a> {
    /// Logits `[vocab]`.
    Logits(&'a [f32]),
    /// The next token, drawn on the device or known, and its log-probabilities where they are wanted.
    Drawn(Drawn, Option<&'a Scored>),
}

impl Row<'_> {
    /// Log-probabilities of `token`, which came, and of the `top` likeliest.
    fn logprobs(&self, token: u32, top: usize) -> Result<Option<TokenLogprobs>, SampleError> {
        Ok(match self {
            Row::Logits(logits) => Some(logprobs(logits, token, top)?),
            Row::Drawn(_, scored) => scored.cloned().transpose()?,
        })
    }
}

/// What the model gave for consecutive tokens of a request.
pub(crate) struct Rows<'a> {
    /// For each.
    pub(crate) rows: &'a [Row<'a>],
    /// Position of the first of the tokens.
    pub(crate) start: usize,
    /// Prompt and answer so far.
    pub(crate) tokens: &'a [u32],
    /// Proposed tokens that follow these in the step.
    pub(crate) draft: &'a [u32],
    /// Tokens of the prompt that were found in the cache.
    pub(crate) cached: usize,
}

impl Generation {
    /// The answer to `request`, of at most `max_tokens`.
    pub(crate) fn new(
        id: RequestId,
        request: &Request,
        max_tokens: usize,
        vocab: usize,
        vocabulary: &dyn Vocabulary,
        default_seed: u64,
    ) -> Result<Self, ParamError> {
        let Request { prompt, sampling, stop, .. } = request;
        let eos = if stop.ignore_eos { &[] } else { vocabulary.end_of_generation() };
        // Nothing predicts the first token.
        let scores = if request.prompt_logprobs.is_some() { vec![None] } else { Vec::new() };
        Ok(Generation {
            id,
            sampler: Sampler::new(sampling.clone(), vocab, default_seed)?
                .within(request.constraint.as_ref().map(|c| c.start(!stop.ignore_eos))),
            text: vocabulary.detokenizer(&request.shown_tokens),
            stop: StopMatcher::new(stop.strings.clone()),
            reasoning: request.reasoning.clone().map(Reasoning::new),
            stop_tokens: stop.tokens.clone(),
            eos_tokens: eos.to_vec(),
            max_tokens,
            logprobs: request.logprobs,
            prompt: PromptReport { done: false, top: request.prompt_logprobs, logprobs: scores },
            usage: Usage { prompt_tokens: prompt.len(), ..Usage::default() },
        })
    }

    /// Tokens that its grammar foresees.
    pub(crate) fn ahead(&self) -> Vec<u32> {
        self.sampler.ahead()
    }

    /// The token that would follow `history` by another model's logits; `None` where they give none.
    pub(crate) fn guess(
        &self,
        logits: &[f32],
        history: &[u32],
        workspace: &mut Workspace,
    ) -> Option<u32> {
        self.sampler.guess(logits, history, workspace).ok()
    }

    /// Makes ready for [`Self::row_draw`] of the next tokens, the first of them after `history` and the
    /// others after each of `draft`. They may adjust so many logits as there is `room` for, which gets
    /// less. `false`: logits are wanted.
    pub(crate) fn prepare_draws(
        &mut self,
        history: &[u32],
        draft: &[u32],
        room: &mut usize,
    ) -> bool {
        let sampled = draft.len() + 1;
        // A grammar's mask is for one token, and log-probabilities are of the token that is drawn.
        let at_once = sampled == 1 || !self.sampler.is_constrained();
        let forced = self.reasoning.as_ref().is_some_and(|reasoning| reasoning.may_force(sampled));
        let drawable = at_once && !(self.logprobs.is_some() && forced);
        drawable && self.sampler.prepare(history, draft, room)
    }

    /// How a device draws the token after `len` others.
    pub(crate) fn row_draw(&self, len: usize) -> RowDraw<'_> {
        RowDraw { logprobs: self.logprobs, ..self.sampler.row_draw(len) }
    }

    /// How a device scores this token of the prompt, where that is wanted.
    pub(crate) fn row_score(&self, token: u32) -> Option<RowDraw<'_>> {
        let logprobs = Some(self.prompt.top?);
        Some(RowDraw { known: Some(token), logprobs, ..RowDraw::default() })
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        Progress { prompt_read: self.prompt.done, usage: self.usage }
    }

    /// Scores the tokens of the prompt that `rows` predict, samples the tokens after the last known
    /// one and after each proposed one that was sampled indeed, and reports them.
    pub(crate) fn advance(
        &mut self,
        rows: &Rows<'_>,
        workspace: &mut Workspace,
        events: &mut Vec<Event>,
    ) -> Next {
        let mut history = Cow::Borrowed(rows.tokens);
        let mut sampled = Vec::new();
        for (position, &row) in (rows.start..).zip(rows.rows) {
            let result = match (rows.tokens.get(position + 1), self.prompt.top, row) {
                (Some(&known), Some(top), row) => self.score(row, known, top),
                (Some(_), None, _) => Ok(()),
                (None, ..) => {
                    // Behind a proposed token that did not come, logits are of another text.
                    if sampled[..] != rows.draft[..sampled.len()] {
                        break;
                    }
                    if !sampled.is_empty() {
                        history = Cow::Owned([rows.tokens, &sampled].concat());
                    }
                    self.report_prompt(rows.cached, events);
                    match self.sample(row, &history, workspace, events) {
                        Ok(Some(token)) => {
                            sampled.push(token);
                            Ok(())
                        }
                        Ok(None) => return Next::End,
                        Err(error) => Err(error),
                    }
                }
            };
            if let Err(error) = result {
                let reason = FinishReason::Error(error.to_string());
                self.finish(reason, None, String::new(), events);
                return Next::End;
            }
        }
        Next::Tokens(sampled)
    }

    /// Ends the answer from outside.
    pub(crate) fn end(mut self, reason: FinishReason, events: &mut Vec<Event>) {
        self.finish(reason, None, String::new(), events);
    }

    /// Reports, the first time, that the prompt is read.
    fn report_prompt(&mut self, cached_tokens: usize, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.prompt.done, true) {
            self.usage.cached_tokens = cached_tokens;
            let logprobs = std::mem::take(&mut self.prompt.logprobs);
            events.push(Event::Prompt { id: self.id, cached_tokens, logprobs });
        }
    }

    /// Keeps the log-probability of a token of the prompt.
    fn score(&mut self, row: Row<'_>, token: u32, top: usize) -> Result<(), SampleError> {
        self.prompt.logprobs.push(row.logprobs(token, top)?);
        Ok(())
    }

    /// Samples the token after `history` and reports it; `None` if the answer ends there.
    fn sample(
        &mut self,
        row: Row<'_>,
        history: &[u32],
        workspace: &mut Workspace,
        events: &mut Vec<Event>,
    ) -> Result<Option<u32>, SampleError> {
        if self.max_tokens == 0 {
            self.finish(FinishReason::Length, None, String::new(), events);
            return Ok(None);
        }
        let forced = self.forced()?;
        let token = match (forced, row) {
            (Some(token), _) => token,
            (None, Row::Logits(logits)) => self.sampler.sample(logits, history, workspace)?,
            (None, Row::Drawn(drawn, _)) => self.sampler.take(drawn)?,
        };
        let logprobs = match self.logprobs {
            Some(top) => row.logprobs(token, top)?,
            None => None,
        };
        self.usage.completion_tokens += 1;
        let (text, reason) = self.judge(token, forced.is_some());
        if let Some(reason) = reason {
            self.finish(reason, Some((token, logprobs)), text, events);
            return Ok(None);
        }
        events.push(Event::Text { id: self.id, token: Some(token), text, logprobs });
        Ok(Some(token))
    }

    /// The token that must come because there was enough reasoning, if the grammar allows it.
    fn forced(&mut self) -> Result<Option<u32>, SampleError> {
        let Some(reasoning) = &mut self.reasoning else { return Ok(None) };
        let Some(token) = reasoning.forced() else { return Ok(None) };
        if self.sampler.force(token)? {
            return Ok(Some(token));
        }
        reasoning.barred();
        Ok(None)
    }

    /// The text that `token` releases, and why the answer ends with it, if it does. `forced`: it
    /// was not the model's choice.
    fn judge(&mut self, token: u32, forced: bool) -> (String, Option<FinishReason>) {
        if self.eos_tokens.contains(&token) {
            return (String::new(), Some(FinishReason::EndOfText(token)));
        }
        if self.stop_tokens.contains(&token) {
            return (String::new(), Some(FinishReason::StopToken(token)));
        }
        let text = self.text.push(token);
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.take(&text, forced);
            self.usage.reasoning_tokens = reasoning.used();
        }
        let passed = self.stop.push(&text);
        let stopped = passed.stop.map(|index| self.stop_string(index));
        let complete = self.sampler.is_complete().then_some(FinishReason::GrammarComplete);
        let full = self.usage.completion_tokens >= self.max_tokens;
        (passed.text, stopped.or(complete).or(full.then_some(FinishReason::Length)))
    }

    /// Reports the last text, what was held back included, and the end.
    fn finish(
        &mut self,
        mut reason: FinishReason,
        sampled: Option<(u32, Option<TokenLogprobs>)>,
        mut text: String,
        events: &mut Vec<Event>,
    ) {
        let passed = self.stop.push(&self.text.finish());
        text.push_str(&passed.text);
        match passed.stop {
            Some(index) => reason = self.stop_string(index),
            None => text.push_str(&self.stop.finish()),
        }
        let (token, logprobs) = match sampled {
            Some((token, logprobs)) => (Some(token), logprobs),
            None => (None, None),
        };
        if token.is_some() || !text.is_empty() {
            events.push(Event::Text { id: self.id, token, text, logprobs });
        }
        events.push(Event::Finished { id: self.id, reason, usage: self.usage });
    }

    fn stop_string(&self, index: usize) -> FinishReason {
        FinishReason::StopString(self.stop.string(index).to_owned())
    }
}
