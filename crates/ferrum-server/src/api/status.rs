//! `/health`, `/ready` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::App;
use crate::error::{ApiError, ApiResult};

/// Whether the engines live and make progress: what a supervisor restarts on.
pub async fn health(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    let hangs = |id: &str, what: &str, time: Duration| {
        let message = format!("{id} hangs: {what} runs for {} s", time.as_secs());
        if time > app.limits.stall { Err(ApiError::unavailable(message)) } else { Ok(()) }
    };
    if let Some(why) = app.models.failure() {
        return Err(ApiError::unavailable(why));
    }
    for model in app.models.resident() {
        hangs(&model.id, "a step", model.service.step_time())?;
    }
    for encoder in app.models.encoders() {
        hangs(&encoder.id, "a turn", encoder.turn_time())?;
    }
    Ok(Json(json!({"status": "ok"})))
}

/// Whether new requests are welcome: what a load balancer asks.
pub async fn ready(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    if app.models.is_closed() {
        return Err(ApiError::unavailable("the server is about to stop"));
    }
    health(State(app)).await
}

/// All counters.
pub async fn metrics(State(app): State<Arc<App>>) -> ApiResult<impl IntoResponse> {
    app.models.count();
    let text = app.metrics.text().map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
