//! Streams of server-sent events.
//!
//! An error before the first event is an answer with a status, as clients expect it. Only a request
//! that cannot begin within the time between two signs of life, because its model is being loaded or
//! waited for, gets its headers before that: otherwise clients and proxies would give up the
//! connection. What goes wrong from then on comes as an event, as in the middle of an answer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ferrum_engine::Usage;
use futures_util::stream;
use serde_json::Value;
use tokio::time::Instant;

use crate::answer::{Piece, Running};
use crate::error::{ApiError, ApiResult};

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct SseEvent {
    /// Its name, in APIs that name events.
    pub name: Option<&'static str>,
    /// What it says.
    pub data: Value,
}

impl From<Value> for SseEvent {
    fn from(data: Value) -> Self {
        SseEvent { name: None, data }
    }
}

/// The events of an API for an answer.
pub trait Format: Sized + Send + 'static {
    /// The events before the first piece.
    fn start(&mut self) -> Vec<SseEvent>;

    /// The events of a piece.
    fn piece(&mut self, piece: Piece) -> Vec<SseEvent>;

    /// The events after the last piece.
    fn end(&mut self, usage: &Usage) -> Vec<SseEvent>;

    /// The event of an error in the middle of an answer.
    fn error(&mut self, error: &ApiError) -> SseEvent {
        Self::refusal(error)
    }

    /// The event of an error of a request that could not begin.
    fn refusal(error: &ApiError) -> SseEvent {
        error.to_json().into()
    }

    /// Whether a last event says `[DONE]`.
    fn says_done() -> bool {
        true
    }
}

/// What an answer needs to begin: it may have to wait.
type Beginning<F> = Pin<Box<dyn Future<Output = ApiResult<(Running, F)>> + Send>>;

/// A stream of events that ends with the answer which `begin` gives; `keep_alive` is the time
/// between comments while there is nothing to say.
pub async fn response<F: Format>(
    begin: impl Future<Output = ApiResult<(Running, F)>> + Send + 'static,
    keep_alive: Duration,
) -> ApiResult<Response> {
    let mut begin: Beginning<F> = Box::pin(begin);
    let stage = match tokio::time::timeout(keep_alive, &mut begin).await {
        Ok(begun) => {
            let (running, format) = begun?;
            Stage::Start(running, format)
        }
        Err(_) => Stage::Waiting(begin),
    };
    // Who has waited hears at once that the server lives.
    let spoke = match stage {
        Stage::Waiting(_) => None,
        _ => Some(Instant::now()),
    };
    let state = State { keep_alive, stage, spoke };
    let body = Body::from_stream(stream::unfold(state, |mut state| async {
        let bytes = state.next().await?;
        Some((Ok::<_, Infallible>(bytes), state))
    }));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Reverse proxies that buffer would hold the pieces back.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

struct State<F> {
    keep_alive: Duration,
    stage: Stage<F>,
    /// When the last bytes were sent: not every piece gives some.
    spoke: Option<Instant>,
}

enum Stage<F> {
    Waiting(Beginning<F>),
    Start(Running, F),
    Middle(Running, F),
    Over,
}

impl<F: Format> State<F> {
    /// The next bytes to send; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let silence = self.spoke.map_or_else(Instant::now, |spoke| spoke + self.keep_alive);
            let (stage, events) = match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Over => return None,
                Stage::Waiting(mut begin) => {
                    match tokio::time::timeout_at(silence, &mut begin).await {
                        Err(_) => return Some(self.keep_alive(Stage::Waiting(begin))),
                        Ok(Ok((running, format))) => (Stage::Start(running, format), Vec::new()),
                        Ok(Err(error)) => (Stage::Over, vec![F::refusal(&error)]),
                    }
                }
                Stage::Start(running, mut format) => {
                    let events = format.start();
                    (Stage::Middle(running, format), events)
                }
                Stage::Middle(mut running, mut format) => {
                    match tokio::time::timeout_at(silence, running.next()).await {
                        Err(_) => return Some(self.keep_alive(Stage::Middle(running, format))),
                        Ok(Ok(Some(piece))) => {
                            let events = format.piece(piece);
                            (Stage::Middle(running, format), events)
                        }
                        Ok(Ok(None)) => (Stage::Over, format.end(&running.usage())),
                        Ok(Err(error)) => (Stage::Over, vec![format.error(&error)]),
                    }
                }
            };
            self.stage = stage;
            let bytes = self.encode(&events);
            if !bytes.is_empty() {
                self.spoke = Some(Instant::now());
                return Some(bytes.into());
            }
        }
    }

    fn keep_alive(&mut self, stage: Stage<F>) -> Bytes {
        (self.stage, self.spoke) = (stage, Some(Instant::now()));
        Bytes::from_static(b": keep-alive\n\n")
    }

    fn encode(&self, events: &[SseEvent]) -> Vec<u8> {
        let mut out = Vec::new();
        for event in events {
            if let Some(name) = event.name {
                out.extend_from_slice(format!("event: {name}\n").as_bytes());
            }
            // JSON has no line ends outside strings, and there they are escaped.
            out.extend_from_slice(format!("data: {}\n\n", event.data).as_bytes());
        }
        if matches!(self.stage, Stage::Over) && F::says_done() {
            out.extend_from_slice(b"data: [DONE]\n\n");
        }
        out
    }
}
