//! The routes, one file for each family.

pub mod anthropic;
mod anthropic_request;
mod blocks;
pub mod chat;
pub mod completions;
mod conversation;
pub mod embeddings;
mod exchange;
mod form;
pub mod logprobs;
pub mod messages;
pub mod models;
pub mod openapi;
pub mod params;
pub mod rerank;
pub mod responses;
mod responses_request;
mod shape;
pub mod status;
pub mod tokens;
mod turns;

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use ferrum_engine::Usage;
use jiff::civil::DateTime;
use serde::Serialize;
use serde_json::{Value, json};

use crate::App;
use crate::error::ApiError;

/// All routes.
pub fn routes() -> Router<std::sync::Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/responses", post(responses::handle))
        .route("/v1/messages", post(anthropic::handle))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/rerank", post(rerank::handle))
        .route("/rerank", post(rerank::handle))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/tokenizer_info", get(tokens::info))
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/metrics", get(status::metrics))
        .route("/openapi.json", get(openapi::handle))
        .merge(crate::web::routes())
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is no such route") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "the route does not take this method")
        })
}

/// What all objects of one answer have in common.
#[derive(Debug, Clone)]
pub struct Head {
    /// Names the answer.
    pub id: String,
    kind: &'static str,
    created: u64,
    model: String,
}

impl Head {
    /// A new answer of the model called `model`, with a name that begins with `prefix`.
    pub fn new(prefix: &str, kind: &'static str, model: &str) -> Self {
        let id = format!("{prefix}-{}", random_id());
        Head { id, kind, created: seconds(), model: model.to_string() }
    }

    /// An object of the answer.
    pub fn object(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": concat!("ferrum-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }
}

/// Seconds since 1970.
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// 24 hexadecimal digits that are not used twice.
pub fn random_id() -> String {
    // Each `RandomState` has keys of its own.
    let word = |salt: u8| RandomState::new().hash_one(salt);
    format!("{:016x}{:08x}", word(0), word(1) as u32)
}

/// The tokens of texts that nothing is generated for.
#[derive(Debug, Serialize)]
pub struct TextUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl TextUsage {
    /// So many.
    pub fn of(tokens: usize) -> Self {
        TextUsage { prompt_tokens: tokens, total_tokens: tokens }
    }
}

/// Counts in the words of the OpenAI API.
pub fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    })
}

/// The date and time that a template may print.
pub fn now() -> DateTime {
    jiff::Zoned::now().datetime()
}
