//! `POST /v1/messages`: Anthropic's API.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use ferrum_engine::{FinishReason, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::anthropic_request::conversation;
use super::blocks::{Block, Blocks, Change, Kind};
use super::exchange::{self, Ask, BlockAnswer, BlockFormat};
use super::random_id;
use crate::App;
use crate::answer::Piece;
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::sse::{Format, SseEvent};

/// A request, in the names of Anthropic's API.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct MessagesRequest {
    /// The model.
    pub model: Option<String>,
    /// The conversation, without the system's message.
    pub messages: Vec<Value>,
    /// The system's message: a text or blocks.
    pub system: Option<Value>,
    /// Most tokens of the answer; needed but for counting.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer.
    pub stop_sequences: Option<Vec<String>>,
    /// Whether the answer comes piece by piece.
    pub stream: Option<bool>,
    /// See [`ferrum_engine::SamplingParams::temperature`].
    pub temperature: Option<f32>,
    /// See [`ferrum_engine::SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// See [`ferrum_engine::SamplingParams::top_k`].
    pub top_k: Option<i64>,
    /// The tools.
    pub tools: Option<Vec<ToolDefinition>>,
    /// Which of them.
    pub tool_choice: Option<ToolChoice>,
    /// Whether the model thinks first.
    pub thinking: Option<Thinking>,
}

/// A tool.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
#[schema(as = AnthropicToolDefinition)]
pub struct ToolDefinition {
    /// `custom`, or nothing.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub input_schema: Option<Value>,
    /// A hint about caching; what can be shared always is.
    pub cache_control: Option<Value>,
}

/// Whether tools are called.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
#[schema(as = AnthropicToolChoice)]
pub struct ToolChoice {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// With `tool`.
    pub name: Option<String>,
    /// At most one call.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether the model thinks first.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct Thinking {
    /// `enabled` or `disabled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Tokens of thinking, at most: then the thinking is ended, and the answer begins.
    pub budget_tokens: Option<usize>,
}

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    body: JsonBody,
) -> ApiResult<Response> {
    let request: MessagesRequest = body.parse()?;
    if request.max_tokens.is_none() {
        return Err(ApiError::field("max_tokens", "max_tokens is missing"));
    }
    let (model, stream) = (request.model.clone(), request.stream == Some(true));
    let ask = Ask { app: app.clone(), tenant, body, model, stream, limit: 1 };
    let begin = async move {
        let mut exchange = exchange::start(ask, |model| conversation(request, model)).await?;
        let writer = Writer {
            id: format!("msg_{}", random_id()),
            model: exchange.name,
            prompt_tokens: exchange.prompt_tokens,
            answer: BlockAnswer::new(&mut exchange.parsers)?,
        };
        Ok((exchange.running, writer))
    };
    exchange::respond(&app, begin, stream).await
}

/// `POST /v1/messages/count_tokens`
pub async fn count_tokens(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    mut body: JsonBody,
) -> ApiResult<Json<Value>> {
    let request: MessagesRequest = body.parse()?;
    let lease = app.lease(request.model.as_deref(), &tenant, &mut body).await?;
    let model = lease.model().clone();
    app.blocking(move || {
        let prompt = conversation(request, &model)?.prompt(&model)?;
        Ok(Json(json!({"input_tokens": prompt.tokens.len()})))
    })
    .await
}

struct Writer {
    id: String,
    model: String,
    prompt_tokens: usize,
    answer: BlockAnswer,
}

fn counts(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    })
}

/// A complete block.
fn whole_block(block: &Block) -> Value {
    match &block.kind {
        Kind::Text => json!({"type": "text", "text": block.text}),
        Kind::Reasoning => json!({"type": "thinking", "thinking": block.text, "signature": ""}),
        Kind::Call { id, name } => {
            let input = serde_json::from_str(&block.text).unwrap_or(Value::Object(Map::new()));
            json!({"type": "tool_use", "id": id, "name": name, "input": input})
        }
    }
}

impl Writer {
    /// Reason and stop sequence.
    fn stop(&self) -> (&'static str, Option<String>) {
        match self.answer.end.as_ref().map(|end| &end.reason) {
            Some(FinishReason::Length) => ("max_tokens", None),
            Some(FinishReason::StopString(text)) => ("stop_sequence", Some(text.clone())),
            _ if self.answer.blocks.calls() => ("tool_use", None),
            _ => ("end_turn", None),
        }
    }

    fn message(
        &self,
        content: Vec<Value>,
        reason: impl Into<Value>,
        stop: Option<String>,
        usage: &Usage,
    ) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason.into(),
            "stop_sequence": stop,
            "usage": counts(usage),
        })
    }
}

fn event(name: &'static str, mut data: Value) -> SseEvent {
    data["type"] = name.into();
    SseEvent { name: Some(name), data }
}

/// The event of a change of the blocks.
fn change_event(blocks: &Blocks, change: Change) -> Option<SseEvent> {
    let index = blocks.index();
    let block = blocks.list.last()?;
    Some(match change {
        Change::Open => {
            // A call begins with empty arguments, whatever comes.
            let block = whole_block(&Block { kind: block.kind.clone(), text: String::new() });
            event("content_block_start", json!({"index": index, "content_block": block}))
        }
        Change::More(text) => {
            let delta = match block.kind {
                Kind::Text => json!({"type": "text_delta", "text": text}),
                Kind::Reasoning => json!({"type": "thinking_delta", "thinking": text}),
                Kind::Call { .. } => json!({"type": "input_json_delta", "partial_json": text}),
            };
            event("content_block_delta", json!({"index": index, "delta": delta}))
        }
        Change::Close => event("content_block_stop", json!({"index": index})),
    })
}

impl BlockFormat for Writer {
    fn answer(&mut self) -> &mut BlockAnswer {
        &mut self.answer
    }

    fn whole(&mut self, usage: &Usage) -> Value {
        let content = self.answer.blocks.list.iter().map(whole_block).collect();
        let (reason, stop) = self.stop();
        self.message(content, reason, stop, usage)
    }
}

impl Format for Writer {
    fn start(&mut self) -> Vec<SseEvent> {
        let usage = Usage { prompt_tokens: self.prompt_tokens, ..Usage::default() };
        let message = self.message(Vec::new(), Value::Null, None, &usage);
        vec![event("message_start", json!({"message": message}))]
    }

    fn piece(&mut self, piece: Piece) -> Vec<SseEvent> {
        let mut out = Vec::new();
        let mut each = |blocks: &Blocks, change| out.extend(change_event(blocks, change));
        self.answer.push(piece, &mut each);
        out
    }

    fn end(&mut self, usage: &Usage) -> Vec<SseEvent> {
        let (reason, stop) = self.stop();
        let delta = json!({"stop_reason": reason, "stop_sequence": stop});
        let last = event("message_delta", json!({"delta": delta, "usage": counts(usage)}));
        vec![last, event("message_stop", json!({}))]
    }

    fn refusal(error: &ApiError) -> SseEvent {
        SseEvent { name: Some("error"), data: error.to_anthropic() }
    }

    fn says_done() -> bool {
        false
    }
}
