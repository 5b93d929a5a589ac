//! A checkpoint to a [`Runner`] on a device.

use std::path::PathBuf;

use ferrum_kernels::cpu::{Cpu, CpuConfig, Isa, physical_cores};
use ferrum_kernels::cuda::{Cuda, CudaConfig, Warn};
use ferrum_kernels::profiled::{Profiled, Profiler};
use ferrum_kernels::reference::Reference;
use ferrum_kernels::{Backend, KV_BLOCK_SIZE, KernelError, KvDType, StepCapacity};

use crate::arch;
use crate::checkpoint::Checkpoint;
use crate::decoder::{DecoderOptions, DecoderRunner, DecoderSpec, Share};
use crate::gguf::GgufError;
use crate::hf::HfError;
use crate::lora::{Adapter, LoraError, LoraSource};
use crate::ranks::RankedRunner;
use crate::runner::{Runner, RunnerLimits};
use crate::tokenizer::TokenizerError;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The fast backend for processors.
    #[default]
    Cpu,
    /// The plain `f32` oracle: slow, for comparisons.
    Reference,
    /// The NVIDIA card of this number.
    Cuda(usize),
}

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: Device,
    /// Ranks that share the model, each with a part of every layer; 1: there is no sharing. Cards
    /// are those from [`LoadOptions::device`] on, and the threads of a processor are shared out.
    pub tensor_parallel: usize,
    /// Threads of the CPU backend; `None`: one per physical core.
    pub threads: Option<usize>,
    /// Threads of the CPU backend for steps that read a prompt; `None`: as [`LoadOptions::threads`].
    pub threads_batch: Option<usize>,
    /// Instruction set of the CPU backend; `None`: the best that the machine has.
    pub isa: Option<Isa>,
    /// Folder for the compiled kernels of cards; `None` compiles them at each start.
    pub kernel_cache: Option<PathBuf>,
    /// Told of what is wrong with a card and can be lived with, once each.
    pub warn: Warn,
    /// Positions that a sequence may have; `None`: [`DEFAULT_CONTEXT`] or what the model was
    /// trained for, whichever is less.
    pub context: Option<usize>,
    /// Element type of the KV cache.
    pub kv_dtype: KvDType,
    /// Sequences in a step, and rows of logits.
    pub max_seqs: usize,
    /// Rows of logits in a step where more than one per sequence is wanted (perplexity).
    pub max_samples: Option<usize>,
    /// Tokens in a step.
    pub step_tokens: usize,
    /// Blocks in the KV pool; `None`: enough for `max_seqs` sequences of full length.
    pub kv_blocks: Option<usize>,
    /// Models that make embeddings, and those that generate text on cards, compute with their numbers as
    /// they are, and do not round them, which is faster ([`ferrum_kernels::WeightSource::rounded`]). Weights in
    /// fp8 become Q8_0, in which activations are rounded to eight bits in another way.
    pub exact: bool,
    /// LoRA adapters, all of them applied to every sequence that names none.
    pub lora: Vec<LoraSource>,
    /// Further ones, of which a sequence may name one by its number, from 1 on, in place of those.
    pub adapters: Vec<LoraSource>,
}

/// Context length where neither the user nor the model asks for less.
pub const DEFAULT_CONTEXT: usize = 4096;

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            device: Device::Cpu,
            tensor_parallel: 1,
            threads: None,
            threads_batch: None,
            isa: None,
            kernel_cache: None,
            warn: Warn::default(),
            context: None,
            kv_dtype: KvDType::F16,
            max_seqs: 1,
            max_samples: None,
            step_tokens: 512,
            kv_blocks: None,
            exact: false,
            lora: Vec::new(),
            adapters: Vec::new(),
        }
    }
}

impl LoadOptions {
    /// The same for a draft model: it has none of these adapters, and is too small to be shared out.
    pub fn for_draft(&self) -> Self {
        let (lora, adapters) = (Vec::new(), Vec::new());
        LoadOptions { lora, adapters, tensor_parallel: 1, ..self.clone() }
    }
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file is damaged or lacks something.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Likewise, a folder from Hugging Face.
    #[error(transparent)]
    Hf(#[from] HfError),
    /// The backend cannot run it, or ran out of memory.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An architecture that Ferrum does not have.
    #[error("architecture '{name}' is not supported (supported: {known})")]
    Architecture {
        /// `general.architecture`.
        name: String,
        /// What Ferrum has.
        known: String,
    },
    /// A hyperparameter that Ferrum does not honour.
    #[error("{key} = {value} is not supported")]
    Setting {
        /// Metadata key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A tensor of another shape than the metadata says.
    #[error("tensor {name} has the shape {got:?}, expected {expected:?}")]
    TensorShape {
        /// Tensor name.
        name: String,
        /// Innermost dimension first.
        expected: Vec<usize>,
        /// Innermost dimension first.
        got: Vec<usize>,
    },
    /// A tensor that the architecture does not use, so that leaving it out would be wrong.
    #[error("tensor {name} is not used by this architecture, so the model would run wrongly")]
    UnusedTensor {
        /// Tensor name.
        name: String,
    },
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// An adapter is not for this model, or has what is not honoured.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The model cannot be shared out among so many ranks.
    #[error("tensor parallelism over {ranks} ranks: {what}")]
    Split {
        /// Ranks.
        ranks: usize,
        /// What does not divide.
        what: String,
    },
    /// The options ask for what the model or the machine does not have.
    #[error("{0}")]
    Options(String),
}

/// What is done with backends, whichever they are.
pub(crate) trait Task {
    /// What comes of it.
    type Output;

    /// Does it, on a backend for each rank: one at least.
    fn run<B: Backend>(self, ranks: Vec<B>) -> Result<Self::Output, ModelError>;
}

/// Does the task on the device that the options name: the one place where a backend is chosen.
pub(crate) fn on_device<T: Task>(options: &LoadOptions, task: T) -> Result<T::Output, ModelError> {
    let ranks = options.tensor_parallel;
    if ranks == 0 {
        return Err(ModelError::Options("tensor parallelism over 0 ranks".into()));
    }
    match options.device {
        Device::Cpu => task.run(processors(options)?),
        Device::Reference => {
            no_flags_of_the_cpu(options, "reference")?;
            task.run(vec![Reference::new(); ranks])
        }
        Device::Cuda(first) => {
            no_flags_of_the_cpu(options, "cuda")?;
            task.run(cards(first, options)?)
        }
    }
}

/// The only rank of a task that cannot be shared out.
pub(crate) fn only<B>(ranks: Vec<B>, what: &str) -> Result<B, ModelError> {
    let count = ranks.len();
    let only = ranks.into_iter().next().filter(|_| count == 1);
    only.ok_or_else(|| ModelError::Split { ranks: count, what: format!("not for {what}") })
}

/// Processors that share out the threads.
fn processors(options: &LoadOptions) -> Result<Vec<Cpu>, ModelError> {
    let ranks = options.tensor_parallel;
    let too_few = |(flag, threads): (&str, usize)| {
        ModelError::Options(format!("{flag} {threads} for {ranks} ranks, which need one each"))
    };
    let asked = [("--threads", options.threads), ("--threads-batch", options.threads_batch)];
    let asked = asked.iter().filter_map(|&(flag, threads)| Some((flag, threads?)));
    if let Some(few) = asked.into_iter().find(|&(_, threads)| ranks > 1 && threads < ranks) {
        return Err(too_few(few));
    }
    let threads = options.threads.unwrap_or_else(|| physical_cores().max(ranks));
    let share = |rank: usize, threads: usize| Share { rank, ranks }.of(threads).len();
    let processor = |rank| {
        let threads_batch = options.threads_batch.map(|threads| share(rank, threads));
        Cpu::new(CpuConfig { threads: share(rank, threads), threads_batch, isa: options.isa })
    };
    Ok((0..ranks).map(processor).collect::<Result<_, _>>()?)
}

/// The cards from `first` on.
fn cards(first: usize, options: &LoadOptions) -> Result<Vec<Cuda>, ModelError> {
    let end = first.saturating_add(options.tensor_parallel);
    if options.tensor_parallel > 1 {
        let count = ferrum_kernels::cuda::devices()?.len();
        if end > count {
            let what = format!("cards {first} to {} are needed, this machine has {count}", end - 1);
            return Err(ModelError::Split { ranks: options.tensor_parallel, what });
        }
    }
    let card = |ordinal| {
        let (kernel_cache, warn) = (options.kernel_cache.clone(), options.warn.clone());
        Cuda::new(&CudaConfig { ordinal, kernel_cache, warn })
    };
    Ok((first..end).map(card).collect::<Result<_, _>>()?)
}

/// Flags that only mean something to the CPU backend are not dropped.
fn no_flags_of_the_cpu(options: &LoadOptions, device: &str) -> Result<(), ModelError> {
    let flags = [
        ("--threads", options.threads.is_some()),
        ("--threads-batch", options.threads_batch.is_some()),
        ("--cpu-isa", options.isa.is_some()),
    ];
    match flags.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            Err(ModelError::Options(format!("{flag} has no meaning with --device {device}")))
        }
        None => Ok(()),
    }
}

/// Loads a model onto a device.
pub fn load(file: &dyn Checkpoint, options: &LoadOptions) -> Result<Box<dyn Runner>, ModelError> {
    on_device(options, Load { file, spec: arch::spec(file)?, options })
}

/// Loads a model whose operations are measured, at a price of some tens of nanoseconds each (on a card,
/// two events); those of the first rank, where there are several.
pub fn load_profiled(
    file: &dyn Checkpoint,
    options: &LoadOptions,
) -> Result<(Box<dyn Runner>, Profiler), ModelError> {
    on_device(options, Measured(Load { file, spec: arch::spec(file)?, options }))
}

/// Loading a model.
struct Load<'a> {
    file: &'a dyn Checkpoint,
    spec: DecoderSpec,
    options: &'a LoadOptions,
}

impl Task for Load<'_> {
    type Output = Box<dyn Runner>;

    fn run<B: Backend>(self, ranks: Vec<B>) -> Result<Box<dyn Runner>, ModelError> {
        let Load { file, spec, options } = self;
        if options.exact && !matches!(options.device, Device::Cuda(_)) {
            let what = "--exact has no meaning for models that generate text without a card".into();
            return Err(ModelError::Options(what));
        }
        let adapters = adapters(file, &spec, options)?;
        let options = decoder_options(&spec, options)?;
        if ranks.len() > 1 {
            return Ok(Box::new(RankedRunner::load(ranks, file, &spec, &options)?));
        }
        let backend = only(ranks, "this model")?;
        Ok(Box::new(DecoderRunner::load(backend, file, spec, &options, &adapters)?))
    }
}

/// The same, with a profiler.
struct Measured<'a>(Load<'a>);

impl Task for Measured<'_> {
    type Output = (Box<dyn Runner>, Profiler);

    fn run<B: Backend>(self, ranks: Vec<B>) -> Result<Self::Output, ModelError> {
        let (ranks, profilers): (Vec<_>, Vec<Profiler>) =
            ranks.into_iter().map(Profiled::new).unzip();
        let first = profilers.into_iter().next().unwrap_or_default();
        Ok((self.0.run(ranks)?, first))
    }
}

/// What a sequence may name, by number.
fn adapters(
    file: &dyn Checkpoint,
    spec: &DecoderSpec,
    options: &LoadOptions,
) -> Result<Vec<Adapter>, ModelError> {
    if options.tensor_parallel > 1 && !(options.lora.is_empty() && options.adapters.is_empty()) {
        let ranks = options.tensor_parallel;
        return Err(ModelError::Split { ranks, what: "not with LoRA adapters".into() });
    }
    let named = options.adapters.chunks(1);
    let sets = std::iter::once(options.lora.as_slice()).chain(named);
    sets.map(|sources| Adapter::open(sources, file, spec)).collect()
}

/// Fits the options to the model.
fn decoder_options(
    spec: &DecoderSpec,
    options: &LoadOptions,
) -> Result<DecoderOptions, ModelError> {
    let context = options.context.unwrap_or(spec.context.min(DEFAULT_CONTEXT));
    if context == 0 || context > spec.context {
        let trained = spec.context;
        return Err(ModelError::Options(format!(
            "a context of {context} positions, but the model was trained for {trained}; \
             give --context 1 to {trained}"
        )));
    }
    if options.max_seqs == 0 || options.step_tokens < options.max_seqs {
        return Err(ModelError::Options(format!(
            "steps of {} tokens for {} sequences",
            options.step_tokens, options.max_seqs
        )));
    }
    let blocks_per_seq = context.div_ceil(KV_BLOCK_SIZE);
    let kv_blocks = options.kv_blocks.unwrap_or(blocks_per_seq.saturating_mul(options.max_seqs));
    let capacity = StepCapacity {
        tokens: options.step_tokens,
        seqs: options.max_seqs,
        blocks_per_seq,
        samples: options.max_samples.unwrap_or(options.max_seqs),
    };
    let limits = RunnerLimits { vocab: spec.vocab, context, kv_blocks, capacity };
    let card = matches!(options.device, Device::Cuda(_));
    Ok(DecoderOptions { limits, kv_dtype: options.kv_dtype, rounded: card && !options.exact })
}

/// Memory that a loaded model keeps, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Packed weights.
    pub weights: usize,
    /// KV cache of the whole pool.
    pub kv_cache: usize,
    /// Activations and logits.
    pub buffers: usize,
    /// Position tables, in proportion to the context.
    pub tables: usize,
    /// The file's metadata as it is read, and the tokenizer made from it.
    pub vocabulary: usize,
}

impl MemoryEstimate {
    /// All of it.
    pub fn total(&self) -> usize {
        [self.weights, self.kv_cache, self.buffers, self.tables, self.vocabulary]
            .into_iter()
            .fold(0, usize::saturating_add)
    }

    /// That of two ranks in one memory, which have the vocabulary in common.
    fn beside(&self, other: &MemoryEstimate) -> MemoryEstimate {
        MemoryEstimate {
            weights: self.weights.saturating_add(other.weights),
            kv_cache: self.kv_cache.saturating_add(other.kv_cache),
            buffers: self.buffers.saturating_add(other.buffers),
            tables: self.tables.saturating_add(other.tables),
            vocabulary: self.vocabulary,
        }
    }
}

/// What [`load`] would keep in memory, without loading: on cards that share a model, what it would
/// keep on the one that has most.
pub fn memory_estimate(
    file: &dyn Checkpoint,
    options: &LoadOptions,
) -> Result<MemoryEstimate, ModelError> {
    let spec = arch::spec(file)?;
    on_device(options, Estimate(Load { file, spec, options }))
}

/// Estimating its memory.
struct Estimate<'a>(Load<'a>);

impl Task for Estimate<'_> {
    type Output = MemoryEstimate;

    fn run<B: Backend>(self, ranks: Vec<B>) -> Result<MemoryEstimate, ModelError> {
        let Load { file, spec, options } = self.0;
        let adapters = adapters(file, &spec, options)?;
        let (sizes, apart) =
            (decoder_options(&spec, options)?, matches!(options.device, Device::Cuda(_)));
        let count = ranks.len();
        let mut all: Option<MemoryEstimate> = None;
        for (rank, backend) in ranks.iter().enumerate() {
            let share = Share { rank, ranks: count };
            let own = sizes.estimate(backend, file, (&spec, share), &adapters)?;
            all = Some(match all {
                None => own,
                Some(other) if apart => std::cmp::max_by_key(other, own, MemoryEstimate::total),
                Some(other) => other.beside(&own),
            });
        }
        all.ok_or_else(|| ModelError::Options("no ranks".into()))
    }
}
