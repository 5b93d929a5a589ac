//! Flags on how a model is loaded.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use ferrum_models::cpu::Isa;
use ferrum_models::cuda::Warn;
use ferrum_models::{Device, KvDType, LoadOptions};

use crate::config::CudaConfig;

/// How a model is loaded.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model options")]
pub struct LoadArgs {
    /// Threads; by default one per physical core
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Threads for reading prompts; by default as --threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads_batch: Option<u16>,
    /// Ranks that share the model, each with a part of every layer: cards from the one of --device on,
    /// or groups of the processor's --threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub tensor_parallel: u16,
    /// Where the model runs: cpu, cuda or cuda:N (the card of that number), or reference (plain f32
    /// arithmetic, slow, for comparisons); see `ferrum devices`
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: DeviceArg,
    /// Instruction set of the CPU device; by default the best that the processor has, see `ferrum
    /// devices` [possible values: portable, avx2, avx512vnni]
    #[arg(long, value_name = "NAME")]
    pub cpu_isa: Option<Isa>,
    /// Element type of the KV cache
    #[arg(long, value_enum, default_value_t)]
    pub kv_dtype: KvDTypeArg,
    /// Multiply numbers as they are, where rounding them is faster. On a card, what weights in f16, bf16
    /// and fp8 are multiplied with in steps of more than 64 tokens is rounded to their type (with this
    /// option fp8 becomes q8_0, as on cards without such tensor cores). On the
    /// processor, models that make embeddings from weights in f32, f16 and bf16 round numbers by at most
    /// 1/8192 of the largest of 64 neighbours, which moves a vector by an angle whose cosine is about
    /// 0.9999995
    #[arg(long)]
    pub exact: bool,
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceArg {
    /// The processor.
    Cpu,
    /// The processor in plain f32 arithmetic.
    Reference,
    /// An NVIDIA card; without a number the one of `FERRUM_CUDA_DEVICE`, or the first.
    Cuda(Option<u16>),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("no such device: '{name}' (cpu, cuda, cuda:N, reference)");
        match (name, name.strip_prefix("cuda:")) {
            ("cpu", _) => Ok(DeviceArg::Cpu),
            ("reference", _) => Ok(DeviceArg::Reference),
            ("cuda", _) => Ok(DeviceArg::Cuda(None)),
            (_, Some(number)) => {
                number.parse().map(|n| DeviceArg::Cuda(Some(n))).map_err(|_| unknown())
            }
            _ => Err(unknown()),
        }
    }
}

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum KvDTypeArg {
    /// Half precision
    #[default]
    F16,
    /// The range of single precision with eight bits of precision
    Bf16,
    /// Single precision: twice the memory
    F32,
    /// Floats of eight bits without a scale: half the memory, values beyond 448 are cut off
    #[value(name = "fp8_e4m3", alias = "fp8")]
    Fp8E4m3,
    /// Bytes with scales: about half the memory, and nearly the same text
    #[value(name = "q8_0")]
    Q8_0,
}

impl LoadArgs {
    /// The device's kind.
    pub fn device_name(&self) -> &'static str {
        match self.device {
            DeviceArg::Cpu => "cpu",
            DeviceArg::Reference => "reference",
            DeviceArg::Cuda(_) => "cuda",
        }
    }

    /// What the loader takes; the rest is its default.
    pub fn options(&self, cuda: &CudaConfig) -> LoadOptions {
        LoadOptions {
            isa: self.cpu_isa,
            device: match self.device {
                DeviceArg::Cpu => Device::Cpu,
                DeviceArg::Reference => Device::Reference,
                DeviceArg::Cuda(number) => Device::Cuda(number.map_or(cuda.ordinal, usize::from)),
            },
            tensor_parallel: usize::from(self.tensor_parallel),
            kernel_cache: Some(cuda.kernel_cache.clone()),
            warn: Warn::to(|what| eprintln!("warning: {what}")),
            threads: self.threads.map(usize::from),
            threads_batch: self.threads_batch.map(usize::from),
            kv_dtype: match self.kv_dtype {
                KvDTypeArg::F16 => KvDType::F16,
                KvDTypeArg::Bf16 => KvDType::BF16,
                KvDTypeArg::F32 => KvDType::F32,
                KvDTypeArg::Fp8E4m3 => KvDType::Fp8E4M3,
                KvDTypeArg::Q8_0 => KvDType::Q8_0,
            },
            exact: self.exact,
            ..LoadOptions::default()
        }
    }
}
