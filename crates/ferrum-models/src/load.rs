//! A checkpoint to a [`Runner`] on a device.

use std::path::PathBuf;

use ferrum_kernels::cpu::{Cpu, CpuConfig, Isa, physical_cores};
use ferrum_kernels::cuda::{Cuda, CudaConfig};
use ferrum_kernels::profiled::{Profiled, Profiler};
use ferrum_kernels::reference::Reference;
use ferrum_kernels::{Backend, KV_BLOCK_SIZE, KernelError, KvDType, StepCapacity};

use crate::arch;
use crate::checkpoint::Checkpoint;
use crate::decoder::{DecoderOptions, DecoderRunner, DecoderSpec};
use crate::gguf::GgufError;
use crate::hf::HfError;
use crate::lora::{Adapter, LoraError, LoraSource};
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
    /// Threads of the CPU backend; `None`: one per physical core.
    pub threads: Option<usize>,
    /// Threads of the CPU backend for steps that read a prompt; `None`: as [`LoadOptions::threads`].
    pub threads_batch: Option<usize>,
    /// Instruction set of the CPU backend; `None`: the best that the machine has.
    pub isa: Option<Isa>,
    /// Folder for the compiled kernels of cards; `None` compiles them at each start.
    pub kernel_cache: Option<PathBuf>,
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
    /// Models that make embeddings compute with their numbers as they are, and do not round them, which
    /// is faster ([`ferrum_kernels::WeightSource::rounded`]).
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
            threads: None,
            threads_batch: None,
            isa: None,
            kernel_cache: None,
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
    /// The same for another model, whose adapters these are not.
    pub fn without_adapters(&self) -> Self {
        LoadOptions { lora: Vec::new(), adapters: Vec::new(), ..self.clone() }
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

/// What is done with a backend, whichever it is.
pub(crate) trait Task {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<B: Backend>(self, backend: B) -> Result<Self::Output, ModelError>;
}

/// Does the task on the device that the options name: the one place where a backend is chosen.
pub(crate) fn on_device<T: Task>(options: &LoadOptions, task: T) -> Result<T::Output, ModelError> {
    match options.device {
        Device::Cpu => {
            let threads = options.threads.unwrap_or_else(physical_cores);
            let threads_batch = options.threads_batch;
            task.run(Cpu::new(CpuConfig { threads, threads_batch, isa: options.isa })?)
        }
        Device::Reference => {
            no_flags_of_the_cpu(options, "reference")?;
            task.run(Reference::new())
        }
        Device::Cuda(ordinal) => {
            no_flags_of_the_cpu(options, "cuda")?;
            let kernel_cache = options.kernel_cache.clone();
            task.run(Cuda::new(&CudaConfig { ordinal, kernel_cache })?)
        }
    }
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

/// Loads a model whose operations are measured, at a price of some tens of nanoseconds each.
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

    fn run<B: Backend>(self, backend: B) -> Result<Box<dyn Runner>, ModelError> {
        let Load { file, spec, options } = self;
        let adapters = adapters(file, &spec, options)?;
        let options = decoder_options(&spec, options)?;
        Ok(Box::new(DecoderRunner::load(backend, file, spec, &options, &adapters)?))
    }
}

/// The same, with a profiler.
struct Measured<'a>(Load<'a>);

impl Task for Measured<'_> {
    type Output = (Box<dyn Runner>, Profiler);

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output, ModelError> {
        let (backend, profiler) = Profiled::new(backend);
        Ok((self.0.run(backend)?, profiler))
    }
}

/// What a sequence may name, by number.
fn adapters(
    file: &dyn Checkpoint,
    spec: &DecoderSpec,
    options: &LoadOptions,
) -> Result<Vec<Adapter>, ModelError> {
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
    Ok(DecoderOptions { limits, kv_dtype: options.kv_dtype, rounded: false })
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
}

/// What [`load`] would keep in memory, without loading.
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

    fn run<B: Backend>(self, backend: B) -> Result<MemoryEstimate, ModelError> {
        let Load { file, spec, options } = self.0;
        let adapters = adapters(file, &spec, options)?;
        decoder_options(&spec, options)?.estimate(&backend, file, &spec, &adapters)
    }
}
