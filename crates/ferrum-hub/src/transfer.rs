//! One file over HTTP into `<name>.part`: resumed, bounded, verified.
//!
//! A small JSON file beside the part says which address, hash and version (`ETag`) its bytes are
//! of; a resume with anything else starts over, so two different files are never mixed. A part whose
//! name is its hash needs none ([`Want::named_by_hash`]). The part is complete and verified when
//! [`download`] returns; the caller renames it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::NetworkLimits;
use crate::error::{HubError, Result};
use crate::hash::{Digest, Hasher};
use crate::http::{self, Client, Header, Response, check_status, header, host, retry_after};
use crate::progress::Progress;
use crate::store;

/// Bytes read at a time.
const CHUNK: usize = 128 * 1024;

/// A file to download.
#[derive(Debug)]
pub(crate) struct Want<'a> {
    /// Its name in messages.
    pub label: &'a str,
    /// Its address.
    pub url: &'a str,
    /// Headers for the request, such as a token.
    pub headers: &'a [Header<'a>],
    /// Its size in bytes.
    pub size: u64,
    /// Its hash.
    pub digest: Digest,
    /// The part's own name says what its bytes are of.
    pub named_by_hash: bool,
}

impl Want<'_> {
    fn sidecar(&self, etag: Option<String>) -> Sidecar {
        let (url, size, digest) = (self.url.to_string(), self.size, self.digest.to_string());
        Sidecar { url, size, digest, etag }
    }
}

/// What the bytes of a part file belong to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sidecar {
    url: String,
    size: u64,
    #[serde(rename = "sha256")]
    digest: String,
    etag: Option<String>,
}

/// How one request ended that did not complete the file.
enum Broken {
    /// Nothing will change by asking again.
    Final(HubError),
    /// Worth another request.
    Retry(HubError),
    /// Likewise, but not before the time that the server asks for.
    Wait(HubError, Duration),
}

impl From<HubError> for Broken {
    fn from(error: HubError) -> Self {
        Broken::Final(error)
    }
}

/// Downloads `want` into `part`, going on where an earlier attempt stopped.
pub(crate) fn download(
    client: &Client,
    limits: &NetworkLimits,
    want: &Want<'_>,
    part: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut file = PartFile::open(part, want)?;
    let mut resumed = file.len > 0;
    loop {
        if let Err(error) = transfer(client, limits, want, &mut file, progress) {
            // Nothing to resume: bytes of another file, or none.
            if matches!(error, HubError::WrongSize { .. }) || file.len == 0 {
                discard(part)?;
            }
            return Err(error);
        }
        let got = file.hash();
        if got == want.digest {
            return file.file.sync_all().map_err(HubError::file("write", part));
        }
        if !resumed {
            discard(part)?;
            let what = want.label.to_string();
            return Err(HubError::WrongHash { what, expected: want.digest, got });
        }
        // The older bytes may be at fault: once more, from the start.
        progress.note(&format!("{}: the resumed file is damaged, starting over", want.label));
        file.restart()?;
        resumed = false;
    }
}

/// Removes a part file and what was noted about it.
pub(crate) fn discard(part: &Path) -> Result<()> {
    for path in [part.to_path_buf(), sidecar_path(part)] {
        store::remove_if_there(&path)?;
    }
    Ok(())
}

/// Requests until the file has its full size.
fn transfer(
    client: &Client,
    limits: &NetworkLimits,
    want: &Want<'_>,
    file: &mut PartFile<'_>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut most = file.len;
    let mut failures = 0;
    let mut received = false;
    while file.len < want.size {
        let (error, asked) = match request(client, want, file, progress) {
            Ok(()) => continue,
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Retry(error)) => (error, Duration::ZERO),
            Err(Broken::Wait(error, pause)) => (error, pause),
        };
        // Only bytes beyond the furthest point count as progress: a server that ignores ranges
        // and always breaks off at the same place must not keep us forever.
        if file.len > most {
            most = file.len;
            failures = 0;
            received = true;
        }
        failures += 1;
        let unreachable = matches!(error, HubError::Connect { .. }) && !received;
        if unreachable || failures >= limits.attempts {
            return Err(error);
        }
        progress.note(&format!("{error}; trying again at {} of {} bytes", file.len, want.size));
        sleep(limits.pause(failures).max(asked));
    }
    Ok(())
}

/// One request: asks for the missing bytes and appends what comes.
fn request(
    client: &Client,
    want: &Want<'_>,
    file: &mut PartFile<'_>,
    progress: &mut dyn Progress,
) -> Result<(), Broken> {
    let mut headers = want.headers.to_vec();
    if file.len > 0 {
        headers.push(("Range", format!("bytes={}-", file.len)));
        if let Some(etag) = &file.etag {
            headers.push(("If-Range", etag.clone()));
        }
    }
    let response = client.get(want.url, &headers).map_err(Broken::Retry)?;
    let transfer_error = |why: String| HubError::Transfer { host: host(want.url).to_string(), why };
    match response.status().as_u16() {
        206 if file.len > 0 => {
            let range = header(&response, "content-range").and_then(parse_content_range);
            if range.is_none_or(|(start, total)| {
                start != file.len || total.is_some_and(|total| total != want.size)
            }) {
                file.restart()?;
                return Err(Broken::Retry(transfer_error("it answered with another range".into())));
            }
        }
        200 => {
            // The whole file: ranges are not supported, or the file changed since.
            if file.len > 0 {
                file.restart()?;
            }
            let length = header(&response, "content-length").and_then(|v| v.parse().ok());
            if let Some(got) = length.filter(|&got: &u64| got != want.size) {
                let what = want.label.to_string();
                return Err(HubError::WrongSize { what, expected: want.size, got }.into());
            }
        }
        416 => {
            file.restart()?;
            return Err(Broken::Retry(transfer_error("it does not have the range".into())));
        }
        busy if http::is_busy(busy) => {
            let error = check_status(&response, want.url).err();
            let error = error.unwrap_or_else(|| transfer_error("busy".into()));
            return Err(Broken::Wait(error, retry_after(&response)));
        }
        _ => {
            check_status(&response, want.url)?;
            return Err(transfer_error(format!("unexpected status {}", response.status())).into());
        }
    }
    file.remember(&response)?;
    progress.begin(want.label, want.size, file.len);
    let result = append(response, want, file, progress);
    progress.end();
    result
}

/// Appends a body; a body that ends early is worth another request, one too long is not.
fn append(
    response: Response,
    want: &Want<'_>,
    file: &mut PartFile<'_>,
    progress: &mut dyn Progress,
) -> Result<(), Broken> {
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; CHUNK];
    loop {
        let transfer_error =
            |why: String| HubError::Transfer { host: host(want.url).to_string(), why };
        let n = match body.read(&mut buffer) {
            Ok(0) if file.len == want.size => return Ok(()),
            Ok(0) => return Err(Broken::Retry(transfer_error("it ended early".into()))),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Broken::Retry(transfer_error(e.to_string()))),
        };
        let got = file.len + n as u64;
        if got > want.size {
            let what = want.label.to_string();
            return Err(HubError::WrongSize { what, expected: want.size, got }.into());
        }
        file.append(&buffer[..n])?;
        progress.at(file.len);
    }
}

/// `bytes START-END/TOTAL` (RFC 9110 §14.4): the start, and the total where it is known.
fn parse_content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _end) = range.split_once('-')?;
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    Some((start.trim().parse().ok()?, total))
}

fn sidecar_path(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_os_string();
    name.push(".json");
    name.into()
}

/// A part file with the hash of what it holds.
struct PartFile<'a> {
    path: &'a Path,
    want: &'a Want<'a>,
    file: File,
    hasher: Hasher,
    len: u64,
    etag: Option<String>,
}

impl<'a> PartFile<'a> {
    /// Opens or creates it; keeps its bytes only where they belong to `want`.
    fn open(path: &'a Path, want: &'a Want<'a>) -> Result<Self> {
        let is_it = |s: &Sidecar| {
            s.url == want.url && s.size == want.size && s.digest == want.digest.to_string()
        };
        let noted = match want.named_by_hash {
            true => Some(want.sidecar(None)),
            false => fs::read(sidecar_path(path))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Sidecar>(&bytes).ok())
                .filter(is_it),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(HubError::file("write", path))?;
        let len = file.metadata().map_err(HubError::file("read", path))?.len();
        let hasher = want.digest.hasher(want.size);
        let mut part = PartFile { path, want, file, hasher, len: 0, etag: None };
        match noted {
            Some(sidecar) if len <= want.size => {
                part.etag = sidecar.etag;
                part.read_existing()?;
            }
            _ => part.restart()?,
        }
        Ok(part)
    }

    fn read_existing(&mut self) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = self.file.read(&mut buffer).map_err(HubError::file("read", self.path))?;
            if n == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..n]);
            self.len += n as u64;
        }
    }

    /// Empties the file.
    fn restart(&mut self) -> Result<()> {
        use std::io::Seek;
        self.file.set_len(0).map_err(HubError::file("write", self.path))?;
        self.file.rewind().map_err(HubError::file("write", self.path))?;
        self.hasher = self.want.digest.hasher(self.want.size);
        self.len = 0;
        self.etag = None;
        self.write_sidecar()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(HubError::file("write", self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Notes the version that the server names. A weak one cannot be used with ranges
    /// (RFC 9110 §13.1.5).
    fn remember(&mut self, response: &Response) -> Result<()> {
        let etag = header(response, "etag").filter(|e| !e.starts_with("W/")).map(str::to_string);
        if etag.is_some() && etag != self.etag {
            self.etag = etag;
            self.write_sidecar()?;
        }
        Ok(())
    }

    fn write_sidecar(&self) -> Result<()> {
        if self.want.named_by_hash {
            return Ok(());
        }
        let path = sidecar_path(self.path);
        let sidecar = self.want.sidecar(self.etag.clone());
        let text = serde_json::to_vec(&sidecar).map_err(std::io::Error::from);
        text.and_then(|text| fs::write(&path, text)).map_err(HubError::file("write", &path))
    }

    fn hash(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["bytes */10", "items 5-9/10", "bytes 5/10", "bytes -9/10", ""] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
