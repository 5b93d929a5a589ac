//! How a request gets hold of its model, and for how long.
//!
//! A [`Hold`] keeps a model in memory. A request has one from before its template to the last event
//! that the engine gives, whether or not its reader has come so far: who reads slowly keeps no other
//! model out. [`UnderWay`] counts requests until their answers are read, because a server that stops
//! waits for that.

use std::sync::Arc;

use axum::http::StatusCode;
use ferrum_engine::Request;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{ApiError, ApiResult};
use crate::metrics::ModelMetrics;
use crate::models::{Inner, Models, Offer, State};
use crate::residency::{Ticket, Turn};
use crate::resident::Resident;

/// A model stays in memory as long as this lives.
pub struct Hold {
    index: usize,
    inner: Arc<Inner>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.residency.leave(self.index);
        self.inner.advance(&mut state);
    }
}

/// A request that has begun and whose answer is not read yet.
#[derive(Debug, Clone)]
pub struct UnderWay(#[allow(dead_code, reason = "counted")] Arc<()>);

/// A model that is held for a request.
pub struct Lease<T> {
    // Given back in this order: the memory is free once nothing holds the model.
    model: T,
    /// See [`Offer::adapter`].
    adapter: usize,
    hold: Arc<Hold>,
    places: Vec<OwnedSemaphorePermit>,
    under_way: UnderWay,
}

impl<T> Lease<T> {
    /// The model.
    pub fn model(&self) -> &T {
        &self.model
    }

    /// The same for requests that mean the adapter of this number.
    pub fn with_adapter(mut self, adapter: usize) -> Self {
        self.adapter = adapter;
        self
    }

    /// Gives requests the adapter that they mean.
    pub fn name_adapter(&self, requests: &mut [Request]) {
        requests.iter_mut().for_each(|request| request.adapter = self.adapter as u32);
    }

    /// The name of the adapter that is meant, or of the model.
    pub fn name(&self) -> &str {
        let offer = &self.hold.inner.offers[self.hold.index];
        let adapter = self.adapter.checked_sub(1).and_then(|index| offer.adapters.get(index));
        adapter.unwrap_or(&offer.id)
    }

    /// What keeps it in memory.
    pub fn hold(&self) -> Arc<Hold> {
        self.hold.clone()
    }

    /// What a server that stops waits for.
    pub fn under_way(&self) -> UnderWay {
        self.under_way.clone()
    }

    /// Where it is counted.
    pub fn metrics(&self) -> &Arc<ModelMetrics> {
        &self.hold.inner.metrics[self.hold.index]
    }

    /// The request takes a place for as long as the lease lives.
    pub fn take_place(&mut self, place: OwnedSemaphorePermit) {
        self.places.push(place);
    }

    /// The parts: the request goes on by itself.
    pub fn into_parts(self) -> (Arc<Hold>, Vec<OwnedSemaphorePermit>, UnderWay) {
        (self.hold, self.places, self.under_way)
    }

    /// The same of a model of which more is known.
    pub fn of<U>(self, kind: impl FnOnce(T) -> Option<U>) -> ApiResult<Lease<U>> {
        let Lease { model, adapter, hold, places, under_way } = self;
        let model = kind(model).ok_or_else(|| ApiError::internal("a model of another kind"))?;
        Ok(Lease { model, adapter, hold, places, under_way })
    }
}

impl Models {
    /// A lease on a model, which is loaded where it is not there. Waits for that within bounds.
    pub async fn lease(&self, index: usize) -> ApiResult<Lease<Resident>> {
        self.lease_or_wait(index, || Ok(())).await
    }

    /// The same; `waits` is told before it waits, and may object.
    pub async fn lease_or_wait(
        &self,
        index: usize,
        waits: impl FnOnce() -> ApiResult<()>,
    ) -> ApiResult<Lease<Resident>> {
        let inner = &self.0;
        let end = tokio::time::Instant::now() + inner.wait;
        let mut waiter = Waiter::new(inner, index).await?;
        if let Some(lease) = waiter.turn()? {
            return Ok(lease);
        }
        waits()?;
        loop {
            let mut changed = std::pin::pin!(inner.changed.notified());
            // From here on a change is not missed, whether or not it is waited for yet.
            changed.as_mut().enable();
            if let Some(lease) = waiter.turn()? {
                return Ok(lease);
            }
            if tokio::time::timeout_at(end, changed).await.is_err() {
                let message = format!(
                    "the model {} was not loaded within {} s: it takes longer, or others are in use",
                    inner.offers[index].id,
                    inner.wait.as_secs()
                );
                return Err(ApiError { retry_after: Some(10), ..ApiError::unavailable(message) });
            }
        }
    }
}

/// A request that waits for its model.
struct Waiter {
    inner: Arc<Inner>,
    index: usize,
    ticket: Option<Ticket>,
}

impl Waiter {
    async fn new(inner: &Arc<Inner>, index: usize) -> ApiResult<Self> {
        let refused = |state: &State| state.residency.refuses(index, inner.now()).is_some();
        let failed = refused(&inner.lock());
        if failed {
            inner.look_at_files(index).await;
        }
        let mut state = inner.lock();
        if refused(&state) {
            return Err(inner.failure(&state, index));
        }
        let (offer, waiting) = (&inner.offers[index], state.residency.waiting(index));
        if waiting >= offer.waiting.max(1) {
            let message = format!("too many requests are waiting for the model {}", offer.id);
            return Err(ApiError::busy(message, 5));
        }
        let ticket = Some(state.residency.arrive(index));
        drop(state);
        Ok(Waiter { inner: inner.clone(), index, ticket })
    }

    /// The lease, if it is this request's turn.
    fn turn(&mut self) -> ApiResult<Option<Lease<Resident>>> {
        let mut state = self.inner.lock();
        if state.closed {
            return Err(ApiError::unavailable("the server is about to stop"));
        }
        let Some(ticket) = &self.ticket else { return Ok(None) };
        match state.residency.turn(ticket) {
            Turn::Wait => {
                // The first time it asks, there may be something to do for it.
                self.inner.next_step(&mut state);
                Ok(None)
            }
            Turn::Failed => {
                self.ticket = None;
                Err(self.inner.failure(&state, self.index))
            }
            Turn::Go => {
                self.ticket = None;
                let Some(model) = state.models[self.index].clone() else {
                    state.residency.leave(self.index);
                    return Err(ApiError::internal("a model that is loaded is not there"));
                };
                self.inner.advance(&mut state);
                let hold = Arc::new(Hold { index: self.index, inner: self.inner.clone() });
                let under_way = UnderWay(self.inner.under_way.clone());
                Ok(Some(Lease { model, adapter: 0, hold, places: Vec::new(), under_way }))
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let mut state = self.inner.lock();
            state.residency.withdraw(&ticket);
            self.inner.advance(&mut state);
        }
    }
}

impl Inner {
    /// Why the model could not be loaded, and when it is tried again.
    fn failure(&self, state: &State, index: usize) -> ApiError {
        let left = state.residency.refuses(index, self.now()).unwrap_or_default();
        let Offer { ref id, .. } = self.offers[index];
        let why = &state.failures[index].why;
        let message = format!("the model {id} could not be loaded: {why}");
        let seconds = left.as_millis().div_ceil(1000).max(1) as u64;
        ApiError {
            code: Some("model_not_loaded"),
            retry_after: Some(seconds),
            ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// Lets a model be tried again whose files have changed since it could not be loaded.
    async fn look_at_files(self: &Arc<Self>, index: usize) {
        let inner = self.clone();
        // Disks may take their time.
        let stamp = tokio::task::spawn_blocking(move || inner.offers[index].stamp()).await;
        let mut state = self.lock();
        if stamp.is_ok_and(|stamp| stamp != state.failures[index].stamp) {
            state.residency.forgive(index);
        }
    }
}
