//! `POST /v1/embeddings`: texts to vectors.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TextUsage;
use super::completions::Prompt;
use crate::App;
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::encoders::Encoder;
use crate::error::{ApiError, ApiResult};

/// Texts of one request, at most (OpenAI API).
const MAX_TEXTS: usize = 2048;

/// Bytes of an answer that are given to the connection at once.
const PIECE: usize = 64 << 10;

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
    usage: TextUsage,
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

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    mut body: JsonBody,
) -> ApiResult<Response> {
    let request: EmbeddingsRequest = body.parse()?;
    let base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format is {other:?}; it can be float or base64");
            return Err(ApiError::field("encoding_format", message));
        }
    };
    let count = request.input.count();
    if count == 0 || count > MAX_TEXTS {
        let message = format!("{count} texts; a request has 1 to {MAX_TEXTS}");
        return Err(ApiError::field("input", message));
    }
    let lease = app.encoder(request.model.as_deref(), &tenant, &mut body).await?;
    let encoder = lease.model();
    if encoder.texts.scores_pairs() {
        let message = format!(
            "the model {} scores pairs of texts and makes no embeddings; use /v1/rerank",
            encoder.id
        );
        return Err(ApiError::field("model", message));
    }
    let width = request.dimensions.unwrap_or(encoder.dimensions).min(encoder.dimensions);
    // Before the work is done for nothing.
    let room = app.answer_room(&tenant, answer_bytes(count, width, base64))?;
    let (input, truncate) = (request.input, request.truncate == Some(true));
    let of = encoder.clone();
    let texts = app.blocking(move || {
        let _until_done = body;
        tokens(input, &of, truncate)
    });
    let texts = texts.await?;
    let (vectors, tokens) = lease.embed(&app, texts, request.dimensions).await?;
    let entry = move |(index, vector): (usize, Vec<f32>)| {
        let embedding = if base64 { in_base64(&vector) } else { Values::Floats(vector) };
        Embedding { object: "embedding", index, embedding }
    };
    let model = encoder.id.clone();
    // Some millions of numbers in words take their time.
    let answer = app.blocking(move || {
        let data = vectors.into_iter().enumerate().map(entry).collect();
        let usage = TextUsage::of(tokens);
        let answer = EmbeddingsResponse { object: "list", data, model, usage };
        serde_json::to_vec(&answer).map_err(|error| ApiError::internal(error.to_string()))
    });
    let bytes = Bytes::from(answer.await?);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CONTENT_LENGTH, bytes.len().into()),
    ];
    Ok((headers, in_pieces(bytes, (room, lease.under_way()))).into_response())
}

/// About the bytes of an answer of so many vectors, and hardly ever less.
fn answer_bytes(texts: usize, width: usize, base64: bool) -> usize {
    // A number such as -0.012345678, and its comma.
    let value = if base64 { 6 } else { 14 };
    texts.saturating_mul(width.saturating_mul(value).saturating_add(64))
}

/// A body that keeps `held` until it is read: the connection takes it piece by piece.
fn in_pieces(bytes: Bytes, held: impl Send + 'static) -> Body {
    Body::from_stream(stream::unfold((bytes, held), |(mut bytes, held)| async {
        let piece = bytes.split_to(bytes.len().min(PIECE));
        (!piece.is_empty()).then(|| (Ok::<_, Infallible>(piece), (bytes, held)))
    }))
}

/// The tokens of each text.
fn tokens(input: Prompt, encoder: &Encoder, truncate: bool) -> ApiResult<Vec<Vec<u32>>> {
    let (texts, lists) = match input {
        Prompt::Text(text) => (vec![text], Vec::new()),
        Prompt::Texts(texts) => (texts, Vec::new()),
        Prompt::Tokens(ids) => (Vec::new(), vec![ids]),
        Prompt::TokenLists(lists) => (Vec::new(), lists),
    };
    let text = |text: &String| encoder.texts.encode(text, truncate);
    let list = |ids: &Vec<u32>| encoder.texts.accept(ids, truncate);
    Ok(texts.iter().map(text).chain(lists.iter().map(list)).collect::<Result<_, _>>()?)
}

fn in_base64(vector: &[f32]) -> Values {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    Values::Base64(BASE64_STANDARD.encode(bytes))
}
