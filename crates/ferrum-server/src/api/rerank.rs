//! `POST /v1/rerank`: documents in the order of what they say of a query, by a cross-encoder. The
//! shape is that of Jina and Cohere, which vLLM and llama.cpp's server have too.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use ferrum_models::encoder::Pair;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TextUsage;
use crate::App;
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};

/// Documents of one request, at most.
const MAX_DOCUMENTS: usize = 2048;

/// What to put in order.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct RerankRequest {
    #[serde(default)]
    model: Option<String>,
    /// What is asked.
    query: String,
    /// The texts that may answer it.
    documents: Vec<Document>,
    /// Only so many of the best.
    #[serde(default)]
    top_n: Option<usize>,
    /// Whether results have the texts again; by default they do not.
    #[serde(default)]
    return_documents: Option<bool>,
    /// Whether a document that is too long beside its query is cut instead of refused.
    #[serde(default)]
    truncate: Option<bool>,
}

/// A text, alone or as an object.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged, deny_unknown_fields)]
enum Document {
    Text(String),
    Object { text: String },
}

impl Document {
    fn text(&self) -> &str {
        match self {
            Document::Text(text) | Document::Object { text } => text,
        }
    }
}

/// What comes back.
#[derive(Debug, Serialize)]
pub struct RerankResponse {
    object: &'static str,
    model: String,
    results: Vec<RankedDocument>,
    usage: TextUsage,
}

/// A document, the best first.
#[derive(Debug, Serialize)]
struct RankedDocument {
    /// Its place among the documents of the request.
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<ReturnedDocument>,
}

#[derive(Debug, Serialize)]
struct ReturnedDocument {
    text: String,
}

/// Answers.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    mut body: JsonBody,
) -> ApiResult<Json<RerankResponse>> {
    let request: RerankRequest = body.parse()?;
    let RerankRequest { model, query, documents, top_n, return_documents, truncate } = request;
    let count = documents.len();
    if count == 0 || count > MAX_DOCUMENTS {
        let message = format!("{count} documents; a request has 1 to {MAX_DOCUMENTS}");
        return Err(ApiError::field("documents", message));
    }
    if top_n == Some(0) {
        return Err(ApiError::field("top_n", "top_n is 0; it must be at least 1"));
    }
    let lease = app.encoder(model.as_deref(), &tenant, &mut body).await?;
    let encoder = lease.model();
    if !encoder.texts.scores_pairs() {
        let message = format!(
            "the model {} makes embeddings and scores no pairs of texts; use /v1/embeddings",
            encoder.id
        );
        return Err(ApiError::field("model", message));
    }
    let of = encoder.clone();
    let (documents, pairs) = app
        .blocking(move || {
            let _until_done = body;
            let pair = |document: &Document| {
                let pair = of.texts.encode_pair(&query, document.text(), truncate == Some(true));
                pair.map_err(|error| ApiError {
                    param: Some("documents".into()),
                    ..ApiError::from(error)
                })
            };
            let pairs: Vec<Pair> = documents.iter().map(pair).collect::<ApiResult<_>>()?;
            Ok((documents, pairs))
        })
        .await?;
    let (scores, tokens) = lease.embed(&app, pairs, None).await?;
    let mut results: Vec<RankedDocument> = (scores.iter().flatten().enumerate())
        .map(|(index, &relevance_score)| RankedDocument { index, relevance_score, document: None })
        .collect();
    // Of equal ones the first stays first.
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(top_n.unwrap_or(count));
    if return_documents == Some(true) {
        for result in &mut results {
            let text = documents[result.index].text().to_string();
            result.document = Some(ReturnedDocument { text });
        }
    }
    let usage = TextUsage::of(tokens);
    let model = encoder.id.clone();
    Ok(Json(RerankResponse { object: "list", model, results, usage }))
}
