//! `ferrum serve`: the HTTP server.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrum_engine::EngineConfig;
use ferrum_hub::{ModelRef, catalogue};
use ferrum_models::{KV_BLOCK_SIZE, LoadOptions, memory_estimate};
use ferrum_server::{App, Limits, Metrics, Model, ModelSpec, Server, ServerConfig, Stop};

use crate::args::ServeArgs;
use crate::config::Config;
use crate::exit::{self, UsageError};
use crate::session::{ModelFile, open_reference};
use crate::sizing;
use crate::ui::text;

/// Loads the model and serves until a signal comes.
pub fn run(args: &ServeArgs, config: &Config) -> Result<()> {
    let server_config = server_config(args, config)?;
    let reference = ModelRef::parse(args.model.as_deref().unwrap_or(catalogue::DEFAULT_ALIAS))?;
    let file = open_reference(&reference, config)?;
    let begun = Instant::now();
    let spec = spec(args, &reference, &file, &server_config.limits)?;
    let sizes = describe(&file, &spec)?;
    let metrics = Arc::new(Metrics::new()?);
    let model = Model::start(&file.gguf, spec, metrics.clone())
        .with_context(|| format!("cannot load {}", file.path.display()))?;
    let open = server_config.api_keys.is_empty();
    let app = App::new(vec![Arc::new(model)], metrics, server_config);
    let server = Server::bind(SocketAddr::new(args.host, args.port), Arc::new(app))?;
    if !config.quiet {
        eprintln!("{sizes}; loaded in {:.1} s", begun.elapsed().as_secs_f64());
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

/// What is loaded, and how.
fn spec(
    args: &ServeArgs,
    reference: &ModelRef,
    file: &ModelFile,
    limits: &Limits,
) -> Result<ModelSpec> {
    let size = &args.size;
    let options = LoadOptions {
        context: size.context.map(|n| n as usize),
        max_seqs: size.max_seqs as usize,
        step_tokens: (size.step_tokens as usize).max(size.max_seqs as usize),
        ..args.load.options()
    };
    let load = sizing::fit(&file.gguf, &options, size.kv_memory, sizing::free_memory())?;
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let id = match reference {
        ModelRef::Path(path) => stem(path).unwrap_or_else(|| file.name.clone()),
        _ => file.name.clone(),
    };
    let mut aliases = args.alias.clone();
    aliases.extend(stem(&file.path).filter(|stem| *stem != id));
    Ok(ModelSpec {
        id,
        aliases,
        load,
        engine: EngineConfig {
            // Requests without a seed are not to repeat those before a restart.
            seed: RandomState::new().hash_one(std::process::id()),
            itl_target: Some(Duration::from_millis(u64::from(size.itl_target_ms))),
            ..EngineConfig::default()
        },
        queue: limits.queue,
        backlog: limits.backlog,
    })
}

/// The sizes in one line.
fn describe(file: &ModelFile, spec: &ModelSpec) -> Result<String> {
    let memory = memory_estimate(&file.gguf, &spec.load)?;
    Ok(format!(
        "{}: context {} tokens, {} requests at once and {} waiting, KV cache for {} tokens ({}), weights {}",
        spec.id,
        spec.load.context.unwrap_or(0),
        spec.load.max_seqs,
        spec.queue,
        spec.load.kv_blocks.unwrap_or(0) * KV_BLOCK_SIZE,
        text::bytes(memory.kv_cache as u64),
        text::bytes(memory.weights as u64),
    ))
}
