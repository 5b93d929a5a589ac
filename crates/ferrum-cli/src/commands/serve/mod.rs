//! `ferrum serve`: the HTTP server.

mod adapters;
mod encoders;
mod offers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ferrum_server::{App, Limits, Metrics, Models, ModelsConfig, Server, ServerConfig, Stop};

use crate::args::ServeArgs;
use crate::config::Config;
use crate::exit::{self, UsageError};
use crate::ui::text;

/// Loads the first model and serves until a signal comes.
pub fn run(args: &ServeArgs, config: &Config) -> Result<()> {
    let server_config = server_config(args, config)?;
    let offers = offers::open(args, &server_config.limits, config)?;
    let metrics = Metrics::new()?;
    let wait = Duration::from_secs(u64::from(args.size.load_wait));
    let first = offers.list.first().map(|offer| offer.id.clone());
    let choices = ModelsConfig { memory: offers.memory, wait, ..ModelsConfig::default() };
    let models = Models::new(offers.list, choices, &metrics)?;
    let begun = Instant::now();
    if let Some(first) = first.filter(|_| !args.size.lazy) {
        let load = models.load(0);
        load.map_err(|error| anyhow!("the model {first} could not be loaded: {error}"))?;
    }
    let loaded = begun.elapsed();
    let open = server_config.api_keys.is_empty();
    let app = App::new(models, metrics, server_config);
    let server = Server::bind(SocketAddr::new(args.host, args.port), Arc::new(app))?;
    if !config.quiet {
        for (i, line) in offers.lines.iter().enumerate() {
            match i == 0 && !args.size.lazy {
                true => eprintln!("{line}; loaded in {:.1} s", loaded.as_secs_f64()),
                false => eprintln!("{line}; loaded when it is asked for"),
            }
        }
        if let Some(memory) = offers.memory {
            eprintln!("memory for models that are loaded at once: {}", text::bytes(memory));
        }
        if open && !args.host.is_loopback() {
            eprintln!(
                "warning: everybody who can reach this machine can use the server; --api-key"
            );
        }
        eprintln!("listening on http://{}", server.address()?);
    }
    let stop = Stop::default();
    stop_on_signal(stop.clone())?;
    server.run(&stop)?;
    Ok(())
}

/// The first signal ends the server in order, the second at once.
fn stop_on_signal(stop: Stop) -> Result<()> {
    let before = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if before.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(exit::INTERRUPTED));
        }
        stop.stop();
    })
    .context("cannot handle signals")
}

fn server_config(args: &ServeArgs, config: &Config) -> Result<ServerConfig> {
    let seconds = |n: u32| Duration::from_secs(u64::from(n));
    let size = &args.size;
    Ok(ServerConfig {
        api_keys: api_keys(args, config)?,
        per_key: args.access.per_key.map(|n| n as usize),
        host_names: args.access.host_name.clone(),
        limits: Limits {
            queue: size.queue as usize,
            body_bytes: usize::try_from(size.max_body).unwrap_or(usize::MAX),
            bodies_bytes: usize::try_from(size.max_body.saturating_mul(4)).unwrap_or(usize::MAX),
            parked_bytes: usize::try_from(size.max_body.saturating_mul(8)).unwrap_or(usize::MAX),
            connections: size.max_connections as usize,
            drain: seconds(size.drain),
            stall: seconds(size.stall),
            ..Limits::default()
        },
    })
}

/// The keys of flags, file and environment.
fn api_keys(args: &ServeArgs, config: &Config) -> Result<Vec<String>> {
    let mut keys = args.access.api_key.clone();
    if let Some(key) = &config.api_key {
        // Without its key the server would be open.
        let text = key.to_str().ok_or_else(|| UsageError("FERRUM_API_KEY is no text".into()))?;
        keys.push(text.to_string());
    }
    if let Some(path) = &args.access.api_key_file {
        let before = keys.len();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.extend(lines.map(str::to_string));
        if keys.len() == before {
            // A server that was meant to be closed must not be open.
            let message = format!("{} holds no API key", path.display());
            return Err(UsageError(message).into());
        }
    }
    if keys.iter().any(|key| key.trim().is_empty()) {
        return Err(UsageError("an API key is empty".into()).into());
    }
    Ok(keys)
}
