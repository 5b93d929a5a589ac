//! `/health`, `/ready` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use ferrum_engine::EngineStats;
use serde_json::{Value, json};

use crate::App;
use crate::error::{ApiError, ApiResult};

/// Whether the engines live and make progress: what a supervisor restarts on.
pub async fn health(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    for model in &app.models {
        if !model.service.is_alive() {
            return Err(ApiError::unavailable(format!("the engine of {} has stopped", model.id)));
        }
        let time = model.service.step_time();
        if time > app.limits.stall {
            let message = format!("{} hangs: a step runs for {} s", model.id, time.as_secs());
            return Err(ApiError::unavailable(message));
        }
    }
    Ok(Json(json!({"status": "ok"})))
}

/// Whether new requests are welcome: what a load balancer asks.
pub async fn ready(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    if app.draining.load(Ordering::Acquire) {
        return Err(ApiError::unavailable("the server is about to stop"));
    }
    health(State(app)).await
}

/// All counters.
pub async fn metrics(State(app): State<Arc<App>>) -> ApiResult<impl IntoResponse> {
    let stats = app.models.first().map_or_else(EngineStats::default, |m| m.service.stats());
    let text = app.metrics.text(&stats).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
