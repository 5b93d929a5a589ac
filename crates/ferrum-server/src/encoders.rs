//! The models of a server that make embeddings: loaded when it starts, beside those that generate.
//!
//! They have no engine: a request is embedded some texts at a time, and in between others get their
//! turn, in the order in which they came. A model takes one of the threads for such work at most. As
//! elsewhere the requests that wait are bounded, and one whose client is gone is given up.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ferrum_models::LoadOptions;
use ferrum_models::encoder::{EmbedError, Embedder, Input, TextEncoder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::App;
use crate::auth::Tenant;
use crate::error::{ApiError, ApiResult};
use crate::model::StartError;

/// Texts that are embedded before another request may get its turn.
const TURN: usize = 32;

/// A model that makes embeddings.
pub struct Encoder {
    /// The name by which it is listed.
    pub id: String,
    /// Other names by which it may be asked for.
    pub aliases: Vec<String>,
    /// Its tokenizer, with its limits.
    pub texts: TextEncoder,
    /// Values of a vector.
    pub dimensions: usize,
    model: Mutex<Embedder>,
    /// Whose turn it is.
    turn: Arc<Semaphore>,
    places: Arc<Semaphore>,
    all_places: usize,
}

/// The right to wait for a model, or to be embedded by it.
pub struct Seat(#[allow(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

impl Encoder {
    /// Loads the model in `folder`; `queue` requests may wait.
    pub fn load(
        id: String,
        aliases: Vec<String>,
        folder: &Path,
        options: &LoadOptions,
        queue: usize,
    ) -> Result<Self, StartError> {
        let texts = TextEncoder::open(folder, options.context)?;
        let model = Embedder::load(folder, options)?;
        let all_places = queue.saturating_add(1).min(Semaphore::MAX_PERMITS);
        Ok(Encoder {
            id,
            aliases,
            texts,
            dimensions: model.dimensions(),
            model: Mutex::new(model),
            turn: Arc::new(Semaphore::new(1)),
            places: Arc::new(Semaphore::new(all_places)),
            all_places,
        })
    }

    /// Whether a request for `name` means this model.
    pub fn answers_to(&self, name: &str) -> bool {
        name == self.id || self.aliases.iter().any(|alias| alias == name)
    }

    /// Requests that wait or are embedded.
    pub fn in_flight(&self) -> usize {
        self.all_places - self.places.available_permits()
    }

    /// A place for a request, if one is free.
    pub fn seat(&self, tenant: &Tenant) -> ApiResult<Seat> {
        let busy = |what: &str| ApiError::busy(what, 1);
        let own = tenant.places.clone().try_acquire_owned();
        let own = own.map_err(|_| busy("too many requests of this key are in progress"))?;
        let place = self.places.clone().try_acquire_owned();
        Ok(Seat([own, place.map_err(|_| busy("too many requests are waiting"))?]))
    }

    /// The vectors of texts, or the scores of pairs. Dropping the future gives up those whose turn has not come.
    pub async fn embed<T: Input>(
        self: &Arc<Self>,
        app: &App,
        texts: Vec<T>,
        dimensions: Option<usize>,
    ) -> ApiResult<Vec<Vec<f32>>> {
        let texts = Arc::new(texts);
        let mut vectors = Vec::with_capacity(texts.len());
        for start in (0..texts.len()).step_by(TURN) {
            let closed = |_| ApiError::internal("nobody gives turns any more");
            let turn = self.turn.clone().acquire_owned().await.map_err(closed)?;
            let (encoder, texts) = (self.clone(), texts.clone());
            let some = app.blocking(move || {
                let _turn = turn;
                let texts = &texts[start..texts.len().min(start + TURN)];
                // A panic leaves nothing in the model that the next step would read.
                let mut model = encoder.model.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(model.embed(texts, dimensions)?)
            });
            vectors.extend(some.await?);
        }
        Ok(vectors)
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
