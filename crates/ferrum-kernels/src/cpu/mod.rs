//! The processor as a backend: a persistent team of threads, one file per operation, and the
//! instruction set chosen at run time.

mod activate;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
mod arena;
mod attention;
mod gate;
mod gather_rows;
mod isa;
mod kv_cache;
mod kv_quantize;
mod kv_write;
mod layer_norm;
mod linear;
mod logprobs;
mod math;
mod measure;
mod rms_norm;
mod rope;
mod route_topk;
mod sample;
mod scatter_add;
mod shared;
mod simd;
mod stream;
pub(crate) mod team;
mod threads;

pub use isa::{Isa, Tested, UnknownIsa};
pub use kv_cache::CpuKvCache;
pub use linear::CpuWeight;
pub use measure::Limits;
pub use stream::CpuStream;
pub use threads::physical_cores;

use std::ops::Range;
use std::time::{Duration, Instant};

use team::Team;

use crate::host::HostBuffer;
use crate::host::collectives::HostCommunicator;
use crate::params::{
    Activate, AllGather, Attention, Broadcast, Embed, ExpertCombine, ExpertGatedLinear, Gate,
    GatedLinear, GatherRows, KvSpec, KvWrite, LayerNorm, Linear, Logprobs, PackedAttention,
    RmsNorm, Rope, RouteTopk, Sample, ScatterAdd,
};
use crate::{Backend, DType, Format, KernelError, Need, Result, StepInput, WeightSource};

/// [`Backend::name`] of [`Cpu`], for errors.
pub(crate) const NAME: &str = "cpu";

/// How a [`Cpu`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuConfig {
    /// Threads of a stream's team, the calling thread among them; at least 1.
    pub threads: usize,
    /// Threads for steps that read a prompt; `None`: as many. Generating is held up by memory and
    /// reading by arithmetic, so that the best number may differ.
    pub threads_batch: Option<usize>,
    /// Instruction set; `None` takes the best that the processor has.
    pub isa: Option<Isa>,
}

impl Default for CpuConfig {
    /// One thread per physical core that this process may use, and the best instruction set.
    fn default() -> Self {
        CpuConfig { threads: physical_cores(), threads_batch: None, isa: None }
    }
}

/// The processor.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    threads: usize,
    threads_batch: usize,
    isa: Isa,
}

impl Cpu {
    /// A processor backend; an error where the instruction set asked for is not available or no
    /// thread is allowed.
    pub fn new(config: CpuConfig) -> Result<Self> {
        let unsupported = |what: String| Err(KernelError::Unsupported { backend: NAME, what });
        let isa = config.isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            let missing = isa.missing().join(", ");
            let what = format!("{isa} on this processor, which lacks {missing}");
            return unsupported(what);
        }
        let CpuConfig { threads, threads_batch, .. } = config;
        let threads_batch = threads_batch.unwrap_or(threads);
        if threads == 0 || threads_batch == 0 {
            return unsupported("a team of 0 threads".into());
        }
        Ok(Cpu { threads, threads_batch, isa })
    }

    /// Threads of a stream's team.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// Values below which an elementwise operation is done by the calling thread: it then takes no more
/// than a few microseconds, and a region costs up to half of one.
const SERIAL_VALUES: usize = 16 * 1024;

/// Runs `f` over ranges that cover `0..rows`, on the team where there is enough work. What `f` does
/// for a row must not depend on the range.
fn split_rows(team: &mut Team, rows: usize, width: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
    if team.threads() == 1 || rows.saturating_mul(width) < SERIAL_VALUES {
        return f(0..rows);
    }
    // A few ranges for each thread, so that one that is held up does not hold up the others.
    let ranges = rows.min(4 * team.threads());
    let start = |i: usize| i * rows / ranges;
    team.chunks(ranges, &|_, i| f(start(i)..start(i + 1)));
}

impl Backend for Cpu {
    type Stream = CpuStream;
    type Buffer = HostBuffer;
    type Weight = CpuWeight;
    type KvCache = CpuKvCache;
    type Recording = std::convert::Infallible;
    type Mark = Instant;
    type Communicator = HostCommunicator;

    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self, need: &Need) -> Result<()> {
        match *need {
            Need::Linear { format, cols } | Need::ExpertLinear { format, cols } => {
                linear::supported(format, cols)
            }
            Need::Embed(format) => linear::supported(format, format.block_len()),
            Need::Attention { head_dim, values, kv } => {
                kv_cache::check_head_dim(head_dim, values, kv)
            }
            Need::PackedAttention { head_dim } => attention::check_packed(head_dim),
        }
    }

    fn stream(&self) -> Result<CpuStream> {
        CpuStream::new(self.threads, self.threads_batch, self.isa)
    }

    fn mark(&self, _s: &mut CpuStream) -> Result<Instant> {
        Ok(Instant::now())
    }

    fn elapsed(&self, from: &Instant, to: &Instant) -> Result<Duration> {
        Ok(*to - *from)
    }

    fn step_begins(&self, s: &mut CpuStream, step: &StepInput) {
        s.step_begins(step);
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<HostBuffer> {
        HostBuffer::new(NAME, dtype, len)
    }

    fn upload_f32(&self, _: &mut CpuStream, src: &[f32], dst: &mut HostBuffer) -> Result<()> {
        dst.f32_mut("upload_f32", src.len())?.copy_from_slice(src);
        Ok(())
    }

    fn upload_i32(&self, _: &mut CpuStream, src: &[i32], dst: &mut HostBuffer) -> Result<()> {
        dst.i32_mut("upload_i32", src.len())?.copy_from_slice(src);
        Ok(())
    }

    fn download_f32(&self, _: &mut CpuStream, src: &HostBuffer, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(src.f32("download_f32", dst.len())?);
        Ok(())
    }

    fn download_i32(&self, _: &mut CpuStream, src: &HostBuffer, dst: &mut [i32]) -> Result<()> {
        dst.copy_from_slice(src.i32("download_i32", dst.len())?);
        Ok(())
    }

    fn pack(&self, s: &mut CpuStream, source: &WeightSource<'_>) -> Result<CpuWeight> {
        linear::pack(s, source)
    }

    fn packed_bytes(&self, format: Format, rows: usize, cols: usize) -> usize {
        linear::packed_bytes(format, rows, cols)
    }

    fn kv_cache(&self, spec: &KvSpec) -> Result<CpuKvCache> {
        CpuKvCache::new(spec)
    }

    fn embed(&self, s: &mut CpuStream, dst: &mut HostBuffer, p: &Embed<'_, Self>) -> Result<()> {
        linear::embed(s, dst, p)
    }

    fn linear(&self, s: &mut CpuStream, p: Linear<'_, '_, Self>) -> Result<()> {
        linear::linear(s, p)
    }

    fn gated_linear(
        &self,
        s: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &GatedLinear<'_, Self>,
    ) -> Result<()> {
        linear::gated_linear(s, dst, p)
    }

    fn route_topk(&self, s: &mut CpuStream, p: RouteTopk<'_, Self>) -> Result<()> {
        route_topk::route_topk(s, p)
    }

    fn expert_gated_linear(
        &self,
        s: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &ExpertGatedLinear<'_, Self>,
    ) -> Result<()> {
        linear::expert_gated_linear(s, dst, p)
    }

    fn expert_combine(
        &self,
        s: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &ExpertCombine<'_, Self>,
    ) -> Result<()> {
        linear::expert_combine(s, dst, p)
    }

    fn rms_norm(
        &self,
        s: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &RmsNorm<'_, Self>,
    ) -> Result<()> {
        rms_norm::rms_norm(s, dst, p)
    }

    fn layer_norm(
        &self,
        s: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &LayerNorm<'_, Self>,
    ) -> Result<()> {
        layer_norm::layer_norm(s, dst, p)
    }

    fn activate(&self, s: &mut CpuStream, x: &mut HostBuffer, p: &Activate) -> Result<()> {
        activate::activate(s, x, p)
    }

    fn gate(&self, s: &mut CpuStream, x: &mut HostBuffer, p: &Gate<'_, Self>) -> Result<()> {
        gate::gate(s, x, p)
    }

    fn rope(&self, s: &mut CpuStream, p: Rope<'_, '_, Self>) -> Result<()> {
        rope::rope(s, p)
    }

    fn kv_write(
        &self,
        s: &mut CpuStream,
        kv: &mut CpuKvCache,
        p: &KvWrite<'_, Self>,
    ) -> Result<()> {
        kv_write::kv_write(s, kv, p)
    }

    fn attention(
        &self,
        s: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &Attention<'_, Self>,
    ) -> Result<()> {
        attention::attention(s, dst, p)
    }

    fn packed_attention(
        &self,
        s: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &PackedAttention<'_, Self>,
    ) -> Result<()> {
        attention::packed_attention(s, dst, p)
    }

    fn gather_rows(
        &self,
        _: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &GatherRows<'_, Self>,
    ) -> Result<()> {
        gather_rows::gather_rows(dst, p)
    }

    fn scatter_add(
        &self,
        s: &mut CpuStream,
        dst: &mut HostBuffer,
        p: &ScatterAdd<'_, Self>,
    ) -> Result<()> {
        scatter_add::scatter_add(s, dst, p)
    }

    fn sample(&self, s: &mut CpuStream, dst: &mut HostBuffer, p: &Sample<'_, Self>) -> Result<()> {
        sample::sample(s, dst, p)
    }

    fn logprobs(&self, s: &mut CpuStream, p: Logprobs<'_, Self>) -> Result<()> {
        logprobs::logprobs(s, p)
    }

    fn communicators(ranks: &[&Self]) -> Result<Vec<HostCommunicator>> {
        Ok(HostCommunicator::world(ranks.len()))
    }

    fn all_reduce(
        &self,
        _: &mut CpuStream,
        c: &mut HostCommunicator,
        x: &mut HostBuffer,
        len: usize,
    ) -> Result<()> {
        c.all_reduce(x, len)
    }

    fn all_gather(
        &self,
        _: &mut CpuStream,
        c: &mut HostCommunicator,
        p: AllGather<'_, Self>,
    ) -> Result<()> {
        c.all_gather(p)
    }

    fn broadcast(
        &self,
        _: &mut CpuStream,
        c: &mut HostCommunicator,
        p: Broadcast<'_, Self>,
    ) -> Result<()> {
        c.broadcast(p)
    }
}
