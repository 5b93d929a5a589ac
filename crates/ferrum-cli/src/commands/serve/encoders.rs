//! The models that make embeddings, as a server offers them: their sizes are known before they are
//! loaded.

use std::path::PathBuf;

use ferrum_models::LoadOptions;
use ferrum_models::encoder::EncoderSizes;
use ferrum_server::{Encoder, Limits, Offer, Start};

use crate::ui::text;

/// A model that makes embeddings, before it is offered.
pub struct EncoderCandidate {
    pub id: String,
    pub aliases: Vec<String>,
    pub path: PathBuf,
    pub options: LoadOptions,
    pub sizes: EncoderSizes,
}

impl EncoderCandidate {
    /// The offer, and its sizes in a line.
    pub fn offer(self, limits: &Limits) -> (Offer, String) {
        let EncoderCandidate { id, aliases, path, options, sizes } = self;
        let EncoderSizes { dimensions, max_tokens, bytes } = sizes;
        let queue = limits.queue;
        let line = format!(
            "{id}: embeddings of {dimensions} values, texts of up to {max_tokens} tokens, {queue} \
             requests waiting, memory {}",
            text::bytes(bytes)
        );
        let (name, folder) = (id.clone(), path.clone());
        let load = Box::new(move || Encoder::load(name.clone(), &folder, &options, queue));
        let offer = Offer {
            id,
            aliases,
            adapters: Vec::new(),
            context: max_tokens,
            bytes,
            waiting: queue.saturating_add(1),
            files: vec![path],
            start: Start::Encoder { dimensions, load },
        };
        (offer, line)
    }
}
