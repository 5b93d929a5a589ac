//! Settings of a server.

use std::time::Duration;

/// What a server is told. The defaults are meant for a machine that is reachable by others.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// Keys that give access; none: everybody has access.
    pub api_keys: Vec<String>,
    /// Requests of one key that wait or run at once; `None`: as many as there are places.
    pub per_key: Option<usize>,
    /// Host names, besides addresses and `localhost`, by which the server may be called where no
    /// key protects it; see [`crate::auth`].
    pub host_names: Vec<String>,
    /// Bounds on what clients can cost.
    pub limits: Limits,
}

/// Bounds on what clients can cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests that wait for a place in the batch; a further one is answered 429.
    pub queue: usize,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Bytes of bodies that are read and not yet made into requests, of all connections together;
    /// a further body is answered 503. At least [`Limits::body_bytes`], and small bodies are not
    /// counted.
    pub bodies_bytes: usize,
    /// Bytes of bodies of requests that wait for their models to be loaded, of all together; a
    /// further one is answered 503. At least [`Limits::body_bytes`], and small bodies are not
    /// counted.
    pub parked_bytes: usize,
    /// Bytes of answers of embeddings that are being read; a further one is answered 503. A single
    /// one always fits.
    pub answers_bytes: usize,
    /// Connections at once; further ones wait to be accepted.
    pub connections: usize,
    /// Time for a request's headers, and for which a connection may be idle.
    pub header_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// Time without progress after which a client that does not read is given up.
    pub write_timeout: Duration,
    /// Time between signs of life in a stream without news.
    pub keep_alive: Duration,
    /// Answers to one request: prompts times `n`.
    pub choices: usize,
    /// A step that takes longer than this makes `/health` report a hang.
    pub stall: Duration,
    /// Time that running answers have to end once the server is told to stop.
    pub drain: Duration,
    /// Events of one request that may wait for its reader; one that lags further behind is given
    /// up. It bounds the memory that slow readers cost.
    pub backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            queue: 64,
            body_bytes: 8 << 20,
            bodies_bytes: 32 << 20,
            parked_bytes: 64 << 20,
            answers_bytes: 256 << 20,
            connections: 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(15),
            choices: 64,
            stall: Duration::from_secs(120),
            drain: Duration::from_secs(30),
            backlog: 8192,
        }
    }
}
