//! What a Hugging Face hub says of a repository.
//!
//! Uses `GET /api/models/{repo}/revision/{revision}?blobs=true`, which gives the commit, sizes and
//! hashes, and `/{repo}/resolve/{commit}/{file}` for the bytes. Where a mirror leaves sizes or hashes
//! out, they are those in the headers of `HEAD` of a file.

use std::collections::BTreeMap;
use std::thread::sleep;

use serde::Deserialize;

use crate::config::HubConfig;
use crate::error::{HubError, Result};
use crate::hash::Digest;
use crate::http::{self, Client, Header, Response, header, host};
use crate::reference::{is_commit, safe_relative_path};

/// The branch that is meant where no revision is named.
pub(crate) const MAIN: &str = "main";
/// The largest listing that is read.
const MAX_LISTING: u64 = 32 << 20;

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Its path in the repository; held to stay inside its folder.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its hash.
    pub digest: Digest,
}

/// The files of a repository at one commit.
#[derive(Debug)]
pub(crate) struct Repository {
    /// `owner/repo`.
    pub repo: String,
    /// The commit: 40 hexadecimal digits.
    pub commit: String,
    /// By path; sizes and hashes as far as the listing gives them. Paths are not checked.
    files: BTreeMap<String, Option<(u64, Digest)>>,
}

#[derive(Deserialize)]
struct Listing {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Sibling {
    fn identity(&self) -> Option<(u64, Digest)> {
        match &self.lfs {
            Some(lfs) => Some((lfs.size, Digest::from_hex(&lfs.sha256)?)),
            None => Some((self.size?, Digest::from_hex(self.blob_id.as_ref()?)?)),
        }
    }
}

/// The headers of a request to the hub.
pub(crate) fn headers(config: &HubConfig) -> Vec<Header<'static>> {
    config.hub_token.iter().map(|token| ("Authorization", format!("Bearer {token}"))).collect()
}

/// The address of a file's bytes.
pub(crate) fn file_url(config: &HubConfig, repo: &str, revision: &str, path: &str) -> String {
    let path: Vec<_> = path.split('/').map(percent_encoded).collect();
    format!("{}/{repo}/resolve/{revision}/{}", config.hub_endpoint, path.join("/"))
}

/// Asks for the files of a repository at a branch, tag or commit.
pub(crate) fn list(
    client: &Client,
    config: &HubConfig,
    repo: &str,
    revision: &str,
) -> Result<Repository> {
    let endpoint = &config.hub_endpoint;
    let named = percent_encoded(revision);
    let url = format!("{endpoint}/api/models/{repo}/revision/{named}?blobs=true");
    let bad = |why: String| HubError::Answer { host: host(&url).to_string(), why };
    let response = ask(client, config, &url, false)?;
    if !response.status().is_success() {
        return Err(refusal(config, &response, (repo, revision), &url));
    }
    let text = http::read_text(response, &url, MAX_LISTING)?;
    let listing: Listing = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let commit = listing.sha.unwrap_or_default();
    if !is_commit(&commit) {
        return Err(bad("its revision is not a commit".into()));
    }
    let files = listing.siblings.into_iter().map(|s| {
        let identity = s.identity();
        (s.rfilename, identity)
    });
    Ok(Repository { repo: repo.to_string(), commit, files: files.collect() })
}

impl Repository {
    /// The paths of all files, as the hub gives them.
    pub fn names(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }

    /// A file with its size and hash.
    pub fn file(&self, client: &Client, config: &HubConfig, path: &str) -> Result<RemoteFile> {
        safe_relative_path(path)?;
        let (size, digest) = match self.files.get(path).copied().flatten() {
            Some(identity) => identity,
            None => self.ask_for(client, config, path)?,
        };
        Ok(RemoteFile { path: path.to_string(), size, digest })
    }

    /// Size and hash from the headers of a file: those of what it links to, if it is kept elsewhere.
    fn ask_for(&self, client: &Client, config: &HubConfig, path: &str) -> Result<(u64, Digest)> {
        let url = file_url(config, &self.repo, &self.commit, path);
        let response = ask(client, config, &url, true)?;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(refusal(config, &response, (&self.repo, &self.commit), &url));
        }
        let bad = |why: String| HubError::Answer { host: host(&url).to_string(), why };
        if header(&response, "x-repo-commit").is_some_and(|commit| commit != self.commit) {
            return Err(bad(format!("{path} is of another commit")));
        }
        let linked = |linked, own| header(&response, linked).or_else(|| header(&response, own));
        let etag = linked("x-linked-etag", "etag").map(|e| e.trim_start_matches("W/"));
        let digest = etag.and_then(|e| Digest::from_hex(e.trim_matches('"')));
        let size = match status.is_redirection() {
            true => header(&response, "x-linked-size"),
            false => linked("x-linked-size", "content-length"),
        };
        let size = size.and_then(|s| s.parse().ok());
        size.zip(digest).ok_or_else(|| bad(format!("it gives no size or no hash for {path}")))
    }
}

/// A request that is made again where the hub is busy.
fn ask(client: &Client, config: &HubConfig, url: &str, head: bool) -> Result<Response> {
    let headers = headers(config);
    let mut failures = 0;
    loop {
        let response =
            if head { client.head(url, &headers)? } else { client.get(url, &headers)? };
        failures += 1;
        if !http::is_busy(response.status().as_u16()) || failures >= config.network.attempts {
            return Ok(response);
        }
        sleep(config.network.pause(failures).max(http::retry_after(&response)));
    }
}

/// What an answer that is no success says of a repository. The hub names the reason in
/// `X-Error-Code`; without a token, it says of what it does not show that it is not authorised.
fn refusal(
    config: &HubConfig,
    response: &Response,
    (repo, revision): (&str, &str),
    url: &str,
) -> HubError {
    let code = header(response, "x-error-code").unwrap_or_default();
    let says = header(response, "x-error-message").unwrap_or_default();
    let (host, repo) = (host(url).to_string(), repo.to_string());
    let page = format!("{}/{repo}", http::shown(&config.hub_endpoint));
    match (response.status().as_u16(), code) {
        (_, "GatedRepo") => HubError::Gated { repo, page },
        (_, "RevisionNotFound") => HubError::NoRevision { repo, revision: revision.to_string() },
        (_, "RepoNotFound") => HubError::NoRepository { host, repo },
        (401 | 403, _) if says.to_lowercase().contains("invalid") && config.hub_token.is_some() => {
            HubError::BadToken { host, why: says.chars().filter(|c| !c.is_control()).collect() }
        }
        (401 | 404, _) => HubError::NoRepository { host, repo },
        (403, _) => HubError::Gated { repo, page },
        (status, _) => HubError::Status { host, what: http::shown(url), status },
    }
}

/// A path component for an address: everything but the unreserved characters as `%XX`
/// (RFC 3986 §2.3).
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(percent_encoded("a b#é.gguf"), "a%20b%23%C3%A9.gguf");
    }
}
