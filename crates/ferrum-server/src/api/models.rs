//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Map, Value, json};

use crate::App;
use crate::error::ApiResult;
use crate::models::{Models, Offer};
use crate::residency::Place;

/// The model as OpenAI's API has it, with whether it is loaded as a flag and
/// in llama-server's way.
fn object(models: &Models, offer: &Offer, place: Place) -> Map<String, Value> {
    let status = match place {
        Place::In => "loaded",
        Place::Loading => "loading",
        Place::Out | Place::Leaving => "unloaded",
    };
    let value = json!({
        "id": offer.id,
        "object": "model",
        "created": models.created(),
        "owned_by": "ferrum",
        "parent": null,
        "max_model_len": offer.context,
        "aliases": offer.aliases,
        "loaded": place == Place::In,
        "status": {"value": status},
    });
    let mut object = match value {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    if let Some(dimensions) = offer.dimensions() {
        object.insert("dimensions".into(), dimensions.into());
    }
    object
}

/// The models, each followed by its adapters, which name it as their parent, as vLLM lists them.
fn objects(models: &Models) -> Vec<Value> {
    let mut all = Vec::new();
    for (offer, place) in models.offers().iter().zip(models.places()) {
        let model = object(models, offer, place);
        let adapter = |name: &String| {
            let mut adapter = model.clone();
            adapter.insert("id".into(), name.as_str().into());
            adapter.insert("parent".into(), offer.id.as_str().into());
            adapter.insert("aliases".into(), json!([]));
            Value::Object(adapter)
        };
        let adapters: Vec<Value> = offer.adapters.iter().map(adapter).collect();
        all.push(Value::Object(model));
        all.extend(adapters);
    }
    all
}

/// All models.
pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"object": "list", "data": objects(&app.models)}))
}

/// One model.
pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let index = app.models.find(Some(&id), false)?;
    let offer = &app.models.offers()[index];
    let meant = if offer.adapter(Some(&id)) > 0 { &id } else { &offer.id };
    let found = objects(&app.models).into_iter().find(|object| object["id"] == *meant.as_str());
    Ok(Json(found.unwrap_or_default()))
}
