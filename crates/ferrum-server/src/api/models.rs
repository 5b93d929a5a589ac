//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::App;
use crate::error::ApiResult;
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
    let mut object = json!({
        "id": offer.id,
        "object": "model",
        "created": models.created(),
        "owned_by": "ferrum",
        "max_model_len": offer.context,
        "aliases": offer.aliases,
        "loaded": place == Place::In,
        "status": {"value": status},
    });
    if let Some(dimensions) = offer.dimensions() {
        object["dimensions"] = dimensions.into();
    }
    object
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
    let index = app.models.find(Some(&id), false)?;
    Ok(Json(objects(&app.models).swap_remove(index)))
}
