//! `POST /v1/embeddings`: texts to vectors.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::completions::Prompt;
use crate::App;
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::encoders::Encoder;
use crate::error::{ApiError, ApiResult};

/// Texts of one request, at most (OpenAI API).
const MAX_TEXTS: usize = 2048;

/// What to embed.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct EmbeddingsRequest {
    #[serde(default)]
    model: Option<String>,
    /// A text, texts, token ids, or lists of token ids.
    input: Prompt,
    /// `float` or `base64`: how vectors are written.
    #[serde(default)]
    encoding_format: Option<String>,
    /// Only the first values of each vector.
    #[serde(default)]
    dimensions: Option<usize>,
    /// Whether texts that are longer than the model takes are cut instead of refused.
    #[serde(default)]
    truncate: Option<bool>,
}

/// What comes back, in the order of the texts.
#[derive(Debug, Serialize)]
struct EmbeddingsResponse {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Debug, Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Values,
}

/// A vector as it is written.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Values {
    Floats(Vec<f32>),
    /// The values' bytes, least significant first.
    Base64(String),
}

#[derive(Debug, Serialize)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    body: JsonBody,
) -> ApiResult<Response> {
    // A generating model is refused by its name before anything else of the request counts.
    let request: EmbeddingsRequest = body.parse()?;
    let encoder = app.encoder(request.model.as_deref())?;
    if encoder.texts.scores_pairs() {
        let message = format!(
            "the model {} scores pairs of texts and makes no embeddings; use /v1/rerank",
            encoder.id
        );
        return Err(ApiError::field("model", message));
    }
    let base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format is {other:?}; it can be float or base64");
            return Err(ApiError::field("encoding_format", message));
        }
    };
    let _seat = encoder.seat(&tenant)?;
    let (input, truncate) = (request.input, request.truncate == Some(true));
    let of = encoder.clone();
    let texts = app.blocking(move || {
        let _until_done = body;
        tokens(input, &of, truncate)
    });
    let texts = texts.await?;
    let count: usize = texts.iter().map(Vec::len).sum();
    let vectors = encoder.embed(&app, texts, request.dimensions).await?;
    let entry = move |(index, vector): (usize, Vec<f32>)| {
        let embedding = if base64 { in_base64(&vector) } else { Values::Floats(vector) };
        Embedding { object: "embedding", index, embedding }
    };
    let model = encoder.id.clone();
    // Some millions of numbers in words take their time.
    let answer = app.blocking(move || {
        let data = vectors.into_iter().enumerate().map(entry).collect();
        let usage = EmbeddingUsage { prompt_tokens: count, total_tokens: count };
        let answer = EmbeddingsResponse { object: "list", data, model, usage };
        serde_json::to_vec(&answer).map_err(|error| ApiError::internal(error.to_string()))
    });
    Ok(([(CONTENT_TYPE, "application/json")], answer.await?).into_response())
}

/// The tokens of each text.
fn tokens(input: Prompt, encoder: &Encoder, truncate: bool) -> ApiResult<Vec<Vec<u32>>> {
    let (texts, lists) = match input {
        Prompt::Text(text) => (vec![text], Vec::new()),
        Prompt::Texts(texts) => (texts, Vec::new()),
        Prompt::Tokens(ids) => (Vec::new(), vec![ids]),
        Prompt::TokenLists(lists) => (Vec::new(), lists),
    };
    let count = texts.len() + lists.len();
    if count == 0 || count > MAX_TEXTS {
        let message = format!("{count} texts; a request has 1 to {MAX_TEXTS}");
        return Err(ApiError::field("input", message));
    }
    let text = |text: &String| encoder.texts.encode(text, truncate);
    let list = |ids: &Vec<u32>| encoder.texts.accept(ids, truncate);
    Ok(texts.iter().map(text).chain(lists.iter().map(list)).collect::<Result<_, _>>()?)
}

fn in_base64(vector: &[f32]) -> Values {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    Values::Base64(BASE64_STANDARD.encode(bytes))
}
