//! The answer to one request as it grows: sampler, text, and what ends it.

use crate::{
    engine::Event,
    request::{FinishReason, Request, RequestId, Usage},
    sampler::{ParamError, Sampler, Workspace},
    scheduler::Next,
    stop::StopMatcher,
    vocabulary::{Detokenizer, Vocabulary},
};

pub(crate) struct Generation {
    id: RequestId,
    sampler: Sampler,
    text: Box<dyn Detokenizer>,
    stop: StopMatcher,
    stop_tokens: Vec<u32>,
    eos_tokens: Vec<u32>,
    max_tokens: usize,
    usage: Usage,
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
        Ok(Generation {
            id,
            sampler: Sampler::new(sampling.clone(), vocab, default_seed)?,
            text: vocabulary.detokenizer(),
            stop: StopMatcher::new(stop.strings.clone()),
            stop_tokens: stop.tokens.clone(),
            eos_tokens: eos.to_vec(),
            max_tokens,
            usage: Usage { prompt_tokens: prompt.len(), completion_tokens: 0 },
        })
    }

    /// Samples the token after `history` and reports it.
    pub(crate) fn advance(
        &mut self,
        logits: &[f32],
        history: &[u32],
        workspace: &mut Workspace,
        events: &mut Vec<Event>,
    ) -> Next {
        let token = match self.sampler.sample(logits, history, workspace) {
            Ok(token) => token,
            Err(error) => {
                self.finish(FinishReason::Error(error.to_string()), None, String::new(), events);
                return Next::End;
            }
        };
        self.usage.completion_tokens += 1;
        let (text, reason) = self.judge(token);
        match reason {
            Some(reason) => {
                self.finish(reason, Some(token), text, events);
                Next::End
            }
            None => {
                events.push(Event::Text { id: self.id, token: Some(token), text });
                Next::Token(token)
            }
        }
    }

    /// Ends the answer from outside.
    pub(crate) fn end(mut self, reason: FinishReason, events: &mut Vec<Event>) {
        self.finish(reason, None, String::new(), events);
    }

    /// The text that `token` releases, and why the answer ends with it, if it does.
    fn judge(&mut self, token: u32) -> (String, Option<FinishReason>) {
        if self.eos_tokens.contains(&token) {
            return (String::new(), Some(FinishReason::EndOfText(token)));
        }
        if self.stop_tokens.contains(&token) {
            return (String::new(), Some(FinishReason::StopToken(token)));
        }
        let passed = self.stop.push(&self.text.push(token));
        let stopped = passed.stop.map(|index| self.stop_string(index));
        let full = self.usage.completion_tokens >= self.max_tokens;
        (passed.text, stopped.or(full.then_some(FinishReason::Length)))
    }

    /// Reports the last text, what was held back included, and the end.
    fn finish(
        &mut self,
        mut reason: FinishReason,
        token: Option<u32>,
        mut text: String,
        events: &mut Vec<Event>,
    ) {
        let passed = self.stop.push(&self.text.finish());
        text.push_str(&passed.text);
        match passed.stop {
            Some(index) => reason = self.stop_string(index),
            None => text.push_str(&self.stop.finish()),
        }
        if token.is_some() || !text.is_empty() {
            events.push(Event::Text { id: self.id, token, text });
        }
        events.push(Event::Finished { id: self.id, reason, usage: self.usage });
    }

    fn stop_string(&self, index: usize) -> FinishReason {
        FinishReason::StopString(self.stop.string(index).to_owned())
    }
}
