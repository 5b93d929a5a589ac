//! The models of a server: which there are, and how a request gets hold of one.
//!
//! [`crate::residency`] decides what is loaded and what makes room; a thread does it, so that a
//! load holds up nobody but those who wait for it. A request holds a [`Lease`] on its model from
//! its beginning to the last event of its answer: a model with leases stays, and a server that
//! stops waits for them.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use ferrum_engine::Request;
use tokio::sync::Notify;

use crate::error::{ApiError, ApiResult};
use crate::metrics::{Metrics, ModelMetrics};
use crate::model::{Model, StartError};
use crate::residency::{Place, Residency, Step, Ticket, Turn};

/// Loads a model and starts its engine.
pub type Start = Box<dyn Fn(Arc<ModelMetrics>) -> Result<Model, StartError> + Send + Sync>;

/// A model that a server offers, in memory or not.
pub struct Offer {
    /// The name by which it is listed.
    pub id: String,
    /// Other names by which it may be asked for.
    pub aliases: Vec<String>,
    /// Names of its adapters, by number from 1 on.
    pub adapters: Vec<String>,
    /// Tokens that prompt and answer may have together.
    pub context: usize,
    /// Memory that it takes while it is loaded, in bytes.
    pub bytes: u64,
    /// Requests that may wait for it to be loaded.
    pub waiting: usize,
    /// Loads it.
    pub start: Start,
}

impl Offer {
    /// Whether a request for `name` means this model, or an adapter of it.
    fn answers_to(&self, name: &str) -> bool {
        name == self.id || self.aliases.iter().chain(&self.adapters).any(|own| own == name)
    }

    /// The number of the adapter that a request for `name` means; 0 for the model without any.
    pub fn adapter(&self, name: Option<&str>) -> usize {
        let found = self.adapters.iter().position(|own| Some(own.as_str()) == name);
        found.map_or(0, |index| index + 1)
    }
}

/// Choices of [`Models`].
#[derive(Debug, Clone, Copy)]
pub struct ModelsConfig {
    /// Memory for all models that are loaded at once, in bytes; `None`: no limit.
    pub memory: Option<u64>,
    /// Time that a request waits for its model to be loaded.
    pub wait: Duration,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        ModelsConfig { memory: None, wait: Duration::from_secs(120) }
    }
}

/// Why models cannot be offered together.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum OfferError {
    #[error("there is no model to serve")]
    None,
    #[error("two models are called {0}")]
    Name(String),
    #[error("the model {id} takes {bytes} bytes of memory; all models together may take {memory}")]
    Memory { id: String, bytes: u64, memory: u64 },
    #[error("the thread that loads models could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// See the module.
pub struct Models(Arc<Inner>);

struct Inner {
    offers: Vec<Offer>,
    metrics: Vec<Arc<ModelMetrics>>,
    created: u64,
    wait: Duration,
    state: Mutex<State>,
    /// Tells the thread that there is something to do, and [`Models::load`] that it is done.
    work: Condvar,
    /// Tells those who wait that something changed.
    changed: Notify,
}

struct State {
    residency: Residency,
    models: Vec<Option<Arc<Model>>>,
    /// Why the last load of each model failed.
    errors: Vec<String>,
    todo: Option<Step>,
    /// No further leases are given.
    closed: bool,
    /// The thread is to end.
    ended: bool,
}

impl Models {
    /// Offers these models; none is loaded yet.
    pub fn new(
        offers: Vec<Offer>,
        config: ModelsConfig,
        metrics: &Metrics,
    ) -> Result<Self, OfferError> {
        if offers.is_empty() {
            return Err(OfferError::None);
        }
        Models::perhaps_none(offers, config, metrics)
    }

    /// The same, where there are models that make embeddings and perhaps none that generate.
    pub fn perhaps_none(
        offers: Vec<Offer>,
        config: ModelsConfig,
        metrics: &Metrics,
    ) -> Result<Self, OfferError> {
        let mut taken = BTreeSet::new();
        for offer in &offers {
            // A model may be called the same twice.
            let own: BTreeSet<&String> = offer.aliases.iter().chain([&offer.id]).collect();
            let mut names = own.into_iter().chain(&offer.adapters);
            if let Some(name) = names.find(|name| !taken.insert(*name)) {
                return Err(OfferError::Name(name.clone()));
            }
        }
        let memory = config.memory.unwrap_or(u64::MAX);
        let bytes: Vec<u64> = offers.iter().map(|offer| offer.bytes).collect();
        let residency = Residency::new(memory, &bytes).map_err(|index| {
            let Offer { ref id, bytes, .. } = offers[index];
            OfferError::Memory { id: id.clone(), bytes, memory }
        })?;
        if let Some(memory) = config.memory {
            metrics.budget(memory);
        }
        let state = State {
            residency,
            models: offers.iter().map(|_| None).collect(),
            errors: vec![String::new(); offers.len()],
            todo: None,
            closed: false,
            ended: false,
        };
        let inner = Arc::new(Inner {
            metrics: offers.iter().map(|offer| metrics.model(&offer.id)).collect(),
            offers,
            created: crate::api::seconds(),
            wait: config.wait,
            state: Mutex::new(state),
            work: Condvar::new(),
            changed: Notify::new(),
        });
        let thread = inner.clone();
        std::thread::Builder::new().name("ferrum-load".into()).spawn(move || thread.run())?;
        Ok(Models(inner))
    }

    /// Loads a model at once and waits for it; the error says why it cannot be.
    pub fn load(&self, index: usize) -> Result<(), String> {
        let mut state = self.0.lock();
        let ticket = state.residency.arrive(index);
        self.0.advance(&mut state);
        loop {
            match state.residency.turn(&ticket) {
                Turn::Go => {
                    state.residency.leave(index);
                    self.0.advance(&mut state);
                    return Ok(());
                }
                Turn::Failed => return Err(state.errors[index].clone()),
                Turn::Wait => {
                    state = self.0.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The model that a request means. Without a name, and by the name `default`, it is the first.
    pub fn find(&self, name: Option<&str>) -> ApiResult<usize> {
        let found = match name {
            None | Some("" | "default") => Some(0).filter(|_| !self.0.offers.is_empty()),
            Some(name) => self.0.offers.iter().position(|offer| offer.answers_to(name)),
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = self.0.offers.iter().map(|offer| offer.id.as_str()).collect();
            let name = name.unwrap_or_default();
            let known =
                if known.is_empty() { "none that generates".into() } else { known.join(", ") };
            let message = format!("there is no model '{name}'; there is {known}");
            ApiError {
                code: Some("model_not_found"),
                param: Some("model".into()),
                ..ApiError::new(StatusCode::NOT_FOUND, message)
            }
        })
    }

    /// A lease on a model, which is loaded where it is not there. Waits for that within bounds.
    pub async fn lease(&self, index: usize) -> ApiResult<Lease> {
        let inner = &self.0;
        let end = tokio::time::Instant::now() + inner.wait;
        let mut waiter = Waiter::new(inner.clone(), index)?;
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

    /// From now on nobody gets a lease; those given are not concerned.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_waiters();
    }

    /// Whether [`Models::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// Leases that are held.
    pub fn leases(&self) -> usize {
        let state = self.0.lock();
        (0..self.0.offers.len()).map(|index| state.residency.users(index)).sum()
    }

    /// When the models were offered, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.0.created
    }

    /// The models that there are.
    pub fn offers(&self) -> &[Offer] {
        &self.0.offers
    }

    /// Where each model is.
    pub fn places(&self) -> Vec<Place> {
        let state = self.0.lock();
        (0..self.0.offers.len()).map(|index| state.residency.place(index)).collect()
    }

    /// The models that are in memory.
    pub fn resident(&self) -> Vec<Arc<Model>> {
        self.0.lock().models.iter().flatten().cloned().collect()
    }

    /// Takes over what the engines and the residency count.
    pub fn count(&self) {
        let state = self.0.lock();
        for (index, metrics) in self.0.metrics.iter().enumerate() {
            metrics.waiting(state.residency.waiting(index));
            // One that is leaving has its last counts taken when it has left.
            if let Some(model) = &state.models[index]
                && state.residency.place(index) == Place::In
            {
                metrics.engine(&model.service.stats());
            }
        }
    }

    /// Holds the state against the invariants of the residency.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check_integrity(&self) {
        self.0.lock().residency.check_integrity();
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.work.notify_all();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that could panic leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the thread what is to be done now, and lets those who wait look again.
    fn advance(&self, state: &mut State) {
        if let Some(step) = state.residency.next_step() {
            state.todo = Some(step);
        }
        self.work.notify_all();
        self.changed.notify_waiters();
    }

    /// The thread that loads and unloads.
    fn run(&self) {
        loop {
            let mut state = self.lock();
            let step = loop {
                if state.ended {
                    return;
                }
                match state.todo.take() {
                    Some(step) => break step,
                    None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            match step {
                Step::Load(index) => self.load(index),
                Step::Unload(index) => self.unload(index),
            }
        }
    }

    fn load(&self, index: usize) {
        let begun = Instant::now();
        let (offer, metrics) = (&self.offers[index], &self.metrics[index]);
        let result = catch_unwind(AssertUnwindSafe(|| (offer.start)(metrics.clone())));
        let mut state = self.lock();
        let failure = match result {
            Ok(Ok(model)) => {
                state.models[index] = Some(Arc::new(model));
                state.residency.loaded(index);
                metrics.loaded(begun.elapsed(), offer.bytes);
                return self.advance(&mut state);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "loading it ended in a panic".to_string(),
        };
        state.errors[index] = failure;
        state.residency.failed(index);
        self.advance(&mut state);
    }

    fn unload(&self, index: usize) {
        // It stays where it is meanwhile, so that /health sees it.
        let model = self.lock().models[index].clone();
        if let Some(model) = &model {
            model.service.close();
        }
        let mut state = self.lock();
        state.models[index] = None;
        if let Some(model) = &model {
            self.metrics[index].evicted(&model.service.stats());
        }
        state.residency.unloaded(index);
        self.advance(&mut state);
    }
}

/// A request that waits for its model.
struct Waiter {
    inner: Arc<Inner>,
    index: usize,
    ticket: Option<Ticket>,
}

impl Waiter {
    fn new(inner: Arc<Inner>, index: usize) -> ApiResult<Self> {
        let mut state = inner.lock();
        let (offer, waiting) = (&inner.offers[index], state.residency.waiting(index));
        if waiting >= offer.waiting.max(1) {
            let message = format!("too many requests are waiting for the model {}", offer.id);
            return Err(ApiError::busy(message, 5));
        }
        let ticket = Some(state.residency.arrive(index));
        drop(state);
        Ok(Waiter { inner, index, ticket })
    }

    /// The lease, if it is this request's turn.
    fn turn(&mut self) -> ApiResult<Option<Lease>> {
        let mut state = self.inner.lock();
        if state.closed {
            return Err(ApiError::unavailable("the server is about to stop"));
        }
        let Some(ticket) = &self.ticket else { return Ok(None) };
        match state.residency.turn(ticket) {
            Turn::Wait => {
                // The first time it asks, there may be something to do for it.
                if let Some(step) = state.residency.next_step() {
                    state.todo = Some(step);
                    self.inner.work.notify_all();
                }
                Ok(None)
            }
            Turn::Failed => {
                self.ticket = None;
                let (offer, why) = (&self.inner.offers[self.index], &state.errors[self.index]);
                let message = format!("the model {} could not be loaded: {why}", offer.id);
                Err(ApiError::internal(message))
            }
            Turn::Go => {
                self.ticket = None;
                let model = state.models[self.index].clone();
                let Some(model) = model else {
                    state.residency.leave(self.index);
                    return Err(ApiError::internal("a model that is loaded is not there"));
                };
                self.inner.advance(&mut state);
                let inner = self.inner.clone();
                Ok(Some(Lease { model, index: self.index, adapter: 0, inner }))
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

/// A model that stays in memory as long as this lives.
pub struct Lease {
    model: Arc<Model>,
    index: usize,
    /// See [`Offer::adapter`].
    adapter: usize,
    inner: Arc<Inner>,
}

impl Lease {
    /// The model.
    pub fn model(&self) -> &Arc<Model> {
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
        let offer = &self.inner.offers[self.index];
        let adapter = self.adapter.checked_sub(1).and_then(|index| offer.adapters.get(index));
        adapter.unwrap_or(&offer.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.residency.leave(self.index);
        self.inner.advance(&mut state);
    }
}
