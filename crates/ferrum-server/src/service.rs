//! The thread that owns an engine, and how requests get to it and answers back.
//!
//! Requests go in by a bounded queue; what happens to them comes back by one channel for each
//! submission. The thread never waits for a reader: a channel holds as many events as
//! [`ServiceConfig::backlog`] says, and a request whose reader lags further behind is given up, as
//! is one whose reader is gone; its blocks are free before the next step.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferrum_engine::{AdmissionError, Engine, EngineError, EngineStats, Event, Request, RequestId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::auth::Tenant;
use crate::clock::Clock;
use crate::error::{ApiError, ApiResult};
use crate::leases::{Hold, Lease, UnderWay};
use crate::metrics::ModelMetrics;
use crate::model::Model;

/// Sizes of a [`Service`].
#[derive(Debug, Clone, Copy)]
pub struct ServiceConfig {
    /// Requests that run at once.
    pub running: usize,
    /// Requests that wait besides.
    pub queue: usize,
    /// Events of a submission that may wait for its reader.
    pub backlog: usize,
}

/// What happens to a submission. `Accepted` or `Refused` comes first; then, after `Accepted`, the
/// events of its requests, each with the request's place in the submission.
#[derive(Debug)]
pub enum Update {
    /// All requests are queued.
    Accepted,
    /// None is, for this reason.
    Refused(AdmissionError),
    /// News of one request.
    Event(usize, Event),
    /// The engine could not go on with the requests.
    Failed(String),
}

/// The handle to the engine's thread. Dropping it lets the thread end once it is idle.
#[derive(Debug)]
pub struct Service {
    /// Until the service is closed.
    submissions: Mutex<Option<SyncSender<Submission>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

/// What the thread and its handles share.
#[derive(Debug)]
struct Shared {
    config: ServiceConfig,
    /// One permit for each request that waits or runs, or whose answer is being read.
    places: Arc<Semaphore>,
    stats: Mutex<EngineStats>,
    /// Of the steps.
    clock: Clock,
    alive: AtomicBool,
    /// Why the thread ended, where it had to.
    failure: OnceLock<String>,
    /// Milliseconds that requests took, on average over the last ones.
    request_ms: AtomicUsize,
}

struct Submission {
    requests: Vec<Request>,
    to: mpsc::Sender<Update>,
    hold: Arc<Hold>,
}

/// The answers to one submission as they come. Dropping it gives its requests up.
#[derive(Debug)]
pub struct Answers {
    updates: mpsc::Receiver<Update>,
    _places: Vec<OwnedSemaphorePermit>,
    _under_way: UnderWay,
}

impl Answers {
    /// The next news; `None` where the service gave the submission up.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }
}

impl Service {
    /// Starts the thread.
    pub fn start(
        engine: Engine,
        config: ServiceConfig,
        metrics: Arc<ModelMetrics>,
    ) -> std::io::Result<Service> {
        let places = config.running + config.queue;
        // Submissions whose readers left hold no permit any more: the queue can be full.
        let (submissions, receiver) = sync_channel(places);
        let shared = Arc::new(Shared {
            config,
            places: Arc::new(Semaphore::new(places)),
            stats: Mutex::new(engine.stats()),
            clock: Clock::default(),
            alive: AtomicBool::new(true),
            failure: OnceLock::new(),
            request_ms: AtomicUsize::new(1000),
        });
        let worker = Worker {
            engine,
            submissions: receiver,
            live: HashMap::new(),
            shared: shared.clone(),
            metrics,
        };
        let thread = std::thread::Builder::new().name("ferrum-engine".into()).spawn(move || {
            let shared = worker.shared.clone();
            // A panic is a bug; clients and supervisors must hear of it rather than wait.
            if catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
                let _ = shared.failure.set("a panic".into());
            }
            shared.alive.store(false, Ordering::Release);
        })?;
        let (submissions, thread) = (Mutex::new(Some(submissions)), Mutex::new(Some(thread)));
        Ok(Service { submissions, thread, shared })
    }

    /// Takes no further submissions, and waits until the running ones have ended and the engine's
    /// memory is free.
    pub fn close(&self) {
        locked(&self.submissions).take();
        if let Some(thread) = locked(&self.thread).take() {
            // Panics are caught within.
            let _ = thread.join();
        }
    }

    /// Queues requests that belong together: all or none. `tenant` is who asks; the lease is on the
    /// model of this service, with the adapter that is meant, and is held until the last of the
    /// requests has ended here.
    pub fn submit(
        &self,
        mut requests: Vec<Request>,
        lease: Lease<Arc<Model>>,
        tenant: &Tenant,
    ) -> ApiResult<Answers> {
        lease.name_adapter(&mut requests);
        let (hold, mut held, under_way) = lease.into_parts();
        let gone = || ApiError::unavailable(self.stopped());
        if !self.shared.alive.load(Ordering::Acquire) {
            return Err(gone());
        }
        let total = (self.shared.config.running + self.shared.config.queue).min(tenant.limit);
        let count = match u32::try_from(requests.len()) {
            Ok(count) if requests.len() <= total => count,
            _ => {
                return Err(ApiError::invalid(format!(
                    "the request asks for {} answers; {total} can wait or run at once",
                    requests.len()
                )));
            }
        };
        let busy = |what| ApiError::busy(what, self.retry_after());
        // One place the request has already.
        let more = count.saturating_sub(u32::try_from(held.len()).unwrap_or(u32::MAX));
        let of_tenant = tenant.places.clone().try_acquire_many_owned(more);
        let of_tenant =
            of_tenant.map_err(|_| busy("too many requests with this API key at once"))?;
        let places = self.shared.places.clone().try_acquire_many_owned(count);
        let places = places.map_err(|_| busy("too many requests are waiting"))?;
        let (to, updates) = mpsc::channel(self.shared.config.backlog.max(2));
        // Places of answers given up are free before the thread takes their submissions.
        let submissions = locked(&self.submissions);
        let sender = submissions.as_ref().ok_or_else(gone)?;
        sender.try_send(Submission { requests, to, hold }).map_err(|error| match error {
            TrySendError::Full(_) => busy("too many requests are waiting"),
            TrySendError::Disconnected(_) => gone(),
        })?;
        held.extend([of_tenant, places]);
        Ok(Answers { updates, _places: held, _under_way: under_way })
    }

    /// Seconds until a place is likely to be free.
    fn retry_after(&self) -> u64 {
        let ms = self.shared.request_ms.load(Ordering::Relaxed) as u64;
        // The queue is full: one of the running requests has to end.
        (ms / 1000 / self.shared.config.running.max(1) as u64).clamp(1, 60)
    }

    /// The state of the engine after its last step.
    pub fn stats(&self) -> EngineStats {
        *locked(&self.shared.stats)
    }

    /// Why no request is answered any more, if the engine's thread ended although nobody closed the
    /// service.
    pub fn failure(&self) -> Option<String> {
        let alive = self.shared.alive.load(Ordering::Acquire);
        (!alive && locked(&self.submissions).is_some()).then(|| self.stopped())
    }

    /// That the engine has stopped, and why.
    fn stopped(&self) -> String {
        let stopped = "the engine has stopped";
        self.shared.failure.get().map_or(stopped.into(), |why| {
            format!("{stopped} and the server has to be started again: {why}")
        })
    }

    /// How long the step that runs has been running.
    pub fn step_time(&self) -> Duration {
        self.shared.clock.time()
    }

    /// Requests that wait or run, or whose answers are being read.
    pub fn in_flight(&self) -> usize {
        let ServiceConfig { running, queue, .. } = self.shared.config;
        (running + queue).saturating_sub(self.shared.places.available_permits())
    }
}

/// What is in a mutex that nobody leaves half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's side.
struct Worker {
    engine: Engine,
    submissions: Receiver<Submission>,
    live: HashMap<RequestId, Live>,
    shared: Arc<Shared>,
    metrics: Arc<ModelMetrics>,
}

/// A request in the engine.
struct Live {
    /// Its place in the submission.
    index: usize,
    to: mpsc::Sender<Update>,
    since: Instant,
    last_token: Option<Instant>,
    /// The model stays as long as one of the submission's requests is here.
    _hold: Arc<Hold>,
}

impl Worker {
    fn run(mut self) {
        while self.take() {
            self.give_up_abandoned();
            let step = self.shared.clock.begin();
            let outcome = self.engine.step();
            drop(step);
            match outcome {
                Ok(events) => self.report(events),
                Err(error) => self.fail(&error),
            }
            if let Some(why) = self.engine.failure() {
                // A supervisor sees it, and can start the server again.
                let _ = self.shared.failure.set(why);
                return;
            }
            let stats = self.engine.stats();
            *locked(&self.shared.stats) = stats;
        }
    }

    /// Takes all that was submitted, and waits for it where there is nothing else to do. False:
    /// nothing will come any more, and nothing runs.
    fn take(&mut self) -> bool {
        if self.engine.is_idle() {
            match self.submissions.recv() {
                Ok(submission) => self.add(submission),
                Err(_) => return false,
            }
        }
        loop {
            match self.submissions.try_recv() {
                Ok(submission) => self.add(submission),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn add(&mut self, submission: Submission) {
        let Submission { requests, to, hold } = submission;
        let mut ids = Vec::with_capacity(requests.len());
        for request in requests {
            match self.engine.add(request) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    for id in ids {
                        self.engine.cancel(id);
                    }
                    // A reader that is gone needs no answer.
                    let _ = to.try_send(Update::Refused(error));
                    return;
                }
            }
        }
        let _ = to.try_send(Update::Accepted);
        let since = Instant::now();
        for (index, id) in ids.into_iter().enumerate() {
            let (to, _hold) = (to.clone(), hold.clone());
            let live = Live { index, to, since, last_token: None, _hold };
            self.live.insert(id, live);
        }
    }

    fn give_up_abandoned(&mut self) {
        let (engine, metrics) = (&mut self.engine, &self.metrics);
        self.live.retain(|&id, live| {
            if live.to.is_closed() {
                engine.cancel(id);
                metrics.finished("abandoned");
            }
            !live.to.is_closed()
        });
    }

    fn report(&mut self, events: Vec<Event>) {
        let now = Instant::now();
        for event in events {
            let id = event_id(&event);
            // Events of requests that were given up have no reader.
            let Some(live) = self.live.get_mut(&id) else { continue };
            self.metrics.event(&event, live.since, &mut live.last_token, now);
            let ended = matches!(event, Event::Finished { .. });
            let sent = live.to.try_send(Update::Event(live.index, event));
            if ended {
                let ms = live.since.elapsed().as_millis() as usize;
                let before = self.shared.request_ms.load(Ordering::Relaxed);
                self.shared.request_ms.store((before * 7 + ms) / 8, Ordering::Relaxed);
                self.live.remove(&id);
            } else if matches!(sent, Err(mpsc::error::TrySendError::Full(_))) {
                self.live.remove(&id);
                self.engine.cancel(id);
                self.metrics.finished("slow_reader");
            }
        }
    }

    /// A step failed. What failed once would most likely fail again, so the requests end; the
    /// engine goes on with those that come.
    fn fail(&mut self, error: &EngineError) {
        let message = error.to_string();
        for (id, live) in self.live.drain() {
            self.engine.cancel(id);
            self.metrics.finished("error");
            let _ = live.to.try_send(Update::Failed(message.clone()));
        }
    }
}

/// Whose event it is.
fn event_id(event: &Event) -> RequestId {
    match *event {
        Event::Prompt { id, .. } | Event::Text { id, .. } | Event::Finished { id, .. } => id,
    }
}
