//! The one decoder: a transformer described by a typed [`DecoderSpec`], run on any backend.

mod adapters;
mod cut;
mod forward;
mod memory;
mod rope_table;
mod share;
mod spec;
mod weights;

pub use forward::{DecoderOptions, DecoderRunner};
pub use rope_table::rope_table;
pub(crate) use share::Share;
pub use spec::{
    Activation, DecoderSpec, ExpertsSpec, LayerSpec, LogitsSpec, MlpKind, MlpSpec, Norms, QkNorm,
    RopeScaling, RopeSpec, RopeStyle, Yarn,
};
pub(crate) use weights::checked_roles;
