//! The CUDA backend: NVIDIA cards from compute capability 8.0 on.
//!
//! Nothing of NVIDIA's is needed to build it: the driver and NVRTC are libraries that are found at
//! run time. An operation has a launcher here and its kernels in `cuda/`, under the same name; a
//! [`CudaStream`] is the order in which they run.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Need};
use crate::params::{
    Activate, AllGather, Attention, Broadcast, Embed, ExpertCombine, ExpertGatedLinear, Gate,
    GatedLinear, GatherRows, KvSpec, KvValues, KvWrite, LayerNorm, Linear, Logprobs,
    PackedAttention, RmsNorm, Rope, RouteTopk, Sample, ScatterAdd,
};
use crate::{DType, Format, KernelError, KvDType, Result, WeightSource};

mod attention;
mod blas;
mod buffer;
mod cache;
mod collectives;
pub mod compile;
mod device;
mod driver;
mod event;
mod graph;
mod kv_cache;
mod kv_write;
mod launch;
mod layer_norm;
mod libraries;
mod linear;
mod logprobs;
mod memory;
mod modules;
mod packed_attention;
mod pointwise;
mod rms_norm;
mod rope;
mod route_topk;
mod rows;
mod sample;
mod stream;

pub use buffer::CudaBuffer;
pub use cache::keep;
pub use collectives::CudaCommunicator;
pub use device::{CudaConfig, Peaks, Properties, Warn, devices};
pub use kv_cache::CudaKvCache;
pub use libraries::{Library, libraries};
pub use linear::CudaWeight;
pub use stream::CudaStream;

use crate::checks::Operand;
use device::Device;

/// [`Backend::name`], also in errors.
const NAME: &str = "cuda";

/// Oldest compute capability whose tensor cores multiply E4M3 numbers.
const OLDEST_WITH_FP8: (u32, u32) = (8, 9);

/// Bytes of a card's memory that nobody uses.
pub fn free_memory(ordinal: usize) -> Result<usize> {
    Device::open(&CudaConfig { ordinal, ..CudaConfig::default() })?.free_memory()
}

/// A card.
pub struct Cuda {
    device: Arc<Device>,
}

impl Cuda {
    /// Opens a card; an error says why it cannot be had.
    pub fn new(config: &CudaConfig) -> Result<Cuda> {
        Ok(Cuda { device: Device::open(config)? })
    }

    /// What the card is.
    pub fn properties(&self) -> &Properties {
        &self.device.properties
    }
}

fn unsupported<T>(what: &str) -> Result<T> {
    Err(KernelError::Unsupported { backend: NAME, what: what.into() })
}

impl Backend for Cuda {
    type Stream = CudaStream;
    type Buffer = CudaBuffer;
    type Weight = CudaWeight;
    type KvCache = CudaKvCache;
    type Recording = graph::Recording;
    type Mark = event::Event;
    type Communicator = CudaCommunicator;

    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self, need: &Need) -> Result<()> {
        match *need {
            Need::Attention { head_dim, values, kv } => {
                kv_cache::check_head_dim(&self.device, head_dim, values, kv)
            }
            Need::PackedAttention { head_dim } => {
                kv_cache::check_head_dim(&self.device, head_dim, KvValues::Own, KvDType::F32)
            }
            Need::Linear { format, cols } | Need::ExpertLinear { format, cols } => {
                match linear::packed_bytes(format, 1, cols) {
                    0 | usize::MAX => unsupported(&format!("{format} weights of {cols} columns")),
                    _ => Ok(()),
                }
            }
            Need::Embed(_) => Ok(()),
        }
    }

    fn compiles_at_first_use(&self) -> bool {
        true
    }

    fn keeps_e4m3(&self) -> bool {
        self.device.properties.capability >= OLDEST_WITH_FP8
            && linear::multiplies_e4m3(&self.device)
    }

    fn stream(&self) -> Result<CudaStream> {
        CudaStream::new(&self.device)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<CudaBuffer> {
        let buffer = CudaBuffer::new(&self.device, dtype, len)?;
        buffer.memory.clear()?;
        Ok(buffer)
    }

    fn synchronize(&self, s: &mut CudaStream) -> Result<()> {
        s.synchronize("synchronize")
    }

    fn works(&self) -> Result<()> {
        self.device.works()
    }

    fn mark(&self, s: &mut CudaStream) -> Result<event::Event> {
        event::Event::record(s)
    }

    fn elapsed(&self, from: &event::Event, to: &event::Event) -> Result<Duration> {
        from.until(to)
    }

    fn begin_recording(&self, s: &mut CudaStream) -> Result<bool> {
        graph::begin(s).map(|()| true)
    }

    fn end_recording(&self, s: &mut CudaStream) -> Result<graph::Recording> {
        graph::end(s)
    }

    fn replay(&self, s: &mut CudaStream, recording: &graph::Recording) -> Result<()> {
        graph::replay(s, recording)
    }

    fn upload_f32(&self, s: &mut CudaStream, src: &[f32], dst: &mut CudaBuffer) -> Result<()> {
        let dst = dst.floats_mut("upload_f32", src.len())?;
        s.copy_in("upload_f32", src, dst.memory, 0)
    }

    fn upload_i32(&self, s: &mut CudaStream, src: &[i32], dst: &mut CudaBuffer) -> Result<()> {
        dst.ints("upload_i32", src.len())?;
        s.copy_in("upload_i32", src, &dst.memory, 0)?;
        dst.uploaded(src);
        Ok(())
    }

    fn download_f32(&self, s: &mut CudaStream, src: &CudaBuffer, dst: &mut [f32]) -> Result<()> {
        let src = src.floats("download_f32", dst.len())?;
        s.copy_out("download_f32", src.memory, dst)
    }

    fn download_i32(&self, s: &mut CudaStream, src: &CudaBuffer, dst: &mut [i32]) -> Result<()> {
        let src = src.ints("download_i32", dst.len())?;
        s.copy_out("download_i32", src.memory, dst)
    }

    fn pack(&self, s: &mut CudaStream, source: &WeightSource<'_>) -> Result<CudaWeight> {
        linear::pack(s, &self.device, source)
    }

    fn packed_bytes(&self, format: Format, rows: usize, cols: usize) -> usize {
        linear::packed_bytes(format, rows, cols)
    }

    fn kv_cache(&self, spec: &KvSpec) -> Result<CudaKvCache> {
        CudaKvCache::new(&self.device, spec)
    }

    fn embed(&self, s: &mut CudaStream, dst: &mut CudaBuffer, p: &Embed<'_, Self>) -> Result<()> {
        linear::embed(s, dst, p)
    }

    fn linear(&self, s: &mut CudaStream, p: Linear<'_, '_, Self>) -> Result<()> {
        linear::linear(s, p)
    }

    fn gated_linear(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &GatedLinear<'_, Self>,
    ) -> Result<()> {
        linear::gated_linear(s, dst, p)
    }

    fn route_topk(&self, s: &mut CudaStream, p: RouteTopk<'_, Self>) -> Result<()> {
        route_topk::route_topk(s, p)
    }

    fn expert_gated_linear(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &ExpertGatedLinear<'_, Self>,
    ) -> Result<()> {
        linear::expert_gated_linear(s, dst, p)
    }

    fn expert_combine(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &ExpertCombine<'_, Self>,
    ) -> Result<()> {
        linear::expert_combine(s, dst, p)
    }

    fn rms_norm(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &RmsNorm<'_, Self>,
    ) -> Result<()> {
        rms_norm::rms_norm(s, dst, p)
    }

    fn layer_norm(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &LayerNorm<'_, Self>,
    ) -> Result<()> {
        layer_norm::layer_norm(s, dst, p)
    }

    fn activate(&self, s: &mut CudaStream, x: &mut CudaBuffer, p: &Activate) -> Result<()> {
        pointwise::activate(s, x, p)
    }

    fn gate(&self, s: &mut CudaStream, x: &mut CudaBuffer, p: &Gate<'_, Self>) -> Result<()> {
        pointwise::gate(s, x, p)
    }

    fn rope(&self, s: &mut CudaStream, p: Rope<'_, '_, Self>) -> Result<()> {
        rope::rope(s, p)
    }

    fn kv_write(
        &self,
        s: &mut CudaStream,
        kv: &mut CudaKvCache,
        p: &KvWrite<'_, Self>,
    ) -> Result<()> {
        kv_write::kv_write(s, kv, p)
    }

    fn attention(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &Attention<'_, Self>,
    ) -> Result<()> {
        attention::attention(s, dst, p)
    }

    fn packed_attention(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &PackedAttention<'_, Self>,
    ) -> Result<()> {
        packed_attention::packed_attention(s, dst, p)
    }

    fn gather_rows(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &GatherRows<'_, Self>,
    ) -> Result<()> {
        rows::gather_rows(s, dst, p)
    }

    fn scatter_add(
        &self,
        s: &mut CudaStream,
        dst: &mut CudaBuffer,
        p: &ScatterAdd<'_, Self>,
    ) -> Result<()> {
        rows::scatter_add(s, dst, p)
    }

    fn sample(&self, s: &mut CudaStream, dst: &mut CudaBuffer, p: &Sample<'_, Self>) -> Result<()> {
        sample::sample(s, dst, p)
    }

    fn logprobs(&self, s: &mut CudaStream, p: Logprobs<'_, Self>) -> Result<()> {
        logprobs::logprobs(s, p)
    }

    fn communicators(ranks: &[&Self]) -> Result<Vec<CudaCommunicator>> {
        collectives::communicators(ranks)
    }

    fn all_reduce(
        &self,
        s: &mut CudaStream,
        c: &mut CudaCommunicator,
        x: &mut CudaBuffer,
        len: usize,
    ) -> Result<()> {
        c.all_reduce(s, x, len)
    }

    fn all_gather(
        &self,
        s: &mut CudaStream,
        c: &mut CudaCommunicator,
        p: AllGather<'_, Self>,
    ) -> Result<()> {
        c.all_gather(s, p)
    }

    fn broadcast(
        &self,
        s: &mut CudaStream,
        c: &mut CudaCommunicator,
        p: Broadcast<'_, Self>,
    ) -> Result<()> {
        c.broadcast(s, p)
    }
}
