//! Streams of server-sent events.

use std::convert::Infallible;
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
use crate::error::ApiError;

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
pub trait Format: Send + 'static {
    /// The events before the first piece.
    fn start(&mut self) -> Vec<SseEvent>;

    /// The events of a piece.
    fn piece(&mut self, piece: Piece) -> Vec<SseEvent>;

    /// The events after the last piece.
    fn end(&mut self, usage: &Usage) -> Vec<SseEvent>;

    /// The event of an error in the middle of an answer.
    fn error(&mut self, error: &ApiError) -> SseEvent {
        error.to_json().into()
    }

    /// Whether a last event says `[DONE]`.
    fn says_done(&self) -> bool {
        true
    }
}

/// A stream of events that ends with the answer; `keep_alive` is the time between comments while
/// there is nothing to say.
pub fn response(running: Running, format: impl Format, keep_alive: Duration) -> Response {
    let state = State { running, format, keep_alive, stage: Stage::Start, spoke: Instant::now() };
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
    (headers, body).into_response()
}

struct State<F> {
    running: Running,
    format: F,
    keep_alive: Duration,
    stage: Stage,
    /// When the last bytes were sent: not every piece gives some.
    spoke: Instant,
}

#[derive(PartialEq)]
enum Stage {
    Start,
    Middle,
    Over,
}

impl<F: Format> State<F> {
    /// The next bytes to send; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let events = match self.stage {
                Stage::Over => return None,
                Stage::Start => {
                    self.stage = Stage::Middle;
                    self.format.start()
                }
                Stage::Middle => {
                    let silence = self.spoke + self.keep_alive;
                    match tokio::time::timeout_at(silence, self.running.next()).await {
                        Err(_) => {
                            self.spoke = Instant::now();
                            return Some(Bytes::from_static(b": keep-alive\n\n"));
                        }
                        Ok(Ok(Some(piece))) => self.format.piece(piece),
                        Ok(Ok(None)) => {
                            self.stage = Stage::Over;
                            self.format.end(&self.running.usage())
                        }
                        Ok(Err(error)) => {
                            self.stage = Stage::Over;
                            vec![self.format.error(&error)]
                        }
                    }
                }
            };
            let bytes = self.encode(&events);
            if !bytes.is_empty() {
                self.spoke = Instant::now();
                return Some(bytes.into());
            }
        }
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
        if self.stage == Stage::Over && self.format.says_done() {
            out.extend_from_slice(b"data: [DONE]\n\n");
        }
        out
    }
}
