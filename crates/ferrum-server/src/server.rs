//! Connections: accepted up to a limit, given up when they stall, ended in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use crate::error::ApiError;
use crate::{App, api, auth};

/// Threads that talk to clients. They share the processor with the engine, which does the work.
const THREADS: usize = 2;

/// Threads for templates, tokenizers and grammars: many more than the grammars that may compile at
/// once, so that slow ones hold up nobody else.
const BLOCKING_THREADS: usize = 16;

/// Bytes of a request's headers.
const HEADER_BYTES: usize = 64 << 10;

/// Time that idle connections have to close once all answers have ended.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ServeError {
    #[error("cannot listen on {address}: {error}")]
    Bind { address: SocketAddr, error: io::Error },
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Tells a server to stop: it ends the answers that it gives and accepts no further requests.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(Arc::new(watch::channel(false).0))
    }
}

impl Stop {
    /// Says so.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    async fn stopped(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    app: Arc<App>,
}

impl Server {
    /// Begins to listen; port 0 takes a free one.
    pub fn bind(address: SocketAddr, app: Arc<App>) -> Result<Self, ServeError> {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| ServeError::Bind { address, error })?;
        Ok(Server { listener, app })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is told to stop and all answers have ended, or their time is up.
    pub fn run(self, stop: &Stop) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("ferrum-http")
            .enable_all()
            .build()?;
        runtime.block_on(self.serve(stop))?;
        runtime.shutdown_timeout(GOODBYE);
        Ok(())
    }

    async fn serve(self, stop: &Stop) -> Result<(), ServeError> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let limits = &self.app.limits;
        let router = router(self.app.clone());
        let connections = Arc::new(Semaphore::new(limits.connections));
        let graceful = GracefulShutdown::new();
        let accept = async {
            loop {
                // The semaphore is never closed.
                let Ok(permit) = connections.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => connect(stream, &self.app, &router, &graceful, permit),
                    // Of one connection, or too many open files: neither ends the server.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = drained(&self.app, stop) => {}
        }
        drop(listener);
        let _ = tokio::time::timeout(GOODBYE, graceful.shutdown()).await;
        Ok(())
    }
}

/// Waits for the order to stop, and then until all answers have ended or their time is up.
async fn drained(app: &App, stop: &Stop) {
    stop.stopped().await;
    // A request has a lease and is under way, or will be refused one: none is lost in between.
    app.models.close();
    let end = Instant::now() + app.limits.drain;
    while app.models.under_way() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Serves one connection beside the others.
fn connect(
    stream: TcpStream,
    app: &App,
    router: &Router,
    graceful: &GracefulShutdown,
    permit: OwnedSemaphorePermit,
) {
    // Small events must leave at once.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(app.limits.write_timeout));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.limits.header_timeout)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router.clone()));
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        // What goes wrong on a connection is the client's: it is gone, or does not speak HTTP.
        let _ = connection.await;
        drop(permit);
    });
}

/// The routes behind the layers that all of them share.
pub fn router(app: Arc<App>) -> Router {
    api::routes()
        .layer(from_fn_with_state(app.clone(), auth::check))
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

/// Counts responses, and refuses work while the server is about to stop.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_string());
    let anthropic = request.uri().path().starts_with("/v1/messages");
    let draining = app.models.is_closed();
    let mut response = if draining && request.method() == Method::POST {
        let mut response = ApiError::unavailable("the server is about to stop").into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    } else {
        next.run(request).await
    };
    if anthropic && let Some(error) = response.extensions().get::<ApiError>() {
        let body = Body::from(error.to_anthropic().to_string());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = body;
    }
    app.metrics.response(route.as_deref().unwrap_or("none"), response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
