//! `POST /v1/responses`: OpenAI's Responses API, without anything that is kept between requests.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use ferrum_engine::{FinishReason, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::blocks::{Block, Blocks, Change, Kind};
use super::exchange::{self, Ask, BlockAnswer, BlockFormat};
use super::random_id;
use super::responses_request::conversation;
use crate::App;
use crate::answer::Piece;
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::sse::{Format, SseEvent};

/// A request.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct ResponsesRequest {
    /// The model.
    pub model: Option<String>,
    /// A text, or a list of items.
    pub input: Option<Value>,
    /// The system's message.
    pub instructions: Option<String>,
    /// Most tokens of the answer.
    pub max_output_tokens: Option<usize>,
    /// See [`ferrum_engine::SamplingParams::temperature`].
    pub temperature: Option<f32>,
    /// See [`ferrum_engine::SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// Whether the answer comes event by event.
    pub stream: Option<bool>,
    /// Functions.
    pub tools: Option<Vec<Value>>,
    /// Which of them.
    pub tool_choice: Option<Value>,
    /// Whether several calls may come in one answer.
    pub parallel_tool_calls: Option<bool>,
    /// The form of the answer.
    pub text: Option<TextOptions>,
    /// How much the model thinks.
    pub reasoning: Option<ReasoningOptions>,
    /// Nothing is ever stored.
    pub store: Option<bool>,
    /// `auto`: the oldest turns are left out of a conversation that is too long. `disabled`, the
    /// default: it is refused.
    pub truncation: Option<String>,
    /// Nothing more can be included.
    pub include: Option<Vec<String>>,
    /// Answers are not given in the background.
    pub background: Option<bool>,
}

/// The form of an answer.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct TextOptions {
    /// `{"type": "text"}`, `json_object`, or `json_schema` with its schema.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Map<String, Value>>,
}

/// How much the model thinks.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct ReasoningOptions {
    /// A variable of some templates.
    pub effort: Option<String>,
    /// Summaries are not made.
    pub summary: Option<String>,
}

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    body: JsonBody,
) -> ApiResult<Response> {
    let request: ResponsesRequest = body.parse()?;
    let (model, stream) = (request.model.clone(), request.stream == Some(true));
    let mut head = head(&request);
    let ask = Ask { app: app.clone(), tenant, body, model, stream, limit: 1 };
    let begin = async move {
        let mut exchange = exchange::start(ask, |model| conversation(request, model)).await?;
        head.insert("model".into(), exchange.name.into());
        let answer = BlockAnswer::new(&mut exchange.parsers)?;
        Ok((exchange.running, Writer { head, answer, ids: Vec::new(), sequence: 0 }))
    };
    exchange::respond(&app, begin, stream).await
}

/// What a response says from its beginning.
fn head(request: &ResponsesRequest) -> Map<String, Value> {
    let format = request.text.as_ref().and_then(|text| text.format.clone());
    let reasoning = request.reasoning.clone().unwrap_or_default();
    let value = json!({
        "id": format!("resp_{}", random_id()),
        "object": "response",
        "created_at": super::seconds(),
        "status": "in_progress",
        "error": null,
        "incomplete_details": null,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "model": null,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls != Some(false),
        "previous_response_id": null,
        "reasoning": {"effort": reasoning.effort, "summary": null},
        "store": false,
        "temperature": request.temperature.unwrap_or(1.0),
        "text": {"format": format.map_or_else(|| json!({"type": "text"}), Value::Object)},
        "tool_choice": request.tool_choice.clone().unwrap_or_else(|| "auto".into()),
        "tools": request.tools.clone().unwrap_or_default(),
        "top_p": request.top_p.unwrap_or(1.0),
        "truncation": request.truncation.as_deref().unwrap_or("disabled"),
        "usage": null,
        "metadata": {},
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

struct Writer {
    head: Map<String, Value>,
    answer: BlockAnswer,
    /// Names of the items, one for each block.
    ids: Vec<String>,
    sequence: u64,
}

/// An item of the output.
fn item(block: &Block, id: &str, status: &str) -> Value {
    match &block.kind {
        Kind::Text => {
            let content =
                if status == "in_progress" { json!([]) } else { json!([part(&block.text)]) };
            json!({"id": id, "type": "message", "role": "assistant", "status": status,
                "content": content})
        }
        Kind::Reasoning => {
            let content = json!([{"type": "reasoning_text", "text": block.text}]);
            json!({"id": id, "type": "reasoning", "summary": [], "content": content})
        }
        Kind::Call { id: call, name } => json!({"id": id, "type": "function_call", "call_id": call,
            "name": name, "arguments": block.text, "status": status}),
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

impl Writer {
    /// Whether the answer ended for want of tokens.
    fn is_incomplete(&self) -> bool {
        self.answer.end.as_ref().is_some_and(|e| e.reason == FinishReason::Length)
    }

    /// The status of the item at `index` once it is closed: what broke off is the last one.
    fn status(&self, index: usize) -> &'static str {
        let last = index + 1 == self.answer.blocks.list.len();
        if last && self.is_incomplete() { "incomplete" } else { "completed" }
    }

    fn event(&mut self, name: &'static str, mut data: Value) -> SseEvent {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        SseEvent { name: Some(name), data }
    }

    /// The events of a change of the block at `index`.
    fn change(&mut self, index: usize, block: &Block, change: Change) -> Vec<SseEvent> {
        if self.ids.len() <= index {
            self.ids.push(format!("item_{}", random_id()));
        }
        let place = Place { index, id: self.ids[index].clone(), block, status: self.status(index) };
        let events = match change {
            Change::Open => place.opening(),
            Change::More(text) => vec![place.more(&text)],
            Change::Close => place.closing(),
        };
        events.into_iter().map(|(name, data)| self.event(name, data)).collect()
    }
}

/// A block as an item of the output.
struct Place<'a> {
    index: usize,
    id: String,
    block: &'a Block,
    /// Once it is closed.
    status: &'static str,
}

/// Name and data of an event.
type Named = (&'static str, Value);

impl Place<'_> {
    /// `value`, which is about a part of the item, with the item's place.
    fn at(&self, mut value: Value) -> Value {
        value["output_index"] = self.index.into();
        value["item_id"] = self.id.clone().into();
        if matches!(self.block.kind, Kind::Text | Kind::Reasoning) {
            value["content_index"] = 0.into();
        }
        value
    }

    fn whole(&self, status: &str) -> Value {
        json!({"output_index": self.index, "item": item(self.block, &self.id, status)})
    }

    fn opening(&self) -> Vec<Named> {
        let mut out = vec![("response.output_item.added", self.whole("in_progress"))];
        if self.block.kind == Kind::Text {
            out.push(("response.content_part.added", self.at(json!({"part": part("")}))));
        }
        out
    }

    fn more(&self, text: &str) -> Named {
        match self.block.kind {
            Kind::Text => {
                let data = json!({"delta": text, "logprobs": []});
                ("response.output_text.delta", self.at(data))
            }
            Kind::Reasoning => ("response.reasoning_text.delta", self.at(json!({"delta": text}))),
            Kind::Call { .. } => {
                ("response.function_call_arguments.delta", self.at(json!({"delta": text})))
            }
        }
    }

    fn closing(&self) -> Vec<Named> {
        let text = &self.block.text;
        let mut out = match &self.block.kind {
            Kind::Text => vec![
                ("response.output_text.done", self.at(json!({"text": text, "logprobs": []}))),
                ("response.content_part.done", self.at(json!({"part": part(text)}))),
            ],
            Kind::Reasoning => {
                vec![("response.reasoning_text.done", self.at(json!({"text": text})))]
            }
            Kind::Call { name, .. } => {
                let data = json!({"arguments": text, "name": name});
                vec![("response.function_call_arguments.done", self.at(data))]
            }
        };
        out.push(("response.output_item.done", self.whole(self.status)));
        out
    }
}

impl BlockFormat for Writer {
    fn answer(&mut self) -> &mut BlockAnswer {
        &mut self.answer
    }

    fn whole(&mut self, usage: &Usage) -> Value {
        let incomplete = self.is_incomplete();
        let status = if incomplete { "incomplete" } else { "completed" };
        while self.ids.len() < self.answer.blocks.list.len() {
            self.ids.push(format!("item_{}", random_id()));
        }
        let items = self.answer.blocks.list.iter().zip(&self.ids).enumerate();
        let output: Vec<Value> =
            items.map(|(i, (block, id))| item(block, id, self.status(i))).collect();
        let mut response = self.head.clone();
        response.insert("status".into(), status.into());
        response.insert("output".into(), output.into());
        if incomplete {
            response.insert("incomplete_details".into(), json!({"reason": "max_output_tokens"}));
        }
        let counts = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        });
        response.insert("usage".into(), counts);
        response.into()
    }
}

impl Format for Writer {
    fn start(&mut self) -> Vec<SseEvent> {
        let response = || json!({"response": self.head.clone()});
        let (first, second) = (response(), response());
        vec![self.event("response.created", first), self.event("response.in_progress", second)]
    }

    fn piece(&mut self, piece: Piece) -> Vec<SseEvent> {
        let mut changes = Vec::new();
        let mut each = |blocks: &Blocks, change| {
            if let Some(block) = blocks.list.last() {
                changes.push((blocks.index(), block.clone(), change));
            }
        };
        self.answer.push(piece, &mut each);
        changes.into_iter().flat_map(|(i, block, change)| self.change(i, &block, change)).collect()
    }

    fn end(&mut self, usage: &Usage) -> Vec<SseEvent> {
        let response = self.whole(usage);
        let name = match response["status"].as_str() {
            Some("incomplete") => "response.incomplete",
            _ => "response.completed",
        };
        vec![self.event(name, json!({"response": response}))]
    }

    fn error(&mut self, error: &ApiError) -> SseEvent {
        let data = json!({"message": error.message, "code": error.code, "param": error.param});
        self.event("error", data)
    }

    fn refusal(error: &ApiError) -> SseEvent {
        let data = json!({"type": "error", "sequence_number": 0, "message": error.message,
            "code": error.code, "param": error.param});
        SseEvent { name: Some("error"), data }
    }

    fn says_done() -> bool {
        false
    }
}
