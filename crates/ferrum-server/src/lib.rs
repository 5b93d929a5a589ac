//! HTTP and JSON: the OpenAI API and its neighbours, in front of the engine.
//!
//! [`models`] has the models that generate, of which as many are loaded as memory allows
//! ([`residency`]); [`encoders`] has those that make embeddings. A
//! [`model::Model`] has a [`service::Service`], the thread that owns its engine. [`api`] has the
//! routes: they make [`ferrum_engine::Request`]s of JSON ([`body`]), follow the answers
//! ([`answer`]) and write them as JSON or as a stream of events ([`sse`]). [`auth`] decides who may
//! ask, [`server`] has the connections and their limits, [`output`] makes tool calls and reasoning of
//! the text that a model writes, and [`web`] is the page in the browser.

pub mod answer;
pub mod api;
pub mod auth;
pub mod body;
pub mod config;
pub mod encoders;
pub mod error;
pub mod metrics;
pub mod model;
pub mod models;
pub mod output;
pub mod residency;
pub mod server;
pub mod service;
pub mod sse;
pub mod web;

use std::sync::Arc;

use tokio::sync::Semaphore;

pub use config::{Limits, ServerConfig};
pub use encoders::Encoder;
pub use metrics::Metrics;
pub use model::{Model, ModelSpec, StartError};
pub use models::{Lease, Models, ModelsConfig, Offer, OfferError};
pub use server::{ServeError, Server, Stop};

use auth::Gate;
use error::{ApiError, ApiResult};

/// What all routes share.
pub struct App {
    /// The models; the first is the one of requests that name none.
    pub models: Models,
    /// Those that make embeddings.
    pub encoders: Vec<Arc<Encoder>>,
    /// Bounds on what clients can cost.
    pub limits: Limits,
    /// All counters.
    pub metrics: Metrics,
    gate: Gate,
    /// One permit for each byte of bodies that are read and not yet made into requests.
    bodies: Arc<Semaphore>,
}

impl App {
    /// An application that serves `models`, which count by `metrics`.
    pub fn new(models: Models, metrics: Metrics, config: ServerConfig) -> Self {
        let gate = Gate::new(&config);
        let limits = config.limits;
        let bodies = limits.bodies_bytes.max(limits.body_bytes).min(Semaphore::MAX_PERMITS);
        App {
            models,
            encoders: Vec::new(),
            limits,
            metrics,
            gate,
            bodies: Arc::new(Semaphore::new(bodies)),
        }
    }

    /// The same with models that make embeddings, of other names than those of `models`.
    pub fn with_encoders(self, encoders: Vec<Encoder>) -> Self {
        App { encoders: encoders.into_iter().map(Arc::new).collect(), ..self }
    }

    /// The model that a request for embeddings means: without a name it is the first that makes
    /// some.
    pub fn encoder(&self, name: Option<&str>) -> ApiResult<Arc<Encoder>> {
        let found = match name {
            None | Some("" | "default") => self.encoders.first(),
            Some(name) => self.encoders.iter().find(|encoder| encoder.answers_to(name)),
        };
        if let Some(encoder) = found {
            return Ok(encoder.clone());
        }
        let offer = &self.models.offers()[self.models.find(name)?];
        let message = format!("the model {} generates text; it makes no embeddings", offer.id);
        Err(ApiError::field("model", message))
    }

    /// A lease on the model that a request means.
    pub async fn lease(&self, name: Option<&str>) -> ApiResult<Lease> {
        let named = |encoder: &&Arc<Encoder>| match name {
            None | Some("" | "default") => self.models.offers().is_empty(),
            Some(name) => encoder.answers_to(name),
        };
        if let Some(encoder) = self.encoders.iter().find(named) {
            let message = format!(
                "the model {} makes embeddings and generates no text; use /v1/embeddings",
                encoder.id
            );
            return Err(ApiError::field("model", message));
        }
        let index = self.models.find(name)?;
        let adapter = self.models.offers()[index].adapter(name);
        Ok(self.models.lease(index).await?.with_adapter(adapter))
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

    /// Requests that wait or run in an engine, or whose answers are being read.
    pub fn in_flight(&self) -> usize {
        let encoders = self.encoders.iter().map(|encoder| encoder.in_flight());
        let models = self.models.resident();
        models.iter().map(|model| model.service.in_flight()).chain(encoders).sum()
    }
}
