//! Downloads from servers on this machine, well behaved and otherwise.

mod folders;
mod hub;
mod sources;
mod support;
