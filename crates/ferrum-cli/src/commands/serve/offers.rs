//! The models that a server is told to offer, and the memory that each gets.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use ferrum_engine::{EngineConfig, same_vocabulary};
use ferrum_hub::{Hub, ModelRef, catalogue};
use ferrum_models::encoder::{EncoderSizes, makes_embeddings};
use ferrum_models::{
    Device, KV_BLOCK_SIZE, LoadOptions, MemoryEstimate, checkpoint, memory_estimate,
};
use ferrum_server::{Limits, Model, ModelSpec, Offer, Start};

use super::adapters;
use super::encoders::EncoderCandidate;
use crate::args::{ServeArgs, draft_samples, named, stem};
use crate::config::Config;
use crate::exit::UsageError;
use crate::session::{ModelFile, open_at, open_model};
use crate::sizing::{self, Needs, Room};
use crate::ui::{progress, text};

/// All models as the command line names them.
pub struct Offers {
    /// The models that generate, and after them those that make embeddings.
    pub list: Vec<Offer>,
    /// Memory for all that are loaded at once, where it is limited.
    pub memory: Option<u64>,
    /// The sizes of each in a line.
    pub lines: Vec<String>,
}

/// A model before its sizes are chosen.
struct Candidate {
    id: String,
    aliases: Vec<String>,
    file: ModelFile,
    options: LoadOptions,
    needs: Needs,
    /// The model that proposes tokens for it.
    draft: Option<(ModelFile, Needs)>,
    /// Names of the adapters among the options.
    adapters: Vec<String>,
}

/// Opens the models, downloading those that are not here, and chooses their sizes.
pub fn open(args: &ServeArgs, limits: &Limits, config: &Config) -> Result<Offers> {
    let default = [catalogue::DEFAULT_ALIAS.to_string()];
    let words = if args.models.is_empty() { &default } else { args.models.as_slice() };
    let (mut candidates, mut encoders) = (Vec::new(), Vec::new());
    let mut waiting = adapters::parse(&args.lora);
    for (i, word) in words.iter().enumerate() {
        let (name, model) = named(word);
        let reference = ModelRef::parse(model)?;
        let path = Hub::new(config.hub.clone()).fetch(&reference, &mut *progress::new(config))?;
        let alias = if i == 0 { args.alias.as_slice() } else { &[] };
        if makes_embeddings(&path)? {
            encoders.push(encoder((name, &reference, path), alias, args, config)?);
        } else {
            let mut candidate = candidate((name, &reference), path, args, config, &mut waiting)?;
            candidate.aliases.extend(alias.iter().cloned());
            candidates.push(candidate);
        }
    }
    if candidates.is_empty() && !waiting.is_empty() {
        return Err(UsageError("--lora is for models that generate".into()).into());
    }
    adapters::none_left(waiting)?;
    check_names(&candidates, &encoders)?;
    add_drafts(&mut candidates, args, config)?;
    drop_doubtful_names(&mut candidates, &mut encoders);
    let several = candidates.len() + encoders.len() > 1;
    let load = args.load.options(&config.cuda);
    let memory = match args.size.memory {
        None if several => sizing::default_memory(&load)?,
        given => given,
    };
    let rooms = rooms(&candidates, &encoders, args, (&load, memory))?;
    let mut offers = Offers { list: Vec::new(), memory, lines: Vec::new() };
    for (candidate, room) in candidates.into_iter().zip(rooms) {
        let (offer, line) = offer(candidate, room, args, limits)?;
        offers.list.push(offer);
        offers.lines.push(line);
    }
    for encoder in encoders {
        let (offer, line) = encoder.offer(limits);
        offers.list.push(offer);
        offers.lines.push(line);
    }
    Ok(offers)
}

/// A model that makes embeddings, by its name if it has one, what names it and where it is.
fn encoder(
    (name, reference, path): (Option<&str>, &ModelRef, PathBuf),
    alias: &[String],
    args: &ServeArgs,
    config: &Config,
) -> Result<EncoderCandidate> {
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let file_name = file_name.unwrap_or_else(|| reference.to_string());
    let own = match reference {
        ModelRef::Path(_) => file_name.clone(),
        _ => reference.to_string(),
    };
    let id = name.map_or_else(|| own.clone(), str::to_string);
    let mut aliases = vec![own, file_name];
    aliases.dedup();
    aliases.retain(|alias| *alias != id);
    aliases.extend(alias.iter().cloned());
    if args.load.tensor_parallel > 1 {
        let what = format!("--tensor-parallel is for models that generate, and {id} does not");
        return Err(UsageError(what).into());
    }
    let context = args.size.context.map(|n| n as usize);
    let options = LoadOptions { context, ..args.load.options(&config.cuda) };
    let sizes = EncoderSizes::read(&path, &options).with_context(|| cannot_load(&path))?;
    Ok(EncoderCandidate { id, aliases, path, options, sizes })
}

/// The memory of each model that generates.
fn rooms(
    candidates: &[Candidate],
    encoders: &[EncoderCandidate],
    args: &ServeArgs,
    (load, memory): (&LoadOptions, Option<u64>),
) -> Result<Vec<Room>> {
    let needs = candidates.iter().map(|candidate| candidate.needs);
    let fixed = encoders.iter().map(|encoder| Needs::fixed(encoder.sizes.bytes));
    let needs: Vec<Needs> = needs.chain(fixed).collect();
    Ok(match (args.size.kv_memory, memory) {
        (Some(bytes), _) => vec![Room::Kv(bytes); needs.len()],
        (None, Some(memory)) => {
            sizing::shares(&needs, memory).into_iter().map(Room::Whole).collect()
        }
        (None, None) => vec![Room::by_default(load)?; needs.len()],
    })
}

/// A model that generates, by its name if it has one, what names it and where it is, with the adapters
/// that fit it.
fn candidate(
    (name, reference): (Option<&str>, &ModelRef),
    path: PathBuf,
    args: &ServeArgs,
    config: &Config,
    waiting: &mut Vec<adapters::Named>,
) -> Result<Candidate> {
    let file = open_at(reference, path)?;
    let fitting = adapters::take_fitting(&*file.checkpoint, waiting);
    let size = &args.size;
    let options = LoadOptions {
        context: size.context.map(|n| n as usize),
        max_seqs: size.max_seqs as usize,
        step_tokens: (size.step_tokens as usize).max(size.max_seqs as usize),
        adapters: fitting.iter().map(|adapter| adapter.source.clone()).collect(),
        ..args.load.options(&config.cuda)
    };
    let own = match reference {
        ModelRef::Path(path) => stem(path).unwrap_or_else(|| file.name.clone()),
        _ => file.name.clone(),
    };
    let id = name.map_or_else(|| own.clone(), str::to_string);
    let mut aliases: Vec<String> = [Some(own), stem(&file.path)].into_iter().flatten().collect();
    aliases.dedup();
    aliases.retain(|alias| *alias != id);
    let needs = Needs::of(&*file.checkpoint, &options).with_context(|| cannot_load(&file.path))?;
    let adapters = fitting.into_iter().map(|adapter| adapter.name).collect();
    Ok(Candidate { id, aliases, file, options, needs, draft: None, adapters })
}

impl Candidate {
    /// Whether `name` means this model.
    fn answers_to(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// Opens the draft model and checks that it has the same tokens.
    fn add_draft(&mut self, name: &str, args: &ServeArgs, config: &Config) -> Result<()> {
        if self.draft.is_some() {
            let message = format!("--draft-model: {} has one already", self.id);
            return Err(UsageError(message).into());
        }
        let file = open_model(name, config)?;
        let cannot = || format!("{name} cannot propose tokens for {}", self.id);
        same_vocabulary(&self.file.tokenizer()?, &file.tokenizer()?).with_context(cannot)?;
        let options = LoadOptions { max_samples: None, context: None, ..self.options.for_draft() };
        let needs =
            Needs::of(&*file.checkpoint, &options).with_context(|| cannot_load(&file.path))?;
        let seqs = args.size.max_seqs as usize;
        self.options.max_samples = Some(draft_samples(seqs, args.draft.draft_max));
        let own = Needs::of(&*self.file.checkpoint, &self.options);
        let own = own.with_context(|| cannot_load(&self.file.path))?;
        self.needs = own.with_draft(&needs);
        self.draft = Some((file, needs));
        Ok(())
    }
}

/// Gives each model the draft model that the command line has for it: `MODEL` where only one
/// generates, else `NAME=MODEL`.
fn add_drafts(candidates: &mut [Candidate], args: &ServeArgs, config: &Config) -> Result<()> {
    for word in &args.draft_model {
        let (name, draft) = named(word);
        let for_name = |name: &str| candidates.iter().position(|c| c.answers_to(name));
        let index = match name {
            Some(name) => for_name(name).ok_or_else(|| {
                let known: Vec<&str> = candidates.iter().map(|c| c.id.as_str()).collect();
                format!(
                    "--draft-model {word}: no model that generates is called {name}; there is {}",
                    known.join(", ")
                )
            }),
            None if candidates.len() == 1 => Ok(0),
            None => Err(format!(
                "--draft-model {word}: with {} models that generate, NAME=MODEL says for which one",
                candidates.len()
            )),
        };
        let index = index.map_err(UsageError)?;
        candidates[index].add_draft(draft, args, config)?;
    }
    Ok(())
}

/// Names that nobody gave (of files) are left out where they could mean two models.
fn drop_doubtful_names(candidates: &mut [Candidate], encoders: &mut [EncoderCandidate]) {
    let mut taken: BTreeSet<String> = names(candidates, encoders).cloned().collect();
    let aliases = candidates.iter_mut().map(|c| &mut c.aliases);
    for aliases in aliases.chain(encoders.iter_mut().map(|e| &mut e.aliases)) {
        aliases.retain(|alias| taken.insert(alias.clone()));
    }
}

/// A draft model with its sizes.
struct Proposer {
    name: String,
    path: PathBuf,
    load: LoadOptions,
    bytes: usize,
}

impl Proposer {
    /// For a model that is loaded with `options`.
    fn new(file: ModelFile, needs: &Needs, options: &LoadOptions) -> Result<Self> {
        let load = needs.as_draft(options);
        let bytes = memory_estimate(&*file.checkpoint, &load)?.total();
        Ok(Proposer { name: file.name, path: file.path, load, bytes })
    }
}

/// What could not be done, for messages.
pub fn cannot_load(path: &Path) -> String {
    format!("cannot load {}", path.display())
}

/// The offer of a model with this memory, and its sizes in a line.
fn offer(
    candidate: Candidate,
    room: Room,
    args: &ServeArgs,
    limits: &Limits,
) -> Result<(Offer, String)> {
    let Candidate { id, aliases, file, options, needs, draft, adapters } = candidate;
    let load = needs.fit(&options, room).with_context(|| format!("the model {id}"))?;
    let spec = ModelSpec {
        id: id.clone(),
        load,
        engine: EngineConfig {
            // Requests without a seed are not to repeat those before a restart.
            seed: RandomState::new().hash_one(std::process::id()),
            itl_target: Some(Duration::from_millis(u64::from(args.size.itl_target_ms))),
            max_draft: usize::from(args.draft.draft_max),
            ..EngineConfig::default()
        },
        queue: limits.queue,
        backlog: limits.backlog,
    };
    let memory = memory_estimate(&*file.checkpoint, &spec.load)?;
    let draft = draft.map(|(file, needs)| Proposer::new(file, &needs, &spec.load)).transpose()?;
    let mut bytes = memory.total();
    let mut line = sizes_line(&id, &spec, &memory);
    if let Some(Proposer { name, bytes: more, .. }) = &draft {
        bytes = bytes.saturating_add(*more);
        line += &format!(", draft model {name} ({})", text::bytes(*more as u64));
    }
    if !adapters.is_empty() {
        line += &format!(", adapters {}", adapters.join(", "));
    }
    let path: PathBuf = file.path;
    let files = [Some(path.clone()), draft.as_ref().map(|draft| draft.path.clone())];
    let offer = Offer {
        id,
        aliases,
        adapters,
        context: spec.load.context.unwrap_or(0),
        bytes: bytes as u64,
        waiting: spec.load.max_seqs + spec.queue,
        files: files.into_iter().flatten().collect(),
        start: Start::Model(Box::new(move |metrics| {
            let file = checkpoint::open(&path)?;
            match &draft {
                None => Model::start(&*file, spec.clone(), metrics),
                Some(Proposer { path, load, .. }) => {
                    let draft = checkpoint::open(path)?;
                    Model::start_with(&*file, Some((&*draft, load)), spec.clone(), metrics)
                }
            }
        })),
    };
    Ok((offer, line))
}

/// What a server says of a model's sizes when it starts.
fn sizes_line(id: &str, spec: &ModelSpec, memory: &MemoryEstimate) -> String {
    let load = &spec.load;
    let line = format!(
        "{id}: context {} tokens, {} requests at once and {} waiting, KV cache for {} tokens ({}), weights {}",
        load.context.unwrap_or(0),
        load.max_seqs,
        spec.queue,
        load.kv_blocks.unwrap_or(0) * KV_BLOCK_SIZE,
        text::bytes(memory.kv_cache as u64),
        text::bytes(memory.weights as u64),
    );
    match (load.tensor_parallel, load.device) {
        (1, _) => line,
        (cards, Device::Cuda(_)) => line + &format!(", on {cards} cards with so much each"),
        (ranks, _) => line + &format!(", on {ranks} ranks"),
    }
}

/// The names of models and adapters.
fn names<'a>(
    candidates: &'a [Candidate],
    encoders: &'a [EncoderCandidate],
) -> impl Iterator<Item = &'a String> {
    let generating = candidates.iter().flat_map(|c| c.adapters.iter().chain([&c.id]));
    generating.chain(encoders.iter().map(|e| &e.id))
}

/// Refuses two models or adapters of one name.
fn check_names(candidates: &[Candidate], encoders: &[EncoderCandidate]) -> Result<()> {
    let mut taken = BTreeSet::new();
    match names(candidates, encoders).find(|name| !taken.insert(*name)) {
        Some(name) => {
            let message = format!("two models are called {name}; NAME=MODEL names one");
            Err(UsageError(message).into())
        }
        None => Ok(()),
    }
}
