//! `GET /v1/models`, and routes about abilities that the loaded models lack.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::model::Model;

fn object(model: &Model) -> Value {
    json!({
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "ferrum",
        "max_model_len": model.context,
        "aliases": model.aliases,
    })
}

/// All models.
pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.models.iter().map(|model| object(model)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One model.
pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let model = app.model(Some(&id))?;
    Ok(Json(object(&model)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EmbeddingsRequest {
    model: Option<String>,
}

/// `POST /v1/embeddings`: no model of ours makes embeddings yet.
pub async fn embeddings(State(app): State<Arc<App>>, body: JsonBody) -> ApiResult<Json<Value>> {
    let value: Value = body.parse()?;
    let request = EmbeddingsRequest::deserialize(value)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let model = app.model(request.model.as_deref())?;
    let message = format!("the model {} generates text; it makes no embeddings", model.id);
    Err(ApiError::field("model", message))
}
