//! `POST /v1/completions`: texts that are continued.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ferrum_engine::{Request, TokenLogprobs, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::form::Form;
use super::logprobs::CompletionLogprobs;
use super::params::GenerationParams;
use super::{Head, usage_json};
use crate::App;
use crate::answer::{Piece, Running, Whole, collect};
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::model::Model;
use crate::sse::{self, Format, SseEvent};

/// Tokens of an answer where the request does not say (OpenAI API).
const DEFAULT_MAX_TOKENS: usize = 16;

/// Log-probabilities of the prompts of a request, at most: each takes a hundred bytes and more.
const MAX_PROMPT_LOGPROBS: usize = 1_000_000;

/// The fields of this route alone.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct CompletionRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// Whether the answer begins with the prompt.
    #[serde(default)]
    pub echo: Option<bool>,
    /// Likeliest tokens whose log-probabilities come with each token.
    #[serde(default)]
    pub logprobs: Option<usize>,
    /// Candidates of which the best are returned; only as many as `n` are supported.
    #[serde(default)]
    pub best_of: Option<usize>,
    /// Text after the answer; only an empty one is supported.
    #[serde(default)]
    pub suffix: Option<String>,
}

/// One prompt or several, as text or as tokens.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "expected a text, token ids, or a list of either")]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

impl Prompt {
    fn into_tokens(self, model: &Model) -> Vec<Vec<u32>> {
        match self {
            Prompt::Text(text) => vec![model.encode_raw(&text)],
            Prompt::Texts(texts) => texts.iter().map(|text| model.encode_raw(text)).collect(),
            Prompt::Tokens(tokens) => vec![tokens],
            Prompt::TokenLists(lists) => lists,
        }
    }
}

/// What the answers are written with.
struct Writer {
    head: Head,
    model: Arc<Model>,
    prompts: Vec<Vec<u32>>,
    n: usize,
    echo: bool,
    logprobs: bool,
    include_usage: bool,
    /// Characters of each choice's text so far.
    offsets: Vec<usize>,
}

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    body: JsonBody,
) -> ApiResult<Response> {
    let (own, params): (CompletionRequest, GenerationParams) = body.parse_both()?;
    let model = app.model(params.model.as_deref())?;
    let stream = params.is_stream();
    let (mut writer, requests) = app
        .blocking({
            let (limit, model, tenant) = (app.limits.choices, model.clone(), tenant.clone());
            move || plan(own, params, model, &tenant, limit)
        })
        .await?;
    let answers = model.service.submit(requests, &tenant)?;
    let running = Running::accepted(answers, writer.prompts.len(), writer.n).await?;
    if stream {
        return Ok(sse::response(running, writer, app.limits.keep_alive));
    }
    let (wholes, usage) = collect(running).await?;
    let choices =
        wholes.into_iter().enumerate().map(|(i, whole)| writer.choice(i, whole)).collect();
    let mut response = writer.object(choices);
    response["usage"] = usage_json(&usage);
    Ok(Json(response).into_response())
}

/// Checks the request and makes the engine's requests of it.
fn plan(
    own: CompletionRequest,
    mut params: GenerationParams,
    model: Arc<Model>,
    tenant: &Tenant,
    limit: usize,
) -> ApiResult<(Writer, Vec<Request>)> {
    params.check()?;
    if own.best_of.is_some_and(|best| best != params.n.unwrap_or(1)) {
        return Err(ApiError::unsupported("best_of", "another value than n"));
    }
    if own.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::unsupported("suffix", "text after the answer"));
    }
    let form = params.form(None)?;
    let compile = |form: Form| model.compile(&form.grammar, form.param);
    let constraint = form.map(compile).transpose()?;
    let prompts = own.prompt.into_tokens(&model);
    if prompts.is_empty() {
        return Err(ApiError::field("prompt", "there is no prompt"));
    }
    let n = params.choices(prompts.len(), limit)?;
    let echo = own.echo == Some(true);
    if let Some(likeliest) = own.logprobs.filter(|_| echo) {
        check_logprobs(prompts.iter().map(Vec::len).sum(), n, likeliest)?;
    }
    let mut requests = Vec::with_capacity(prompts.len() * n);
    for prompt in &prompts {
        for choice in 0..n {
            let mut request = params.request(prompt.clone(), choice, tenant)?;
            let max_tokens = request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
            request.max_tokens = Some(max_tokens);
            request.logprobs = own.logprobs;
            request.constraint = constraint.clone();
            // Without an answer, the prompt's own probabilities are all there is to compute.
            let scored = own.logprobs.or((max_tokens == 0).then_some(0));
            request.prompt_logprobs = scored.filter(|_| echo);
            requests.push(request);
        }
    }
    let writer = Writer {
        head: Head::new("cmpl", "text_completion", &model),
        offsets: vec![0; prompts.len() * n],
        model,
        prompts,
        n,
        echo,
        logprobs: own.logprobs.is_some(),
        include_usage: params.include_usage(),
    };
    Ok((writer, requests))
}

/// Fails where `n` choices of prompts of `tokens` tokens in all, each with itself and its
/// `likeliest`, are too many log-probabilities.
fn check_logprobs(tokens: usize, n: usize, likeliest: usize) -> ApiResult<()> {
    let entries = tokens.saturating_mul(n).saturating_mul(likeliest.saturating_add(1));
    if entries <= MAX_PROMPT_LOGPROBS {
        return Ok(());
    }
    let message = format!(
        "echo with logprobs: {entries} log-probabilities of prompts; at most {MAX_PROMPT_LOGPROBS}"
    );
    Err(ApiError::field("logprobs", message))
}

impl Writer {
    fn object(&self, choices: Vec<Value>) -> Value {
        self.head.object(choices)
    }

    fn choice(&mut self, index: usize, whole: Whole) -> Value {
        let echo = if self.echo { self.echoed(index) } else { String::new() };
        let logprobs = self.prompt_and_answer(index, &whole.prompt, whole.logprobs.iter());
        let reason = whole.end.map(|end| end.finish_reason());
        json!({
            "index": index,
            "text": echo + &whole.text,
            "logprobs": logprobs,
            "finish_reason": reason,
        })
    }

    /// The text of a choice's prompt.
    fn echoed(&self, index: usize) -> String {
        self.prompts.get(index / self.n).map(|p| self.model.tokenizer.decode(p)).unwrap_or_default()
    }

    /// Log-probabilities of a prompt, if there are any, and of tokens that follow the text so far.
    fn prompt_and_answer<'a>(
        &mut self,
        index: usize,
        prompt: &[Option<TokenLogprobs>],
        answer: impl Iterator<Item = &'a TokenLogprobs>,
    ) -> Option<Value> {
        if !self.logprobs {
            return None;
        }
        let model = self.model.clone();
        let tokens = self.prompts.get(index / self.n).map(Vec::as_slice).unwrap_or_default();
        let mut out = CompletionLogprobs::default();
        let mut offset = self.offsets[index];
        let width = |token| model.tokenizer.token_text(token).map_or(0, |t| t.chars().count());
        for (&token, logprobs) in tokens.iter().zip(prompt) {
            out.push(&model, token, logprobs.as_ref(), offset);
            offset += width(token);
        }
        for logprobs in answer {
            out.push(&model, logprobs.token, Some(logprobs), offset);
            offset += width(logprobs.token);
        }
        self.offsets[index] = offset;
        Some(out.into_json())
    }

    /// A chunk of a stream. All but the last say that the counts are still to come.
    fn chunk(&self, choices: Vec<Value>) -> SseEvent {
        let mut chunk = self.object(choices);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk.into()
    }
}

impl Format for Writer {
    fn start(&mut self) -> Vec<SseEvent> {
        Vec::new()
    }

    fn piece(&mut self, piece: Piece) -> Vec<SseEvent> {
        let index = piece.choice;
        let echo = match &piece.prompt {
            Some(_) if self.echo => self.echoed(index),
            _ => String::new(),
        };
        let prompt = piece.prompt.unwrap_or_default();
        if echo.is_empty()
            && piece.text.is_empty()
            && piece.logprobs.is_none()
            && piece.end.is_none()
        {
            return Vec::new();
        }
        let logprobs = match prompt.is_empty() && piece.logprobs.is_none() {
            true => None,
            false => self.prompt_and_answer(index, &prompt, piece.logprobs.iter()),
        };
        let choice = json!({
            "index": index,
            "text": echo + &piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.end.map(|end| end.finish_reason()),
        });
        vec![self.chunk(vec![choice])]
    }

    fn end(&mut self, usage: &Usage) -> Vec<SseEvent> {
        if !self.include_usage {
            return Vec::new();
        }
        let mut last = self.object(Vec::new());
        last["usage"] = usage_json(usage);
        vec![last.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_of_prompts_are_bounded() {
        assert!(check_logprobs(4096, 2, 20).is_ok());
        let error = check_logprobs(100_000, 8, 20).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("logprobs"));
        assert!(check_logprobs(usize::MAX, 2, usize::MAX).is_err());
    }
}
