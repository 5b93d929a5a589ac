//! HTTP and JSON: the OpenAI API and its neighbours, in front of the engine.
//!
//! [`models`] has the models, of which as many are loaded as memory allows ([`residency`]), and
//! [`leases`] keep them there; [`encoders`] are those that make embeddings. A
//! [`model::Model`] has a [`service::Service`], the thread that owns its engine. [`api`] has the
//! routes: they make [`ferrum_engine::Request`]s of JSON ([`body`]), follow the answers
//! ([`answer`]) and write them as JSON or as a stream of events ([`sse`]). [`auth`] decides who may
//! ask, [`server`] has the connections and their limits, [`output`] makes tool calls and reasoning of
//! the text that a model writes, and [`web`] is the page in the browser.

pub mod answer;
pub mod api;
pub mod auth;
pub mod body;
pub mod budget;
pub mod clock;
pub mod config;
pub mod encoders;
pub mod error;
pub mod leases;
pub mod metrics;
pub mod model;
pub mod models;
pub mod output;
pub mod residency;
pub mod resident;
pub mod server;
pub mod service;
pub mod sse;
pub mod web;

use std::sync::Arc;

pub use config::{Limits, ServerConfig};
pub use encoders::Encoder;
pub use metrics::Metrics;
pub use model::{Model, ModelSpec, StartError};
pub use models::{Models, ModelsConfig, Offer, OfferError, Start};
pub use residency::Patience;
pub use resident::Resident;
pub use server::{ServeError, Server, Stop};

use auth::{Gate, Tenant};
use body::JsonBody;
use budget::{Budget, Room};
use error::{ApiError, ApiResult};
use leases::Lease;

/// What all routes share.
pub struct App {
    /// The models; the first is the one of requests that name none.
    pub models: Models,
    /// Bounds on what clients can cost.
    pub limits: Limits,
    /// All counters.
    pub metrics: Metrics,
    gate: Gate,
    /// Of bodies that are read and not yet made into requests. No tenant takes all of it, nor of
    /// the next two.
    bodies: Budget,
    /// Of those that wait for their models besides.
    parked: Budget,
    /// Of answers that are read.
    answers: Budget,
}

impl App {
    /// An application that serves `models`, which count by `metrics`.
    pub fn new(models: Models, metrics: Metrics, config: ServerConfig) -> Self {
        let gate = Gate::new(&config);
        let limits = config.limits;
        let budget = |bytes, least| Budget::new(bytes, least, gate.tenants());
        App {
            models,
            bodies: budget(limits.bodies_bytes, limits.body_bytes),
            parked: budget(limits.parked_bytes, limits.body_bytes),
            answers: budget(limits.answers_bytes, 0),
            limits,
            metrics,
            gate,
        }
    }

    /// A lease on the model that a request for embeddings means: without a name it is the first
    /// that makes some. See [`App::lease`].
    pub async fn encoder(
        &self,
        name: Option<&str>,
        tenant: &Tenant,
        body: &mut JsonBody,
    ) -> ApiResult<Lease<Arc<Encoder>>> {
        let index = self.models.find(name, true)?;
        let offer = &self.models.offers()[index];
        if offer.dimensions().is_none() {
            let message = format!("the model {} generates text; it makes no embeddings", offer.id);
            return Err(ApiError::field("model", message));
        }
        let mut lease = self.admit(index, tenant, body).await?.of(Resident::encoder)?;
        lease.take_place(lease.model().place()?);
        Ok(lease)
    }

    /// A lease on the model that a request means, with one of the tenant's places. Where the model
    /// has to be waited for, others can be read meanwhile: the request's body, which is parsed by
    /// now, is counted elsewhere.
    pub async fn lease(
        &self,
        name: Option<&str>,
        tenant: &Tenant,
        body: &mut JsonBody,
    ) -> ApiResult<Lease<Arc<Model>>> {
        let index = self.models.find(name, false)?;
        let offer = &self.models.offers()[index];
        if offer.dimensions().is_some() {
            let message = format!(
                "the model {} makes embeddings and generates no text; use /v1/embeddings",
                offer.id
            );
            return Err(ApiError::field("model", message));
        }
        let adapter = offer.adapter(name);
        Ok(self.admit(index, tenant, body).await?.of(Resident::model)?.with_adapter(adapter))
    }

    async fn admit(
        &self,
        index: usize,
        tenant: &Tenant,
        body: &mut JsonBody,
    ) -> ApiResult<Lease<Resident>> {
        let place = tenant.place()?;
        let park = || body.park(&self.parked, tenant);
        let mut lease = self.models.lease_or_wait(index, park).await?;
        lease.take_place(place);
        Ok(lease)
    }

    /// Room for an answer of so many bytes, until it is read.
    fn answer_room(&self, tenant: &Tenant, bytes: usize) -> ApiResult<Room> {
        let room = self.answers.take(tenant, bytes.min(self.answers.share()));
        room.map_err(|full| full.refusal("large answers are being read"))
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
        let (models, encoders) = (self.models.resident(), self.models.encoders());
        let encoders = encoders.iter().map(|encoder| encoder.in_flight());
        models.iter().map(|model| model.service.in_flight()).chain(encoders).sum()
    }
}
