//! A server on a free port with a tiny model of random weights, and a client of plain sockets, so
//! that tests can also send what no client library would.
#![allow(dead_code, reason = "each test crate uses a part")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferrum_engine::EngineConfig;
use ferrum_models::gguf::Gguf;
use ferrum_models::synth::SynthSpec;
use ferrum_models::{Checkpoint, Device, KV_BLOCK_SIZE, LoadOptions};
use ferrum_server::{
    App, Encoder, Limits, Metrics, Model, ModelSpec, Models, ModelsConfig, Offer, Server,
    ServerConfig, Start, Stop,
};
use serde_json::{Value, json};

/// The model's name.
pub const MODEL: &str = "tiny";
/// Tokens of prompt and answer together.
pub const CONTEXT: usize = 2048;

/// How a test's server differs from a plain one.
pub struct Setup {
    pub config: ServerConfig,
    pub max_seqs: usize,
    pub device: Device,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits { queue: 8, ..Limits::default() };
        Setup {
            config: ServerConfig { limits, ..ServerConfig::default() },
            max_seqs: 4,
            device: Device::Cpu,
        }
    }
}

/// A running server; dropping it stops it.
pub struct Running {
    pub address: SocketAddr,
    pub app: Arc<App>,
    pub stop: Stop,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// A server of the default setup.
pub fn start() -> Running {
    start_with(Setup::default())
}

pub fn start_with(setup: Setup) -> Running {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let offer = offer(dir.path(), MODEL, &setup);
    let metrics = Metrics::new().expect("metrics");
    let models = Models::new(vec![offer], ModelsConfig::default(), &metrics).expect("one model");
    models.load(0).expect("a model");
    start_app(dir, App::new(models, metrics, setup.config))
}

/// How a model is loaded that another one may propose tokens for.
pub fn drafting_load() -> LoadOptions {
    LoadOptions {
        threads: Some(1),
        context: Some(CONTEXT),
        max_seqs: 4,
        step_tokens: 64,
        max_samples: Some(24),
        ..LoadOptions::default()
    }
}

/// `plain` with the model in `path` loaded by `load`, and the one in `draft` to propose its tokens.
pub fn with_draft(plain: Offer, path: PathBuf, draft: Option<PathBuf>, load: LoadOptions) -> Offer {
    let proposing = load.for_draft();
    let spec = ModelSpec {
        id: plain.id.clone(),
        load,
        engine: EngineConfig::default(),
        queue: 8,
        backlog: 1000,
    };
    let start = move |metrics| {
        let file = Gguf::open(&path)?;
        let draft = draft.as_ref().map(|draft| Gguf::open(draft)).transpose()?;
        let draft = draft.as_ref().map(|draft| (draft as &dyn Checkpoint, &proposing));
        Model::start_with(&file, draft, spec.clone(), metrics)
    };
    Offer { start: Start::Model(Box::new(start)), ..plain }
}

/// The offer of a model that makes embeddings, on one thread.
pub fn encoder_offer(
    name: &'static str,
    folder: PathBuf,
    dimensions: usize,
    options: LoadOptions,
) -> Offer {
    let threads = (options.device == Device::Cpu).then_some(1);
    let options = LoadOptions { threads, ..options };
    let load = {
        let folder = folder.clone();
        Box::new(move || Encoder::load(name.into(), &folder, &options, 4))
    };
    Offer {
        id: name.into(),
        aliases: Vec::new(),
        adapters: Vec::new(),
        context: 64,
        bytes: 1,
        waiting: 4,
        files: vec![folder],
        start: Start::Encoder { dimensions, load },
    }
}

/// The file of a tiny model, and its offer. Models of other names have other weights.
pub fn offer(dir: &Path, name: &str, setup: &Setup) -> Offer {
    let path = dir.join(format!("{name}.gguf"));
    let preset = SynthSpec::preset("llama-tiny").expect("a preset");
    let seed = if name == MODEL { preset.seed } else { name.bytes().map(u64::from).sum() };
    let spec = SynthSpec { layers: 2, hidden: 64, ffn: 96, heads: 2, vocab: 400, seed, ..preset };
    spec.write(File::create(&path).expect("writable")).expect("written");
    let spec = ModelSpec {
        id: name.into(),
        load: LoadOptions {
            device: setup.device,
            threads: (setup.device == Device::Cpu).then_some(1),
            context: Some(CONTEXT),
            max_seqs: setup.max_seqs,
            kv_blocks: Some(2 * CONTEXT / KV_BLOCK_SIZE),
            step_tokens: 64,
            ..LoadOptions::default()
        },
        engine: EngineConfig::default(),
        queue: setup.config.limits.queue,
        backlog: setup.config.limits.backlog,
    };
    Offer {
        id: name.into(),
        aliases: if name == MODEL { vec!["little".into()] } else { Vec::new() },
        adapters: Vec::new(),
        context: CONTEXT,
        bytes: 1,
        waiting: setup.max_seqs + setup.config.limits.queue,
        files: vec![path.clone()],
        start: Start::Model(Box::new(move |metrics| {
            Model::start(&Gguf::open(&path)?, spec.clone(), metrics)
        })),
    }
}

/// Loads wait until it is opened, and are counted.
#[derive(Clone, Default)]
pub struct LoadGate(Arc<(Mutex<bool>, Condvar, AtomicUsize)>);

impl LoadGate {
    /// The offer with this gate before it.
    pub fn before(&self, offer: Offer) -> Offer {
        let gate = self.clone();
        let Start::Model(start) = offer.start else { panic!("a model that generates") };
        let start = Start::Model(Box::new(move |metrics| {
            gate.pass();
            start(metrics)
        }));
        Offer { start, ..offer }
    }

    fn pass(&self) {
        let (open, changed, loads) = &*self.0;
        loads.fetch_add(1, Ordering::SeqCst);
        let open = changed.wait_while(open.lock().expect("sound"), |open| !*open);
        drop(open.expect("sound"));
    }

    pub fn open(&self) {
        *self.0.0.lock().expect("sound") = true;
        self.0.1.notify_all();
    }

    /// Loads that have begun.
    pub fn loads(&self) -> usize {
        self.0.2.load(Ordering::SeqCst)
    }
}

/// A running server of this application.
pub fn start_app(dir: tempfile::TempDir, app: App) -> Running {
    let app = Arc::new(app);
    let address = "127.0.0.1:0".parse().expect("an address");
    let server = Server::bind(address, app.clone()).expect("a free port");
    let (address, stop) = (server.address().expect("bound"), Stop::default());
    let ender = stop.clone();
    let thread = std::thread::spawn(move || server.run(&ender).expect("it serves"));
    Running { address, app, stop, thread: Some(thread), _dir: dir }
}

impl Running {
    /// Stops and waits for the end.
    pub fn end(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends without a panic");
        }
    }

    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream
    }

    /// A connection of which little fits into the buffers between server and client.
    pub fn connect_narrow(&self) -> TcpStream {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(4096).expect("a size");
            let stream = socket.connect(self.address).await.expect("it listens");
            let stream = stream.into_std().expect("a socket");
            stream.set_nonblocking(false).expect("blocking");
            stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
            stream
        })
    }

    /// Sends these bytes and reads until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may refuse before it has read all.
        let _ = stream.write_all(bytes);
        let mut out = Vec::new();
        let _ = stream.read_to_end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    pub fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        Response::parse(&self.raw(request_bytes(method, path, headers, body).as_bytes()))
    }

    /// What `/metrics` says of a model, if it says it.
    pub fn metric(&self, name: &str, model: &str) -> Option<f64> {
        let text = self.get("/metrics").body;
        let line = format!("{name}{{model=\"{model}\"}} ");
        let value = text.lines().find_map(|l| l.strip_prefix(line.as_str()))?;
        Some(value.parse().expect("a number"))
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, "", "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, JSON, &body.to_string())
    }

    /// The answer to a request that must be refused with this status: its error object.
    pub fn refused(&self, path: &str, body: &Value, status: u16) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, status, "{body}: {response:?}");
        let error = response.json()["error"].clone();
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        error
    }

    /// The answer to a request that must work.
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{body}: {response:?}");
        response.json()
    }

    /// The events of a stream that must work and end with `[DONE]`.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{body}: {response:?}");
        let mut events: Vec<&str> =
            response.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{response:?}");
        events.into_iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }

    /// Waits until no request is left and all blocks are free.
    pub fn wait_until_free(&self) {
        let free = || {
            let free = |model: &Arc<Model>| {
                let stats = model.service.stats();
                let idle = stats.running == 0 && stats.waiting == 0;
                idle && stats.kv_blocks_free == stats.kv_blocks
            };
            self.app.models.leases() == 0 && self.app.models.resident().iter().all(free)
        };
        wait_for(free, "all requests have ended and all blocks are free");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

pub fn wait_for(mut condition: impl FnMut() -> bool, what: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub const JSON: &str = "Content-Type: application/json\r\n";

pub fn request_bytes(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn parse(text: &str) -> Response {
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole response");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let head = head.to_ascii_lowercase();
        let body = match head.contains("transfer-encoding: chunked") {
            true => unchunked(body),
            false => body.to_string(),
        };
        Response { status, head, body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("JSON: {self:?}"))
    }
}

fn unchunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("the size of a chunk");
        out.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    out
}

/// A request for a chat's next message.
pub fn chat(extra: Value) -> Value {
    merged(
        json!({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 8, "temperature": 0, "ignore_eos": true}),
        extra,
    )
}

/// A request to continue a text.
pub fn completion(extra: Value) -> Value {
    merged(
        json!({"model": MODEL, "prompt": "Hello there", "max_tokens": 8, "temperature": 0,
            "ignore_eos": true}),
        extra,
    )
}

fn merged(mut base: Value, extra: Value) -> Value {
    let Value::Object(extra) = extra else { panic!("an object") };
    for (key, value) in extra {
        base[key] = value;
    }
    base
}
