//! `/tokenize`, `/detokenize`, `/apply-template` and `/tokenizer_info`, with the fields of
//! llama-server and of vLLM.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use ferrum_models::chat::{OwnedSegment, RenderOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::messages::{ChatMessage, to_messages};
use crate::App;
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::model::Model;

/// What to tokenize: a text or a conversation.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct TokenizeRequest {
    model: Option<String>,
    #[serde(alias = "prompt")]
    content: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    /// Whether the beginning-of-text token is put in front.
    #[serde(alias = "add_special_tokens")]
    add_special: Option<bool>,
    /// Whether the texts of special tokens become these tokens.
    parse_special: Option<bool>,
    /// Whether each token comes with its text.
    #[serde(alias = "return_token_strs")]
    with_pieces: Option<bool>,
    add_generation_prompt: Option<bool>,
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// `POST /tokenize`
pub async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    mut body: JsonBody,
) -> ApiResult<Json<Value>> {
    let request: TokenizeRequest = body.parse()?;
    let lease = app.lease(request.model.as_deref(), &tenant, &mut body).await?;
    let model = lease.model().clone();
    app.blocking(move || {
        let pieces = request.with_pieces == Some(true);
        let tokens = tokens(request, &model)?;
        let piece = |&id: &u32| json!({"id": id, "piece": model.token_name(id)});
        let list: Value = match pieces {
            true => tokens.iter().map(piece).collect(),
            false => tokens.iter().copied().collect(),
        };
        let count = tokens.len();
        Ok(Json(json!({"tokens": list, "count": count, "max_model_len": model.context})))
    })
    .await
}

fn tokens(request: TokenizeRequest, model: &Model) -> ApiResult<Vec<u32>> {
    match (request.content, request.messages) {
        (Some(text), None) => {
            let mut tokens = match request.parse_special {
                Some(false) => model.tokenizer.encode_text(&text),
                _ => model.tokenizer.encode_markup(&text),
            };
            // vLLM's default; llama-server's is off. What a completion would read is the better.
            if request.add_special != Some(false) {
                tokens = model.with_bos(tokens);
            }
            Ok(tokens)
        }
        (None, Some(messages)) => {
            let add = request.add_generation_prompt.unwrap_or(true);
            let extra = request.chat_template_kwargs.unwrap_or_default();
            Ok(model.encode(&rendered(model, messages, add, extra)?))
        }
        _ => Err(ApiError::invalid("give either content (or prompt) or messages")),
    }
}

fn rendered(
    model: &Model,
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    extra: Map<String, Value>,
) -> ApiResult<Vec<OwnedSegment>> {
    let options =
        RenderOptions { add_generation_prompt, extra, ..RenderOptions::answer(super::now()) };
    model.render(&to_messages(messages)?, &options)
}

/// Tokens to turn into text.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct DetokenizeRequest {
    #[serde(default)]
    model: Option<String>,
    tokens: Vec<u32>,
}

/// `POST /detokenize`
pub async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    mut body: JsonBody,
) -> ApiResult<Json<Value>> {
    let request: DetokenizeRequest = body.parse()?;
    let lease = app.lease(request.model.as_deref(), &tenant, &mut body).await?;
    let model = lease.model();
    let size = model.tokenizer.vocab_size();
    if let Some(id) = request.tokens.iter().find(|&&id| id as usize >= size) {
        return Err(ApiError::field("tokens", format!("there is no token {id}")));
    }
    let text = model.tokenizer.decode(&request.tokens);
    Ok(Json(json!({"content": text, "prompt": text})))
}

/// A conversation to turn into a prompt.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct TemplateRequest {
    #[serde(default)]
    model: Option<String>,
    messages: Vec<ChatMessage>,
    #[serde(default)]
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// `POST /apply-template`
pub async fn apply_template(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    mut body: JsonBody,
) -> ApiResult<Json<Value>> {
    let request: TemplateRequest = body.parse()?;
    let lease = app.lease(request.model.as_deref(), &tenant, &mut body).await?;
    let model = lease.model().clone();
    app.blocking(move || {
        let add = request.add_generation_prompt.unwrap_or(true);
        let extra = request.chat_template_kwargs.unwrap_or_default();
        let rendered = rendered(&model, request.messages, add, extra)?;
        let prompt: String = rendered.iter().map(OwnedSegment::text).collect();
        Ok(Json(json!({"prompt": prompt})))
    })
    .await
}

/// `GET /tokenizer_info`: what lm-eval needs to tokenize by the server, of the first model.
pub async fn info(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
) -> ApiResult<Json<Value>> {
    let lease = app.lease(None, &tenant, &mut JsonBody::default()).await?;
    let model = lease.model();
    let tokenizer = &model.tokenizer;
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
    Ok(Json(json!({
        "bos_token": text(tokenizer.bos()),
        "eos_token": text(tokenizer.eos()),
        "add_bos_token": tokenizer.add_bos(),
        "add_eos_token": tokenizer.add_eos(),
        "model_max_length": model.context,
        "chat_template": model.template.as_ref().map(|template| template.source()),
    })))
}
