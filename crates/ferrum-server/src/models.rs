//! The models of a server: which there are, and the thread that loads and unloads them.
//!
//! [`crate::residency`] decides what is loaded and what makes room; a thread does it, so that a
//! load holds up nobody but those who wait for it. How a request gets hold of a model is in
//! [`crate::leases`].

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::StatusCode;
use tokio::sync::Notify;

use crate::encoders::Encoder;
use crate::error::{ApiError, ApiResult};
use crate::metrics::{Metrics, ModelMetrics};
use crate::model::{Model, StartError};
use crate::residency::{Patience, Place, Residency, Step, Turn};
use crate::resident::Resident;

/// Loads a model.
pub enum Start {
    /// One that generates, with its engine.
    Model(Box<dyn Fn(Arc<ModelMetrics>) -> Result<Model, StartError> + Send + Sync>),
    /// One that makes embeddings.
    Encoder {
        /// Values of a vector.
        dimensions: usize,
        /// Does it.
        load: Box<dyn Fn() -> Result<Encoder, StartError> + Send + Sync>,
    },
}

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
    /// What it is loaded from: files, or folders of files.
    pub files: Vec<PathBuf>,
    /// Loads it.
    pub start: Start,
}

/// Size and time of a file, where there is one.
type FileStamp = Option<(u64, Option<SystemTime>)>;

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

    /// Values of a vector, where it makes embeddings.
    pub fn dimensions(&self) -> Option<usize> {
        match self.start {
            Start::Encoder { dimensions, .. } => Some(dimensions),
            Start::Model(_) => None,
        }
    }

    /// What tells whether its files have changed.
    pub(crate) fn stamp(&self) -> Vec<FileStamp> {
        let stamp = |path: &Path| -> FileStamp {
            let data = std::fs::metadata(path).ok()?;
            Some((data.len(), data.modified().ok()))
        };
        let within = |path: &PathBuf| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            paths.push(path.clone());
            paths
        };
        self.files.iter().flat_map(within).map(|path| stamp(&path)).collect()
    }

    fn load(&self, metrics: Arc<ModelMetrics>) -> Result<Resident, StartError> {
        Ok(match &self.start {
            Start::Model(start) => Resident::Model(Arc::new(start(metrics)?)),
            Start::Encoder { load, .. } => Resident::Encoder(Arc::new(load()?)),
        })
    }
}

/// Choices of [`Models`].
#[derive(Debug, Clone, Copy)]
pub struct ModelsConfig {
    /// Memory for all models that are loaded at once, in bytes; `None`: no limit.
    pub memory: Option<u64>,
    /// Time that a request waits for its model to be loaded.
    pub wait: Duration,
    /// Times of what is loaded. Models accept no requests for another's sake for at most two thirds
    /// of [`ModelsConfig::wait`].
    pub patience: Patience,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        let wait = Duration::from_secs(120);
        ModelsConfig { memory: None, wait, patience: Patience::default() }
    }
}

/// Longer than this the thread does not sleep.
const NO_ALARM: Duration = Duration::from_secs(3600);

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
pub struct Models(pub(crate) Arc<Inner>);

/// What requests and the thread share.
pub(crate) struct Inner {
    pub(crate) offers: Vec<Offer>,
    pub(crate) metrics: Vec<Arc<ModelMetrics>>,
    created: u64,
    /// When the residency's time began.
    start: Instant,
    pub(crate) wait: Duration,
    state: Mutex<State>,
    /// Tells the thread that there is something to do, and [`Models::load`] that it is done.
    work: Condvar,
    /// Tells those who wait that something changed.
    pub(crate) changed: Notify,
    /// As many requests are under way as have a copy.
    pub(crate) under_way: Arc<()>,
}

/// What changes.
pub(crate) struct State {
    pub(crate) residency: Residency,
    pub(crate) models: Vec<Option<Resident>>,
    /// Of the last load of each model that failed.
    pub(crate) failures: Vec<Failure>,
    /// Why a model has ended that was unloaded since: what ended it stays with the process.
    lost: Option<String>,
    todo: Option<Step>,
    /// No further leases are given.
    pub(crate) closed: bool,
    /// The thread is to end.
    ended: bool,
}

/// Why a model could not be loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// Its files at that time.
    pub(crate) stamp: Vec<FileStamp>,
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
        let longest = config.wait * 2 / 3;
        let patience = Patience {
            drain: config.patience.drain.min(longest),
            longest_drain: config.patience.longest_drain.min(longest),
            ..config.patience
        };
        let residency = Residency::new(memory, &bytes, patience).map_err(|index| {
            let Offer { ref id, bytes, .. } = offers[index];
            OfferError::Memory { id: id.clone(), bytes, memory }
        })?;
        if let Some(memory) = config.memory {
            metrics.budget(memory);
        }
        let state = State {
            residency,
            models: offers.iter().map(|_| None).collect(),
            failures: vec![Failure::default(); offers.len()],
            lost: None,
            todo: None,
            closed: false,
            ended: false,
        };
        let inner = Arc::new(Inner {
            metrics: offers.iter().map(|offer| of_offer(metrics, offer)).collect(),
            offers,
            created: crate::api::seconds(),
            start: Instant::now(),
            wait: config.wait,
            state: Mutex::new(state),
            work: Condvar::new(),
            changed: Notify::new(),
            under_way: Arc::new(()),
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
                Turn::Failed => return Err(state.failures[index].why.clone()),
                Turn::Wait => {
                    state = self.0.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The model that a request means. Without a name, and by the name `default`, it is the first
    /// that does what is asked for, and the first of all where none does.
    pub fn find(&self, name: Option<&str>, embeds: bool) -> ApiResult<usize> {
        let does = |offer: &Offer| offer.dimensions().is_some() == embeds;
        let found = match name {
            None | Some("" | "default") => {
                Some(self.0.offers.iter().position(does).unwrap_or_default())
            }
            Some(name) => self.0.offers.iter().position(|offer| offer.answers_to(name)),
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = self.0.offers.iter().map(|offer| offer.id.as_str()).collect();
            let (name, known) = (name.unwrap_or_default(), known.join(", "));
            let message = format!("there is no model '{name}'; there is {known}");
            ApiError {
                code: Some("model_not_found"),
                param: Some("model".into()),
                ..ApiError::new(StatusCode::NOT_FOUND, message)
            }
        })
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

    /// Requests that have begun and whose answers are not read yet.
    pub fn under_way(&self) -> usize {
        Arc::strong_count(&self.0.under_way) - 1
    }

    /// Holds of requests on models.
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

    /// The models in memory that generate.
    pub fn resident(&self) -> Vec<Arc<Model>> {
        self.all_resident().filter_map(Resident::model).collect()
    }

    /// Why a model has ended on its own, if one has.
    pub fn failure(&self) -> Option<String> {
        let lost = self.0.lock().lost.clone();
        lost.or_else(|| self.all_resident().find_map(|resident| resident.failure()))
    }

    /// The models in memory that make embeddings.
    pub fn encoders(&self) -> Vec<Arc<Encoder>> {
        self.all_resident().filter_map(Resident::encoder).collect()
    }

    fn all_resident(&self) -> impl Iterator<Item = Resident> {
        let all: Vec<Resident> = self.0.lock().models.iter().flatten().cloned().collect();
        all.into_iter()
    }

    /// Takes over what the engines and the residency count.
    pub fn count(&self) {
        let state = self.0.lock();
        for (index, metrics) in self.0.metrics.iter().enumerate() {
            metrics.waiting(state.residency.waiting(index));
            // One that is leaving has its last counts taken when it has left.
            if let Some(Resident::Model(model)) = &state.models[index]
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

fn of_offer(metrics: &Metrics, offer: &Offer) -> Arc<ModelMetrics> {
    match offer.start {
        Start::Model(_) => metrics.model(&offer.id),
        Start::Encoder { .. } => metrics.encoder(&offer.id),
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that could panic leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The residency's time.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Gives the thread what is to be done now. It also looks anew for when it is to wake.
    pub(crate) fn next_step(&self, state: &mut State) {
        if let Some(step) = state.residency.next_step(self.now()) {
            state.todo = Some(step);
        }
        self.work.notify_all();
    }

    /// The same, and lets those who wait look again.
    pub(crate) fn advance(&self, state: &mut State) {
        self.next_step(state);
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
                if let Some(step) = state.todo.take() {
                    break step;
                }
                let alarm = state.residency.alarm().unwrap_or(Duration::MAX);
                // Clocks of condition variables end before that of a duration.
                let time = alarm.saturating_sub(self.now()).min(NO_ALARM);
                let woken = self.work.wait_timeout(state, time);
                let (next, waited) = woken.unwrap_or_else(PoisonError::into_inner);
                state = next;
                if waited.timed_out() {
                    self.advance(&mut state);
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
        let stamp = offer.stamp();
        let result = catch_unwind(AssertUnwindSafe(|| offer.load(metrics.clone())));
        let mut state = self.lock();
        let why = match result {
            Ok(Ok(model)) => {
                state.models[index] = Some(model);
                state.residency.loaded(index);
                metrics.loaded(begun.elapsed(), offer.bytes);
                return self.advance(&mut state);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "loading it ended in a panic".to_string(),
        };
        state.failures[index] = Failure { why, stamp };
        state.residency.failed(index, self.now());
        self.advance(&mut state);
    }

    fn unload(&self, index: usize) {
        // One that generates stays where it is meanwhile, so that /health sees it.
        let resident = self.lock().models[index].clone();
        if let Some(why) = resident.as_ref().and_then(Resident::failure) {
            self.lock().lost = Some(why);
        }
        let model = resident.and_then(Resident::model);
        if let Some(model) = &model {
            model.service.close();
        }
        // Out of the lock, and gone before its memory counts as free.
        let last = self.lock().models[index].take();
        drop(last);
        let mut state = self.lock();
        self.metrics[index].evicted(model.map(|model| model.service.stats()).as_ref());
        state.residency.unloaded(index);
        self.advance(&mut state);
    }
}
