//! HTTP and JSON: the OpenAI API and its neighbours, in front of the engine.
//!
//! A [`model::Model`] has a [`service::Service`], the thread that owns its engine. [`api`] has the
//! routes: they make [`ferrum_engine::Request`]s of JSON ([`body`]), follow the answers
//! ([`answer`]) and write them as JSON or as a stream of events ([`sse`]). [`auth`] decides who may
//! ask, [`server`] has the connections and their limits, [`output`] makes tool calls and reasoning of
//! the text that a model writes, and [`web`] is the page in the browser.

pub mod answer;
pub mod api;
pub mod auth;
pub mod body;
pub mod config;
pub mod error;
pub mod metrics;
pub mod model;
pub mod output;
pub mod server;
pub mod service;
pub mod sse;
pub mod web;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::http::StatusCode;

pub use config::{Limits, ServerConfig};
pub use metrics::Metrics;
pub use model::{Model, ModelSpec, StartError};
pub use server::{ServeError, Server, Stop};

use auth::Gate;
use error::{ApiError, ApiResult};

/// What all routes share.
pub struct App {
    /// The models; the first is the one of requests that name none.
    pub models: Vec<Arc<Model>>,
    /// Bounds on what clients can cost.
    pub limits: Limits,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Whether the server is about to stop.
    pub draining: AtomicBool,
    gate: Gate,
}

impl App {
    /// An application that serves `models`.
    pub fn new(models: Vec<Arc<Model>>, metrics: Arc<Metrics>, config: ServerConfig) -> Self {
        let gate = Gate::new(&config);
        App { models, limits: config.limits, metrics, draining: AtomicBool::new(false), gate }
    }

    /// The model that a request means. Without a name, and by the name `default`, it is the first.
    pub fn model(&self, name: Option<&str>) -> ApiResult<Arc<Model>> {
        let found = match name {
            None | Some("" | "default") => self.models.first(),
            Some(name) => self.models.iter().find(|model| model.answers_to(name)),
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = self.models.iter().map(|model| model.id.as_str()).collect();
            let name = name.unwrap_or_default();
            let message = format!("there is no model '{name}'; there is {}", known.join(", "));
            ApiError {
                code: Some("model_not_found"),
                param: Some("model".into()),
                ..ApiError::new(StatusCode::NOT_FOUND, message)
            }
        })
    }

    /// Runs what takes processor time (templates, tokenizers) beside the threads that talk to
    /// clients.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(ApiError::internal(format!("the request failed: {error}"))),
        }
    }

    /// Requests that wait or run, or whose answers are being read.
    pub fn in_flight(&self) -> usize {
        self.models.iter().map(|model| model.service.in_flight()).sum()
    }
}
