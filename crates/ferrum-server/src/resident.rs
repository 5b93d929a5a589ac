//! A model in memory.

use std::sync::Arc;

use crate::encoders::Encoder;
use crate::model::Model;

/// A model in memory.
#[derive(Clone)]
pub enum Resident {
    /// One that generates.
    Model(Arc<Model>),
    /// One that makes embeddings.
    Encoder(Arc<Encoder>),
}

impl Resident {
    /// Why it has ended on its own, if it has.
    pub fn failure(&self) -> Option<String> {
        match self {
            Resident::Model(model) => model.failure(),
            Resident::Encoder(encoder) => encoder.failure(),
        }
    }

    /// The model, if it generates.
    pub fn model(self) -> Option<Arc<Model>> {
        match self {
            Resident::Model(model) => Some(model),
            Resident::Encoder(_) => None,
        }
    }

    /// The model, if it makes embeddings.
    pub fn encoder(self) -> Option<Arc<Encoder>> {
        match self {
            Resident::Encoder(encoder) => Some(encoder),
            Resident::Model(_) => None,
        }
    }
}
