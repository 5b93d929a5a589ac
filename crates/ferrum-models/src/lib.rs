//! Files on disk to a model that runs on any backend.
//!
//! A [`Checkpoint`] is a model on disk, read by [`gguf`] or [`hf`]; [`tokenizer`] and [`chat`] turn
//! conversations into token ids and back, [`arch`] describes each architecture as a
//! [`decoder::DecoderSpec`], and [`runner`] puts the weights on a backend and computes logits for a
//! packed step of tokens.

pub mod arch;
pub mod chat;
pub mod checkpoint;
pub mod convert;
pub mod decoder;
pub mod encoder;
pub mod gguf;
pub mod hf;
pub mod load;
pub mod lora;
mod mmap;
mod pattern;
mod ranks;
pub mod runner;
pub mod safetensors;
pub mod synth;
pub mod tokenizer;

/// What the CPU backend can be told, and what it finds out about the machine.
pub mod cpu {
    pub use ferrum_kernels::cpu::{Cpu, CpuConfig, Isa, Limits, Tested, physical_cores};
}

/// NVIDIA cards: what there is, and the kernels compiled for them.
pub mod cuda {
    pub use ferrum_kernels::cuda::compile::{Architecture, Compiled, Source, version};
    pub use ferrum_kernels::cuda::{
        Library, Peaks, Properties, Warn, devices, free_memory, keep, libraries,
    };
}

/// What [`load_profiled`] records.
pub mod profile {
    pub use ferrum_kernels::profiled::{Op, OpRecord, Profiler};
}

pub use checkpoint::Checkpoint;
pub use ferrum_kernels::draw;
pub use ferrum_kernels::{KV_BLOCK_SIZE, KernelError, KvDType, StepCapacity, StepInput};
pub use load::{
    Device, LoadOptions, MemoryEstimate, ModelError, load, load_profiled, memory_estimate,
};
pub use lora::{LoraError, LoraSource};
pub use runner::{Runner, RunnerLimits};
