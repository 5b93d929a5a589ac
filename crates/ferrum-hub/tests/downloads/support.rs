//! A tiny HTTP server on this machine, and models to serve.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrum_hub::catalogue::{Entry, Package};
use ferrum_hub::hash::{Digest, Sha256};
use ferrum_hub::{HubConfig, NetworkLimits, Progress};
use serde_json::json;

/// A request as the server saw it; header names in lower case.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// `Content-Length` where it is not the truth.
    pub claimed: Option<usize>,
    /// Sends only this many bytes of the body.
    pub cut: Option<usize>,
    /// Waits so long before it closes the connection.
    pub stall: Duration,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let (headers, body) = (Vec::new(), body.into());
        Reply { status, headers, body, claimed: None, cut: None, stall: Duration::ZERO }
    }

    pub fn json(body: serde_json::Value) -> Self {
        let mut reply = Reply::new(200, body.to_string());
        reply.headers.push(("Content-Type", "application/json".into()));
        reply
    }

    /// The body as a server with ranges sends it: 206 where the request asks for a range.
    pub fn ranged(request: &Request, body: &[u8], etag: &str) -> Self {
        let range = request.headers.get("range").and_then(|r| r.strip_prefix("bytes="));
        let start = range.and_then(|r| r.strip_suffix('-')).and_then(|s| s.parse::<usize>().ok());
        let same = request.headers.get("if-range").is_none_or(|known| known == etag);
        let mut reply = match start.filter(|_| same) {
            Some(start) if start < body.len() => {
                let mut reply = Reply::new(206, &body[start..]);
                let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
                reply.headers.push(("Content-Range", range));
                reply
            }
            Some(_) => Reply::new(416, ""),
            None => Reply::new(200, body),
        };
        reply.headers.push(("ETag", etag.into()));
        reply
    }

    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

/// Serves until the test's process ends.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers the `n`-th request for a path (counted from 0 for each path) with `handler`.
    pub fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, handler) = (seen.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, handler) = (log.clone(), handler.clone());
                std::thread::spawn(move || serve(stream, &log, &*handler));
            }
        });
        Server { url, seen }
    }

    /// The requests so far whose path begins with `prefix`.
    pub fn seen(&self, prefix: &str) -> Vec<Request> {
        let seen = self.seen.lock().expect("no panic in the server");
        seen.iter().filter(|r| r.path.starts_with(prefix)).cloned().collect()
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    handler: &dyn Fn(&Request, usize) -> Reply,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let request = Request { method, path, headers };
    let nth = {
        let mut log = log.lock().ok()?;
        log.push(request.clone());
        log.iter().filter(|r| r.path == request.path).count() - 1
    };
    let mut reply = handler(&request, nth);
    if request.method == "HEAD" {
        reply.claimed = reply.claimed.or(Some(reply.body.len()));
        reply.body.clear();
    }
    answer(stream, &reply)
}

fn answer(mut stream: TcpStream, reply: &Reply) -> Option<()> {
    let length = reply.claimed.unwrap_or(reply.body.len());
    let mut head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {length}\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(b"\r\n").ok()?;
    let sent = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    stream.write_all(&reply.body[..sent]).ok()?;
    std::thread::sleep(reply.stall);
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    // Until the client closes too: closing first could discard what is on the way.
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let _ = stream.read(&mut [0; 16]);
    Some(())
}

/// Settings for a store in `dir` and a hub at `server`; no index, no pip, little patience.
pub fn config(dir: &Path, server: &Server) -> HubConfig {
    let home = dir.as_os_str().to_os_string();
    let vars = |name: &str| (name == "FERRUM_HOME").then(|| home.clone());
    let mut config = HubConfig::from_vars(vars).expect("FERRUM_HOME is set");
    config.hub_endpoint = server.url.clone();
    config.pip_commands = Vec::new();
    config.network = NetworkLimits {
        connect: Duration::from_secs(2),
        response: Duration::from_secs(5),
        stall: Duration::from_millis(300),
        pip: Duration::from_secs(5),
        attempts: 3,
        backoff: Duration::from_millis(1),
    };
    config
}

/// Bytes that do not compress and differ from place to place.
pub fn content(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = || {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The commit of the hub's only repository.
pub const COMMIT: &str = "c0ffee0123456789c0ffee0123456789c0ffee01";

/// What the hub says about a repository that has these files, all kept beside git.
pub fn listing(files: &[(&str, &[u8])]) -> Reply {
    let files: Vec<_> = files.iter().map(|(name, b)| HubFile::new(name, *b, true)).collect();
    list(&files)
}

/// A file of the hub's repository.
#[derive(Debug, Clone)]
pub struct HubFile {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Kept beside git: fetched from a server of its own.
    pub lfs: bool,
}

impl HubFile {
    pub fn new(name: &str, bytes: impl Into<Vec<u8>>, lfs: bool) -> Self {
        HubFile { name: name.to_string(), bytes: bytes.into(), lfs }
    }

    pub fn digest(&self) -> Digest {
        match self.lfs {
            true => Sha256::of(&self.bytes).into(),
            false => Digest::git_blob(&self.bytes),
        }
    }
}

fn list(files: &[HubFile]) -> Reply {
    let sibling = |file: &HubFile| {
        let (size, digest) = (file.bytes.len(), file.digest().to_string());
        let mut entry = json!({ "rfilename": file.name, "size": size, "blobId": digest });
        if file.lfs {
            // Then the blob is a short text that names the file.
            entry["blobId"] = "0123456789".repeat(4).into();
            entry["lfs"] = json!({ "sha256": digest, "size": size, "pointerSize": 134 });
        }
        entry
    };
    Reply::json(json!({ "sha": COMMIT, "siblings": Vec::from_iter(files.iter().map(sibling)) }))
}

/// A hub with one repository, and the server that keeps its large files.
pub struct FakeHub {
    pub api: Server,
    pub storage: Server,
}

/// Answers instead of the hub, where it gives an answer.
pub type Trouble = dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync;

impl FakeHub {
    /// A hub that does all as the real one does.
    pub fn new(files: Vec<HubFile>) -> Self {
        FakeHub::with(files, |_, _| None, |_, _| None)
    }

    /// A hub whose two servers do something else now and then.
    pub fn with(
        files: Vec<HubFile>,
        trouble: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
        storage_trouble: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let files = Arc::new(files);
        let (trouble, storage_trouble): (Box<Trouble>, Box<Trouble>) =
            (Box::new(trouble), Box::new(storage_trouble));
        let kept = files.clone();
        let storage = Server::start(move |request, nth| {
            let found = kept.iter().find(|f| request.path == format!("/{}", f.digest()));
            let whole = |file: &HubFile| Reply::ranged(request, &file.bytes, "\"storage\"");
            storage_trouble(request, nth)
                .or_else(|| found.map(whole))
                .unwrap_or_else(|| Reply::new(404, ""))
        });
        // Another name of this machine, so that it is another host.
        let elsewhere = storage.url.replace("127.0.0.1", "localhost");
        let api = Server::start(move |request, nth| {
            trouble(request, nth).unwrap_or_else(|| answer_as_hub(&files, &elsewhere, request))
        });
        FakeHub { api, storage }
    }
}

fn answer_as_hub(files: &[HubFile], storage: &str, request: &Request) -> Reply {
    let known = ["main", "refs%2Fpr%2F1", COMMIT];
    let listings = known.map(|known| format!("/api/models/o/r/revision/{known}?blobs=true"));
    if listings.contains(&request.path) {
        return list(files);
    }
    if request.path.starts_with("/api/models/o/r/revision/") {
        return refuse(404, "RevisionNotFound");
    }
    let name = request.path.strip_prefix(&format!("/o/r/resolve/{COMMIT}/"));
    let Some(name) = name else { return refuse(404, "RepoNotFound") };
    let Some(file) = files.iter().find(|f| f.name == name) else {
        return refuse(404, "EntryNotFound");
    };
    let digest = file.digest().to_string();
    let mut reply = match file.lfs {
        true => Reply::new(302, ""),
        false => Reply::ranged(request, &file.bytes, &format!("\"{digest}\"")),
    };
    if file.lfs {
        reply.headers.push(("Location", format!("{storage}/{digest}")));
        reply.headers.push(("X-Linked-Etag", format!("\"{digest}\"")));
        reply.headers.push(("X-Linked-Size", file.bytes.len().to_string()));
    }
    reply.headers.push(("X-Repo-Commit", COMMIT.into()));
    reply
}

/// An error as the hub gives it.
pub fn refuse(status: u16, code: &str) -> Reply {
    let mut reply = Reply::new(status, "");
    reply.headers.push(("X-Error-Code", code.into()));
    reply
}

/// A wheel with one member.
pub fn wheel(member: &str, bytes: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options: zip::write::SimpleFileOptions = Default::default();
    zip.start_file(member, options.compression_method(zip::CompressionMethod::Deflated))
        .expect("a new member");
    zip.write_all(bytes).expect("memory");
    zip.finish().expect("memory").into_inner()
}

/// A catalogue entry `o/r/m.gguf` whose bytes are also in these wheels, in order.
pub fn entry(bytes: &[u8], wheels: &[(&'static str, &'static str, &[u8])]) -> &'static Entry {
    let packages: Vec<Package> = wheels
        .iter()
        .map(|&(name, member, wheel)| Package {
            name,
            version: "1.0",
            member,
            size: wheel.len() as u64,
            sha256: Sha256::of(wheel),
        })
        .collect();
    Box::leak(Box::new(Entry {
        aliases: &["test"],
        description: "",
        license: "",
        repo: "o/r",
        revision: "main",
        file: "m.gguf",
        size: bytes.len() as u64,
        sha256: Sha256::of(bytes),
        packages: Vec::leak(packages),
        folder: &[],
    }))
}

/// Keeps the notes.
#[derive(Default)]
pub struct Notes(pub Vec<String>);

impl Progress for Notes {
    fn note(&mut self, line: &str) {
        self.0.push(line.to_string());
    }
    fn begin(&mut self, _what: &str, total: u64, have: u64) {
        assert!(have <= total);
    }
    fn at(&mut self, _have: u64) {}
    fn end(&mut self) {}
}

/// Names of all files below `dir` but those that only say something of the cache: locks, what `main`
/// means, and the tag for programs that make backups.
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                _ if name.ends_with(".lock") || name == "main" || name == "CACHEDIR.TAG" => {}
                _ => found.push(name),
            }
        }
    }
    found.sort();
    found
}
