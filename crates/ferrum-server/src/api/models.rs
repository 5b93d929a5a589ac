//! `GET /v1/models`, and routes about abilities that the loaded models lack.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::models::{Models, Offer};
use crate::residency::Place;

/// The model as OpenAI's API has it, with whether it is loaded as a flag and
/// in llama-server's way.
fn object(models: &Models, offer: &Offer, place: Place) -> Value {
    let status = match place {
        Place::In => "loaded",
        Place::Loading => "loading",
        Place::Out | Place::Leaving => "unloaded",
    };
    json!({
        "id": offer.id,
        "object": "model",
        "created": models.created(),
        "owned_by": "ferrum",
        "max_model_len": offer.context,
        "aliases": offer.aliases,
        "loaded": place == Place::In,
        "status": {"value": status},
    })
}

fn objects(models: &Models) -> Vec<Value> {
    let both = models.offers().iter().zip(models.places());
    both.map(|(offer, place)| object(models, offer, place)).collect()
}

/// All models.
pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"object": "list", "data": objects(&app.models)}))
}

/// One model.
pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let index = app.models.find(Some(&id))?;
    Ok(Json(objects(&app.models).swap_remove(index)))
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
    let offer = &app.models.offers()[app.models.find(request.model.as_deref())?];
    let message = format!("the model {} generates text; it makes no embeddings", offer.id);
    Err(ApiError::field("model", message))
}
