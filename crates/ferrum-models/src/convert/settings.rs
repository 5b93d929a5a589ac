//! The settings of a folder's model as a GGUF file states them.
//!
//! A checkpoint has its settings under GGUF's keys already, but for a few words of our own. Of these,
//! each is left out where the file means the same without it, said in GGUF's words where there are
//! such, or folded into the weights; what then is left is kept, with a note, since Ferrum reads it.
//! Whether the file means the same is asked of [`arch::spec`], which reads it again.

use std::borrow::Cow;
use std::ops::Range;

use super::ConvertError;
use crate::arch;
use crate::checkpoint::{Checkpoint, Layout, Tensor};
use crate::decoder::{DecoderSpec, RopeScaling};
use crate::gguf::{Metadata, Value};
use crate::load::ModelError;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Keys that llama.cpp does not have, under the architecture's prefix.
const OWN: &[&str] = &["hidden_activation", "rope.layers", "rope.scaling.yarn_truncate", SCALE];

const SCALE: &str = "attention.scale";
const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";

/// Architectures for which llama.cpp reads the scale of attention.
const SCALED: &[&str] = &["granite"];
/// Architectures whose sliding window it honours.
const WINDOWED: &[&str] = &["gemma2", "gemma3"];

/// What a GGUF file states of a model.
pub(super) struct Settings {
    pub metadata: Metadata,
    /// Of queries, which carry what GGUF has no setting for.
    pub query_factor: f32,
    /// How the file reads: which values RoPE pairs.
    pub spec: DecoderSpec,
    pub notes: Vec<String>,
}

/// The file in the making, as far as an architecture asks: settings, and the tensors of `source`.
struct Draft<'a> {
    source: &'a dyn Checkpoint,
    metadata: Metadata,
}

/// Settings of the GGUF file of `source`, whose spec is `spec`.
pub(super) fn write(source: &dyn Checkpoint, spec: &DecoderSpec) -> Result<Settings, ConvertError> {
    let arch = source.metadata().need_str("general.architecture")?;
    let key = |key: &str| format!("{arch}.{key}");
    if let Some(RopeScaling::Dynamic { .. }) = spec.ropes.first().map(|rope| &rope.scaling) {
        return Err(ConvertError::NoPlace { what: "dynamic scaling of RoPE".into() });
    }
    let mut notes = Vec::new();
    let mut draft = Draft { source, metadata: source.metadata().clone() };
    for own in OWN.iter().map(|own| key(own)) {
        let Some(value) = draft.metadata.get(&own).cloned() else { continue };
        if own == key(SCALE) && SCALED.contains(&arch) {
            continue;
        }
        let without = draft.metadata.without(&own);
        let same = draft.means(without, spec)?;
        match (same, own == key(SCALE)) {
            (Some(metadata), _) => draft.metadata = metadata,
            // Folded into the queries below.
            (None, true) => draft.metadata = draft.metadata.without(&own),
            (None, false) if matches!(value, Value::Bool(_)) => {
                return Err(ConvertError::NoPlace { what: format!("setting like {own}") });
            }
            (None, false) => notes.push(format!("only Ferrum reads {own}")),
        }
    }
    draft.pattern(&key(PATTERN), spec, &mut notes)?;
    let dim = spec.ropes.first().map_or(0, |rope| rope.rotary_dim);
    // There is one already, or there is none.
    let _ = draft.metadata.insert(key("rope.dimension_count"), (dim as u32).into());
    if spec.layers.iter().any(|layer| layer.window.is_some()) && !WINDOWED.contains(&arch) {
        notes.push(format!("other programs may not honour {}", key(WINDOW)));
    }
    if spec.layers.iter().any(|l| l.mlp.experts().is_some_and(|experts| !experts.normalize)) {
        notes.push(format!("other programs may not honour {}", key("expert_weights_norm")));
    }
    let written = draft.spec()?;
    let scale = |spec: &DecoderSpec| spec.layers[0].attn_scale;
    let query_factor = scale(spec) / scale(&written);
    match difference(spec, &written, query_factor) {
        Some(what) => Err(ConvertError::Differs { what: what.into() }),
        None => Ok(Settings { metadata: draft.metadata, query_factor, spec: written, notes }),
    }
}

impl Draft<'_> {
    fn spec(&self) -> Result<DecoderSpec, ModelError> {
        arch::spec(self)
    }

    /// These settings, if they mean the same model.
    fn means(
        &self,
        metadata: Metadata,
        spec: &DecoderSpec,
    ) -> Result<Option<Metadata>, ModelError> {
        let other = Draft { source: self.source, metadata };
        // Settings that make no model mean another.
        let same = other.spec().is_ok_and(|other| difference(spec, &other, 1.0).is_none());
        Ok(same.then_some(other.metadata))
    }

    /// States which layers have the window in the shortest way: not at all, or as a period.
    fn pattern(
        &mut self,
        key: &str,
        spec: &DecoderSpec,
        notes: &mut Vec<String>,
    ) -> Result<(), ConvertError> {
        if self.metadata.get(key).is_none() {
            return Ok(());
        }
        // The scale is settled apart.
        let mut spec = spec.clone();
        let scale = self.spec()?.layers[0].attn_scale;
        spec.layers.iter_mut().for_each(|layer| layer.attn_scale = scale);
        let without = self.metadata.without(key);
        let layers = spec.layers.len() as u32;
        let mut candidates = vec![without.clone()];
        candidates.extend((2..=layers).map(|period| {
            let mut metadata = without.clone();
            let _ = metadata.insert(key.into(), period.into());
            metadata
        }));
        for (i, candidate) in candidates.into_iter().enumerate() {
            if let Some(metadata) = self.means(candidate, &spec)? {
                self.metadata = metadata;
                if i > 0 {
                    notes.push(format!("other programs may not honour {key}"));
                }
                return Ok(());
            }
        }
        notes.push(format!("only Ferrum reads {key} for each layer"));
        Ok(())
    }
}

/// What the two specs differ in, but for the pairs of RoPE, which follow from the layout, and for a
/// factor on the scale of attention.
fn difference(a: &DecoderSpec, b: &DecoderSpec, factor: f32) -> Option<&'static str> {
    let mut b = b.clone();
    for (rope, other) in b.ropes.iter_mut().zip(&a.ropes) {
        rope.style = other.style;
    }
    let mut scales = true;
    for (layer, other) in b.layers.iter_mut().zip(&a.layers) {
        scales &= (layer.attn_scale * factor / other.attn_scale - 1.0).abs() < 1e-6;
        layer.attn_scale = other.attn_scale;
    }
    let parts = [
        (a.ropes == b.ropes, "RoPE"),
        (a.layers == b.layers, "the layers"),
        (scales, "the scale of attention"),
        (*a == b, "a setting"),
    ];
    parts.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
}

impl Checkpoint for Draft<'_> {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn layout(&self) -> Layout {
        Layout::Gguf
    }

    fn names(&self) -> Vec<&str> {
        self.source.names()
    }

    fn find(&self, name: &str) -> Option<Tensor<'_>> {
        self.source.find(name)
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, ModelError> {
        self.source.read(name)
    }

    fn read_rows<'a>(
        &'a self,
        name: &str,
        rows: Range<usize>,
        readers: usize,
        memory: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ModelError> {
        self.source.read_rows(name, rows, readers, memory)
    }

    fn give_back(&self, name: &str, range: Range<usize>) {
        self.source.give_back(name, range);
    }

    fn file_bytes(&self) -> u64 {
        self.source.file_bytes()
    }

    fn vocabulary_bytes(&self) -> usize {
        self.source.vocabulary_bytes()
    }

    fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        self.source.tokenizer()
    }
}
