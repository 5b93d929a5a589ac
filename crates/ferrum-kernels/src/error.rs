//! The one error type of this crate.

use crate::{DType, Format};

/// Result of a fallible kernel call.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Buffer lengths, counts or indices do not fit the operation.
    #[error("{op}: {what}")]
    Shape {
        /// The operation, by its name in [`crate::Backend`].
        op: &'static str,
        /// What does not fit, with the numbers.
        what: String,
    },
    /// A buffer of another element type was expected.
    #[error("expected a buffer of {expected:?}, got {got:?}")]
    DType {
        /// What the operation works on.
        expected: DType,
        /// What it was given.
        got: DType,
    },
    /// The backend does not have what the model needs.
    #[error("the {backend} backend does not support {what}")]
    Unsupported {
        /// [`crate::Backend::name`].
        backend: &'static str,
        /// The missing operation, format or option.
        what: String,
    },
    /// The bytes of a weight do not match its format and shape.
    #[error("a {rows} x {cols} weight in {format} takes {expected} bytes, got {got}")]
    WeightSize {
        /// Format on disk.
        format: Format,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// Bytes that the format needs.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// Memory could not be had.
    #[error("out of memory: {bytes} bytes for {what}")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// What they were for.
        what: &'static str,
    },
    /// There is no such device, or it cannot be used.
    #[error("no {backend} device: {what}")]
    NoDevice {
        /// [`crate::Backend::name`].
        backend: &'static str,
        /// Why not.
        what: String,
    },
    /// A device did not do what it was told.
    #[error("the {backend} backend: {op}: {what}")]
    Device {
        /// [`crate::Backend::name`].
        backend: &'static str,
        /// The operation, by its name in [`crate::Backend`].
        op: &'static str,
        /// The driver's words.
        what: String,
    },
    /// A kernel could not be compiled for the device.
    #[error("the {backend} backend: compiling {kernel}: {what}")]
    Compile {
        /// [`crate::Backend::name`].
        backend: &'static str,
        /// The file of kernels.
        kernel: &'static str,
        /// The compiler's words.
        what: String,
    },
    /// Another rank of a world has failed or left, so that this one waited in vain.
    #[error("{op}: another rank has failed")]
    Peer {
        /// The collective.
        op: &'static str,
    },
    /// A rank of a world has failed.
    #[error("rank {rank}: {what}")]
    Rank {
        /// Its number.
        rank: usize,
        /// Its error.
        what: String,
    },
    /// The operating system refused something, such as a thread.
    #[error("{what}: {source}")]
    Os {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl KernelError {
    /// A [`KernelError::Shape`] of operation `op`.
    pub fn shape(op: &'static str, what: impl Into<String>) -> Self {
        KernelError::Shape { op, what: what.into() }
    }
}
