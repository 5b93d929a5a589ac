//! `POST /v1/completions`: texts that are continued.

use std::ops::Range;
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
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Prompt::Text(_) | Prompt::Tokens(_) => 1,
            Prompt::Texts(texts) => texts.len(),
            Prompt::TokenLists(lists) => lists.len(),
        }
    }

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
    prompts: Vec<Prompted>,
    /// Choices to each prompt.
    n: usize,
    /// Choices that the engine answers: where nothing is generated, one stands for all.
    run: usize,
    echo: bool,
    logprobs: bool,
    include_usage: bool,
    /// Characters of each choice's text so far.
    offsets: Vec<usize>,
}

/// A prompt of which there may be several choices.
struct Prompted {
    tokens: Vec<u32>,
    /// Its log-probabilities, once its first choice has brought them: it is scored once. Empty
    /// where nobody asks for them.
    scores: Option<Vec<Option<TokenLogprobs>>>,
    /// What came of other choices before that.
    held: Vec<Piece>,
}

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    body: JsonBody,
) -> ApiResult<Response> {
    let (own, params): (CompletionRequest, GenerationParams) = body.parse_both()?;
    let (stream, keep_alive) = (params.is_stream(), app.limits.keep_alive);
    let begin = begin(app, tenant, body, own, params);
    if stream {
        return sse::response(begin, keep_alive).await;
    }
    let (running, mut writer) = begin.await?;
    let (wholes, usage) = collect(running).await?;
    let mut response = writer.whole(wholes);
    response["usage"] = usage_json(&usage);
    Ok(Json(response).into_response())
}

/// Puts the request to the engine.
async fn begin(
    app: Arc<App>,
    tenant: Tenant,
    mut body: JsonBody,
    own: CompletionRequest,
    params: GenerationParams,
) -> ApiResult<(Running, Writer)> {
    let lease = app.lease(params.model.as_deref(), &tenant, &mut body).await?;
    let model = lease.model().clone();
    let name = lease.name().to_string();
    let (writer, requests) = app
        .blocking({
            let (limit, model, tenant) = (app.limits.choices, model.clone(), tenant.clone());
            move || {
                let _until_done = body;
                plan(own, params, (model, &name), &tenant, limit)
            }
        })
        .await?;
    let answers = model.service.submit(requests, lease, &tenant)?;
    let running = Running::accepted(answers, writer.prompts.len(), writer.run).await?;
    Ok((running, writer))
}

/// Checks the request and makes the engine's requests of it.
fn plan(
    own: CompletionRequest,
    mut params: GenerationParams,
    (model, name): (Arc<Model>, &str),
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
    let max_tokens = params.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    let sized = GenerationParams { max_tokens: Some(max_tokens), ..params.clone() };
    let prompts = own.prompt.into_tokens(&model).into_iter();
    let prompts: Vec<Vec<u32>> =
        prompts.map(|prompt| sized.truncated(prompt, model.context)).collect::<ApiResult<_>>()?;
    let form = params.form(None)?;
    let compile = |form: Form| model.compile(&form.grammar, form.param);
    let constraint = form.map(compile).transpose()?;
    if prompts.is_empty() {
        return Err(ApiError::field("prompt", "there is no prompt"));
    }
    let n = params.choices(prompts.len(), limit)?;
    let echo = own.echo == Some(true);
    if let Some(likeliest) = own.logprobs.filter(|_| echo) {
        check_logprobs(prompts.iter().map(Vec::len).sum(), n, likeliest)?;
    }
    let run = if max_tokens == 0 { 1 } else { n };
    // Without an answer, the prompt's own probabilities are all there is to compute.
    let scored = own.logprobs.or((max_tokens == 0).then_some(0)).filter(|_| echo);
    let mut requests = Vec::with_capacity(prompts.len() * run);
    for prompt in &prompts {
        for choice in 0..run {
            let mut request = params.request(prompt.clone(), choice, tenant)?;
            request.max_tokens = Some(max_tokens);
            request.logprobs = own.logprobs;
            request.constraint = constraint.clone();
            request.prompt_logprobs = scored.filter(|_| choice == 0);
            requests.push(request);
        }
    }
    let prompted =
        |tokens| Prompted { tokens, scores: scored.is_none().then(Vec::new), held: Vec::new() };
    let writer = Writer {
        head: Head::new("cmpl", "text_completion", name),
        offsets: vec![0; prompts.len() * n],
        model,
        prompts: prompts.into_iter().map(prompted).collect(),
        n,
        run,
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

    /// The response to a request whose answers have ended.
    fn whole(&mut self, mut wholes: Vec<Whole>) -> Value {
        for (prompt, first) in self.prompts.iter_mut().zip(wholes.iter_mut().step_by(self.run)) {
            prompt.scores.get_or_insert_with(|| std::mem::take(&mut first.prompt));
        }
        let choices = wholes.into_iter().enumerate().flat_map(|(i, whole)| {
            let all: Vec<Value> =
                self.indices(i).map(|index| self.choice(index, whole.clone())).collect();
            all
        });
        let choices = choices.collect();
        self.object(choices)
    }

    /// The choices that the one of this place in the engine stands for.
    fn indices(&self, run: usize) -> Range<usize> {
        if self.run == self.n { run..run + 1 } else { run * self.n..(run + 1) * self.n }
    }

    fn choice(&mut self, index: usize, whole: Whole) -> Value {
        let echo = if self.echo { self.echoed(index) } else { String::new() };
        let logprobs = self.prompt_and_answer(index, true, whole.logprobs.iter());
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
        let prompt = self.prompts.get(index / self.n);
        prompt.map(|p| self.model.tokenizer.decode(&p.tokens)).unwrap_or_default()
    }

    /// Log-probabilities of tokens that follow the text so far, after those of the prompt if they
    /// are to come and there are any.
    fn prompt_and_answer<'a>(
        &mut self,
        index: usize,
        with_prompt: bool,
        answer: impl Iterator<Item = &'a TokenLogprobs>,
    ) -> Option<Value> {
        if !self.logprobs {
            return None;
        }
        let model = self.model.clone();
        let prompt = self.prompts.get(index / self.n).filter(|_| with_prompt);
        let mut out = CompletionLogprobs::default();
        let mut offset = self.offsets[index];
        let width = |token| model.tokenizer.token_text(token).map_or(0, |t| t.chars().count());
        if let Some(prompt) = prompt {
            for (&token, logprobs) in prompt.tokens.iter().zip(prompt.scores.iter().flatten()) {
                out.push(&model, token, logprobs.as_ref(), offset);
                offset += width(token);
            }
        }
        for logprobs in answer {
            out.push(&model, logprobs.token, Some(logprobs), offset);
            offset += width(logprobs.token);
        }
        self.offsets[index] = offset;
        Some(out.into_json())
    }

    /// The events of a piece of the choice at `index`.
    fn events(&mut self, index: usize, piece: &Piece) -> Vec<SseEvent> {
        let begins = self.echo && piece.prompt.is_some();
        let echo = if begins { self.echoed(index) } else { String::new() };
        if echo.is_empty()
            && piece.text.is_empty()
            && piece.logprobs.is_none()
            && piece.end.is_none()
        {
            return Vec::new();
        }
        let logprobs = match begins || piece.logprobs.is_some() {
            true => self.prompt_and_answer(index, begins, piece.logprobs.iter()),
            false => None,
        };
        let choice = json!({
            "index": index,
            "text": echo + &piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.end.as_ref().map(|end| end.finish_reason()),
        });
        vec![self.chunk(vec![choice])]
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

    fn piece(&mut self, mut piece: Piece) -> Vec<SseEvent> {
        let Some(prompt) = self.prompts.get_mut(piece.choice / self.run) else { return Vec::new() };
        let mut pieces = Vec::new();
        if prompt.scores.is_none() {
            match &mut piece.prompt {
                Some(scores) if piece.choice.is_multiple_of(self.run) => {
                    prompt.scores = Some(std::mem::take(scores));
                    pieces = std::mem::take(&mut prompt.held);
                }
                _ => {
                    prompt.held.push(piece);
                    return Vec::new();
                }
            }
        }
        pieces.push(piece);
        let mut out = Vec::new();
        for piece in pieces {
            for index in self.indices(piece.choice) {
                out.extend(self.events(index, &piece));
            }
        }
        out
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
