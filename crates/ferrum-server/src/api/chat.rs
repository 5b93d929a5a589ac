//! `POST /v1/chat/completions`: the next message of a conversation.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ferrum_engine::{Request, TokenLogprobs, Usage};
use ferrum_models::chat::RenderOptions;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::logprobs::chat_entry;
use super::messages::{ChatMessage, to_messages};
use super::params::GenerationParams;
use super::{Head, usage_json};
use crate::App;
use crate::answer::{Piece, Running, Whole, collect};
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::model::Model;
use crate::sse::{self, Format, SseEvent};

/// The fields of this route alone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// Most tokens of the answer; the newer name of `max_tokens`.
    pub max_completion_tokens: Option<usize>,
    /// Whether log-probabilities come with the tokens.
    pub logprobs: Option<bool>,
    /// And those of this many likeliest tokens in each place.
    pub top_logprobs: Option<usize>,
    /// Further variables of the chat template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// A variable of some chat templates.
    pub reasoning_effort: Option<String>,
    /// Only text.
    pub modalities: Option<Vec<String>>,
    /// Nothing is ever stored.
    pub store: Option<bool>,
}

/// What the answers are written with.
struct Writer {
    head: Head,
    model: Arc<Model>,
    choices: usize,
    include_usage: bool,
}

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    body: JsonBody,
) -> ApiResult<Response> {
    let (own, params): (ChatRequest, GenerationParams) = body.parse_both()?;
    let model = app.model(params.model.as_deref())?;
    let (stream, include_usage) = (params.is_stream(), params.include_usage());
    let requests = app
        .blocking({
            let (limit, model, tenant) = (app.limits.choices, model.clone(), tenant.clone());
            move || plan(own, params, &model, &tenant, limit)
        })
        .await?;
    let n = requests.len();
    let answers = model.service.submit(requests, &tenant.places)?;
    let running = Running::accepted(answers, 1, n).await?;
    let kind = if stream { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new("chatcmpl", kind, &model);
    let writer = Writer { head, model, choices: n, include_usage };
    if stream {
        return Ok(sse::response(running, writer, app.limits.keep_alive));
    }
    let (wholes, usage) = collect(running).await?;
    let choices =
        wholes.into_iter().enumerate().map(|(i, whole)| writer.choice(i, whole)).collect();
    let mut response = writer.head.object(choices);
    response["usage"] = usage_json(&usage);
    Ok(Json(response).into_response())
}

/// Checks the request and makes the engine's requests of it.
fn plan(
    own: ChatRequest,
    mut params: GenerationParams,
    model: &Model,
    tenant: &Tenant,
    limit: usize,
) -> ApiResult<Vec<Request>> {
    params.check()?;
    check(&own, &params)?;
    params.max_tokens = own.max_completion_tokens.or(params.max_tokens);
    let n = params.choices(1, limit)?;
    let wants = own.logprobs == Some(true);
    let mut extra = own.chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = own.reasoning_effort {
        extra.entry("reasoning_effort").or_insert(effort.into());
    }
    let options = RenderOptions { extra, ..RenderOptions::answer(super::now()) };
    let rendered = model.render(&to_messages(own.messages)?, &options)?;
    let prompt = model.encode(&rendered);
    let request = |choice| {
        let mut request = params.request(prompt.clone(), choice, tenant)?;
        request.logprobs = wants.then_some(own.top_logprobs.unwrap_or(0));
        Ok(request)
    };
    (0..n).map(request).collect()
}

/// What the types cannot say.
fn check(own: &ChatRequest, params: &GenerationParams) -> ApiResult<()> {
    if own.messages.is_empty() {
        return Err(ApiError::field("messages", "there is no message"));
    }
    if let (Some(a), Some(b)) = (own.max_completion_tokens, params.max_tokens)
        && a != b
    {
        let message = "max_tokens and max_completion_tokens differ";
        return Err(ApiError::field("max_completion_tokens", message));
    }
    if own.top_logprobs.is_some_and(|top| top > 0) && own.logprobs != Some(true) {
        return Err(ApiError::field("top_logprobs", "top_logprobs needs logprobs: true"));
    }
    if let Some(other) = own.modalities.iter().flatten().find(|m| *m != "text") {
        return Err(ApiError::unsupported("modalities", other));
    }
    if own.store == Some(true) {
        return Err(ApiError::unsupported("store", "true"));
    }
    Ok(())
}

impl Writer {
    /// `logprobs` of a choice. The token that ended the answer is not part of it.
    fn logprobs<'a>(&self, tokens: impl Iterator<Item = &'a TokenLogprobs>) -> Value {
        let entries: Vec<Value> = tokens.map(|l| chat_entry(&self.model, l)).collect();
        if entries.is_empty() { Value::Null } else { json!({"content": entries, "refusal": null}) }
    }

    fn choice(&self, index: usize, whole: Whole) -> Value {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": whole.text, "refusal": null},
            "logprobs": self.logprobs(whole.logprobs.iter()),
            "finish_reason": whole.end.map(|end| end.finish_reason()),
        })
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, reason: Option<&str>) -> SseEvent {
        let choice =
            json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason});
        let mut chunk = self.head.object(vec![choice]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk.into()
    }
}

impl Format for Writer {
    fn start(&mut self) -> Vec<SseEvent> {
        let delta = json!({"role": "assistant", "content": ""});
        (0..self.choices).map(|i| self.chunk(i, delta.clone(), Value::Null, None)).collect()
    }

    fn piece(&mut self, piece: Piece) -> Vec<SseEvent> {
        let mut out = Vec::new();
        if !piece.text.is_empty() || piece.logprobs.is_some() {
            let delta = json!({"content": piece.text});
            let logprobs = self.logprobs(piece.logprobs.iter());
            out.push(self.chunk(piece.choice, delta, logprobs, None));
        }
        if let Some(end) = piece.end {
            let reason = Some(end.finish_reason());
            out.push(self.chunk(piece.choice, json!({}), Value::Null, reason));
        }
        out
    }

    fn end(&mut self, usage: &Usage) -> Vec<SseEvent> {
        if !self.include_usage {
            return Vec::new();
        }
        let mut last = self.head.object(Vec::new());
        last["usage"] = usage_json(usage);
        vec![last.into()]
    }
}
