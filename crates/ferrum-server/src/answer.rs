//! Answers as they come: the engine's events as pieces of choices, whatever API they are for.

use ferrum_engine::{Event, FinishReason, TokenLogprobs, Usage};

use crate::error::{ApiError, ApiResult};
use crate::service::{Answers, Update};

/// A part of one choice.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    /// Which choice.
    pub choice: usize,
    /// Text that follows the text before.
    pub text: String,
    /// The token that was sampled, with its log-probability where asked for.
    pub token: Option<u32>,
    /// See [`Piece::token`].
    pub logprobs: Option<TokenLogprobs>,
    /// The prompt's log-probabilities, once, where asked for.
    pub prompt: Option<Vec<Option<TokenLogprobs>>>,
    /// The end of the choice.
    pub end: Option<End>,
}

/// How a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why; never an error.
    pub reason: FinishReason,
    /// Tokens that it took.
    pub usage: Usage,
}

impl End {
    /// The reason in the words of the OpenAI API.
    pub fn finish_reason(&self) -> &'static str {
        match self.reason {
            FinishReason::Length => "length",
            _ => "stop",
        }
    }
}

/// The choices of one request while they grow.
pub struct Running {
    answers: Answers,
    /// Choices to each prompt.
    n: usize,
    /// Choices that have not ended.
    left: usize,
    total: Usage,
}

impl Running {
    /// Waits until the requests of `answers` are accepted: `n` for each of `prompts`.
    pub async fn accepted(mut answers: Answers, prompts: usize, n: usize) -> ApiResult<Self> {
        match answers.next().await {
            Some(Update::Accepted) => {
                let (left, total) = (prompts * n, Usage::default());
                Ok(Running { answers, n, left, total })
            }
            Some(Update::Refused(error)) => Err(error.into()),
            Some(Update::Failed(why)) => Err(ApiError::internal(why)),
            Some(Update::Event(..)) => Err(ApiError::internal("an event before the acceptance")),
            None => Err(ApiError::unavailable("the engine has stopped")),
        }
    }

    /// Choices of the whole request, ended or not, by their count at the beginning.
    pub fn choices(&self) -> usize {
        self.left
    }

    /// What was counted of the choices that have ended.
    pub fn usage(&self) -> Usage {
        self.total
    }

    /// The next piece; `None` once all choices have ended.
    pub async fn next(&mut self) -> ApiResult<Option<Piece>> {
        if self.left == 0 {
            return Ok(None);
        }
        match self.answers.next().await {
            Some(Update::Event(choice, event)) => self.piece(choice, event).map(Some),
            Some(Update::Failed(why)) => Err(ApiError::internal(why)),
            Some(Update::Accepted | Update::Refused(_)) => {
                Err(ApiError::internal("an acceptance in the middle of an answer"))
            }
            None => Err(ApiError::unavailable("the answer was given up")),
        }
    }

    fn piece(&mut self, choice: usize, event: Event) -> ApiResult<Piece> {
        let piece = Piece { choice, ..Piece::default() };
        Ok(match event {
            Event::Prompt { logprobs, .. } => Piece { prompt: Some(logprobs), ..piece },
            Event::Text { token, text, logprobs, .. } => Piece { token, text, logprobs, ..piece },
            Event::Finished { reason: FinishReason::Error(why), .. } => {
                return Err(ApiError::internal(format!("the answer broke off: {why}")));
            }
            Event::Finished { reason: FinishReason::Cancelled, .. } => {
                return Err(ApiError::unavailable("the answer was given up"));
            }
            Event::Finished { reason, usage, .. } => {
                self.left -= 1;
                self.count(choice, usage);
                Piece { end: Some(End { reason, usage }), ..piece }
            }
        })
    }

    /// A prompt counts once, whatever `n` is.
    fn count(&mut self, choice: usize, usage: Usage) {
        self.total.completion_tokens += usage.completion_tokens;
        self.total.reasoning_tokens += usage.reasoning_tokens;
        if choice.is_multiple_of(self.n) {
            self.total.prompt_tokens += usage.prompt_tokens;
            self.total.cached_tokens += usage.cached_tokens;
        }
    }
}

/// A choice that has ended.
#[derive(Debug, Clone, Default)]
pub struct Whole {
    /// Its text.
    pub text: String,
    /// Tokens that have log-probabilities, in order.
    pub logprobs: Vec<TokenLogprobs>,
    /// See [`Piece::prompt`].
    pub prompt: Vec<Option<TokenLogprobs>>,
    /// How it ended.
    pub end: Option<End>,
}

/// All choices, once they have ended.
pub async fn collect(mut running: Running) -> ApiResult<(Vec<Whole>, Usage)> {
    let mut wholes = vec![Whole::default(); running.choices()];
    while let Some(piece) = running.next().await? {
        let Some(whole) = wholes.get_mut(piece.choice) else { continue };
        whole.text.push_str(&piece.text);
        whole.logprobs.extend(piece.logprobs);
        whole.prompt.extend(piece.prompt.into_iter().flatten());
        whole.end = piece.end.or(whole.end.take());
    }
    Ok((wholes, running.usage()))
}
