//! The models of a server that make embeddings.
//!
//! They have no engine: a request is embedded some texts at a time, and in between others get their
//! turn, in the order in which they came. A model takes one of the threads for such work at most. As
//! elsewhere the requests that wait are bounded, and one whose client is gone is given up.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ferrum_models::LoadOptions;
use ferrum_models::encoder::{EmbedError, Embedder, Input, TextEncoder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::App;
use crate::clock::Clock;
use crate::error::{ApiError, ApiResult};
use crate::leases::{Hold, Lease};
use crate::metrics::ModelMetrics;
use crate::model::StartError;

/// Texts that are embedded before another request may get its turn.
const TURN: usize = 32;

/// A model that makes embeddings.
pub struct Encoder {
    /// The name by which it is listed.
    pub id: String,
    /// Its tokenizer, with its limits.
    pub texts: TextEncoder,
    /// Values of a vector.
    pub dimensions: usize,
    model: Mutex<Embedder>,
    /// Whose turn it is.
    turn: Arc<Semaphore>,
    places: Arc<Semaphore>,
    all_places: usize,
    /// Of the turns.
    clock: Clock,
    /// Why there are no turns any more.
    failure: OnceLock<String>,
}

impl Encoder {
    /// Loads the model in `folder`; `queue` requests may wait.
    pub fn load(
        id: String,
        folder: &Path,
        options: &LoadOptions,
        queue: usize,
    ) -> Result<Self, StartError> {
        let texts = TextEncoder::open(folder, options.context)?;
        let model = Embedder::load(folder, options)?;
        let all_places = queue.saturating_add(1).min(Semaphore::MAX_PERMITS);
        Ok(Encoder {
            id,
            texts,
            dimensions: model.dimensions(),
            model: Mutex::new(model),
            turn: Arc::new(Semaphore::new(1)),
            places: Arc::new(Semaphore::new(all_places)),
            all_places,
            clock: Clock::default(),
            failure: OnceLock::new(),
        })
    }

    /// Requests that wait or are embedded.
    pub fn in_flight(&self) -> usize {
        self.all_places - self.places.available_permits()
    }

    /// A place for a request, if one is free.
    pub fn place(&self) -> ApiResult<OwnedSemaphorePermit> {
        let place = self.places.clone().try_acquire_owned();
        place.map_err(|_| ApiError::busy("too many requests are waiting", 1))
    }

    /// How long the turn that runs has been running.
    pub fn turn_time(&self) -> Duration {
        self.clock.time()
    }

    /// The vectors of as many texts as make a turn.
    fn turn<T: Input>(&self, texts: &[T], dimensions: Option<usize>) -> ApiResult<Vec<Vec<f32>>> {
        // A panic leaves nothing in the model that the next step would read.
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let _turn = self.clock.begin();
        if let Some(why) = self.failure() {
            return Err(ApiError::unavailable(why));
        }
        let vectors = model.embed(texts, dimensions);
        if let Some(why) = model.failure() {
            let id = &self.id;
            let why = format!("{id}: the server has to be started again: {why}");
            let _ = self.failure.set(why);
        }
        Ok(vectors?)
    }

    /// Why nothing is embedded any more, if the device does not work any more.
    pub fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }
}

/// A model in use by a turn, which goes on where its request is given up meanwhile.
struct Use {
    // Given back in this order: the memory is free once nothing holds the model.
    encoder: Arc<Encoder>,
    _hold: Arc<Hold>,
}

/// Counts a request that is given up before its end.
struct Counted<'a>(Option<&'a ModelMetrics>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.0 {
            metrics.finished("abandoned");
        }
    }
}

impl Lease<Arc<Encoder>> {
    /// The vectors of texts, or the scores of pairs, and how many tokens they took. Dropping the
    /// future gives up those whose turn has not come.
    pub async fn embed<T: Input>(
        &self,
        app: &App,
        texts: Vec<T>,
        dimensions: Option<usize>,
    ) -> ApiResult<(Vec<Vec<f32>>, usize)> {
        let (since, metrics) = (Instant::now(), self.metrics());
        let mut counted = Counted(Some(metrics));
        let done = self.all_turns(app, texts, dimensions).await;
        counted.0 = None;
        match &done {
            Ok((_, tokens)) => metrics.embedding_finished(*tokens, since),
            Err(_) => metrics.finished("error"),
        }
        done
    }

    async fn all_turns<T: Input>(
        &self,
        app: &App,
        texts: Vec<T>,
        dimensions: Option<usize>,
    ) -> ApiResult<(Vec<Vec<f32>>, usize)> {
        let tokens = texts.iter().map(|text| text.ids().len()).sum();
        let texts = Arc::new(texts);
        let mut vectors = Vec::with_capacity(texts.len());
        for start in (0..texts.len()).step_by(TURN) {
            let closed = |_| ApiError::internal("nobody gives turns any more");
            let turn = self.model().turn.clone().acquire_owned().await.map_err(closed)?;
            let held = Use { encoder: self.model().clone(), _hold: self.hold() };
            let (texts, metrics) = (texts.clone(), self.metrics().clone());
            let some = app.blocking(move || {
                let _turn = turn;
                let texts = &texts[start..texts.len().min(start + TURN)];
                let began = Instant::now();
                let some = held.encoder.turn(texts, dimensions)?;
                metrics.embedded(texts.len(), began.elapsed());
                Ok(some)
            });
            vectors.extend(some.await?);
        }
        Ok((vectors, tokens))
    }
}

impl From<EmbedError> for ApiError {
    fn from(error: EmbedError) -> Self {
        let message = error.to_string();
        match error {
            EmbedError::TooLong { .. } => ApiError {
                code: Some("context_length_exceeded"),
                ..ApiError::field("input", message)
            },
            EmbedError::Empty | EmbedError::Token { .. } => ApiError::field("input", message),
            EmbedError::Dimensions { .. } => ApiError::field("dimensions", message),
            EmbedError::Kernel(_) => ApiError::internal(message),
        }
    }
}
