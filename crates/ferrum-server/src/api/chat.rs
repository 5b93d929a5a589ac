//! `POST /v1/chat/completions`: the next message of a conversation.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ferrum_engine::{TokenLogprobs, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::conversation::{Conversation, Parser};
use super::exchange::{self, Ask, Exchange};
use super::form::ResponseFormat;
use super::logprobs::chat_entry;
use super::messages::{ChatMessage, to_messages};
use super::params::GenerationParams;
use super::shape::{Shape, ShapeRequest, ToolChoice, ToolDefinition, functions};
use super::{Head, random_id, usage_json};
use crate::App;
use crate::answer::{Piece, Whole, collect};
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::model::Model;
use crate::output::{Delta, Output};
use crate::sse::{self, Format, SseEvent};

/// The fields of this route alone.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
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
    /// Tools that the model may call.
    pub tools: Option<Vec<ToolDefinition>>,
    /// Which of them.
    pub tool_choice: Option<ToolChoice>,
    /// Whether several calls may come in one answer.
    pub parallel_tool_calls: Option<bool>,
    /// The form of the answer.
    pub response_format: Option<ResponseFormat>,
    /// Further variables of the chat template.
    #[schema(value_type = Option<Object>)]
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
    choices: Vec<Choice>,
    include_usage: bool,
}

/// A choice while it grows.
struct Choice {
    parser: Parser,
    output: Output,
}

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    body: JsonBody,
) -> ApiResult<Response> {
    let (own, params): (ChatRequest, GenerationParams) = body.parse_both()?;
    let (stream, include_usage) = (params.is_stream(), params.include_usage());
    let (model, limit) = (params.model.clone(), app.limits.choices);
    let ask = Ask { app: app.clone(), tenant, body, model, stream, limit };
    let begin = async move {
        let exchange = exchange::start(ask, |model| conversation(own, params, model)).await?;
        let Exchange { running, parsers, model, name, .. } = exchange;
        let kind = if stream { "chat.completion.chunk" } else { "chat.completion" };
        let choice = |parser| Choice { parser, output: Output::default() };
        let writer = Writer {
            head: Head::new("chatcmpl", kind, &name),
            model,
            choices: parsers.into_iter().map(choice).collect(),
            include_usage,
        };
        Ok((running, writer))
    };
    if stream {
        return sse::response(begin, app.limits.keep_alive).await;
    }
    let (running, mut writer) = begin.await?;
    let (wholes, usage) = collect(running).await?;
    let choices = wholes.into_iter().enumerate().map(|(i, whole)| writer.whole(i, whole)).collect();
    let mut response = writer.head.object(choices);
    response["usage"] = usage_json(&usage);
    Ok(Json(response).into_response())
}

/// Checks the request.
fn conversation(
    own: ChatRequest,
    mut params: GenerationParams,
    model: &Model,
) -> ApiResult<Conversation> {
    params.check()?;
    check(&own, &params)?;
    params.max_tokens = own.max_completion_tokens.or(params.max_tokens);
    let shape = ShapeRequest {
        tools: functions(own.tools.unwrap_or_default())?,
        choice: own.tool_choice,
        parallel: own.parallel_tool_calls != Some(false),
        form: params.form(own.response_format)?,
    };
    let mut extra = own.chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = own.reasoning_effort {
        extra.entry("reasoning_effort").or_insert(effort.into());
    }
    let wants = own.logprobs == Some(true);
    Ok(Conversation {
        messages: to_messages(own.messages)?,
        shape: Shape::new(shape, model)?,
        params,
        extra,
        logprobs: wants.then_some(own.top_logprobs.unwrap_or(0)),
        thinking: None,
        drops_turns: false,
    })
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

impl Choice {
    /// A delta in the words of the API.
    fn delta(&self, delta: Delta) -> Value {
        match delta {
            Delta::Content(text) => json!({"content": text}),
            Delta::Reasoning(text) => json!({"reasoning_content": text}),
            Delta::Call { index, name } => {
                let id = format!("call_{}", random_id());
                let function = json!({"name": name, "arguments": ""});
                json!({"tool_calls": [
                    {"index": index, "id": id, "type": "function", "function": function}
                ]})
            }
            Delta::Arguments { index, json } => {
                json!({"tool_calls": [{"index": index, "function": {"arguments": json}}]})
            }
        }
    }

    /// The reason of the end, given how the text ended.
    fn finish_reason(&self, reason: &'static str) -> &'static str {
        if reason == "stop" && self.parser.calls() { "tool_calls" } else { reason }
    }
}

/// A complete call.
fn whole_call((name, arguments): (String, String)) -> Value {
    let function = json!({"name": name, "arguments": arguments});
    json!({"id": format!("call_{}", random_id()), "type": "function", "function": function})
}

impl Writer {
    /// `logprobs` of a choice.
    fn logprobs<'a>(&self, tokens: impl Iterator<Item = &'a TokenLogprobs>) -> Value {
        let entries: Vec<Value> = tokens.map(|l| chat_entry(&self.model, l)).collect();
        if entries.is_empty() { Value::Null } else { json!({"content": entries, "refusal": null}) }
    }

    /// A choice that has ended.
    fn whole(&mut self, index: usize, whole: Whole) -> Value {
        let logprobs = self.logprobs(whole.logprobs.iter());
        let Some(choice) = self.choices.get_mut(index) else { return Value::Null };
        for delta in choice.parser.push(&whole.text, true) {
            choice.output.add(delta);
        }
        let reason = whole.end.map(|end| choice.finish_reason(end.finish_reason()));
        let Output { content, reasoning, calls } = std::mem::take(&mut choice.output);
        let content = if content.is_empty() && !calls.is_empty() { None } else { Some(content) };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into_iter().map(whole_call).collect();
        }
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
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
        (0..self.choices.len()).map(|i| self.chunk(i, delta.clone(), Value::Null, None)).collect()
    }

    fn piece(&mut self, piece: Piece) -> Vec<SseEvent> {
        let index = piece.choice;
        let mut logprobs = self.logprobs(piece.logprobs.iter());
        let Some(choice) = self.choices.get_mut(index) else { return Vec::new() };
        let deltas = choice.parser.push(&piece.text, piece.end.is_some());
        let mut deltas: Vec<Value> = deltas.into_iter().map(|delta| choice.delta(delta)).collect();
        if deltas.is_empty() && !logprobs.is_null() {
            deltas.push(json!({}));
        }
        let reason = piece.end.map(|end| choice.finish_reason(end.finish_reason()));
        let mut out = Vec::new();
        for delta in deltas {
            out.push(self.chunk(index, delta, logprobs.take(), None));
        }
        if reason.is_some() {
            out.push(self.chunk(index, json!({}), Value::Null, reason));
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
