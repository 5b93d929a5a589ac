//! The oracle: plain Rust, one file per operation, slow and obviously right.
//!
//! Values are `f32` as on every backend, but each result is computed in `f64` and rounded once, so
//! that what a fast backend differs by is its own error. Weights are dequantised at load.

use std::time::{Duration, Instant};

use crate::backend::{Backend, KvStorage, Need, PackedWeight};
use crate::host::collectives::HostCommunicator;
use crate::host::{HostBuffer, zeroed};
use crate::params::{
    Activate, AllGather, Attention, Broadcast, Embed, ExpertCombine, ExpertGatedLinear, Gate,
    GatedLinear, GatherRows, KvSpec, KvWrite, LayerNorm, Linear, Logprobs, PackedAttention,
    RmsNorm, Rope, RouteTopk, Sample, ScatterAdd,
};
use crate::weight::dequantize_row;
use crate::{DType, Format, KernelError, Result, WeightSource, checks};

mod activate;
mod attention;
mod embed;
mod expert_combine;
mod expert_gated_linear;
mod gate;
mod gated_linear;
mod gather_rows;
mod kv_write;
mod layer_norm;
mod linear;
mod logprobs;
mod packed_attention;
mod rms_norm;
mod rope;
mod route_topk;
mod sample;
mod scatter_add;

/// The reference backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference;

impl Reference {
    /// It has no state.
    pub fn new() -> Self {
        Reference
    }
}

/// Operations run at once, in the caller's thread.
#[derive(Debug)]
pub struct Stream;

/// A weight as `f32 [experts, rows, cols]`.
#[derive(Debug)]
pub struct Weight {
    format: Format,
    experts: usize,
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Weight {
    /// The weights of output feature `i`, `[cols]`; those of a stack's matrices follow one another.
    fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..][..self.cols]
    }
}

impl PackedWeight for Weight {
    fn format(&self) -> Format {
        self.format
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn experts(&self) -> usize {
        self.experts
    }

    fn columns(&self) -> Option<&[u32]> {
        None
    }

    fn resident_bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }
}

/// Keys and values, each `f32 [blocks, KV_BLOCK_SIZE, kv_heads, head_dim]`, already rounded to the
/// cache's element type; no values where they are a part of the keys.
#[derive(Debug)]
pub struct KvCache {
    spec: KvSpec,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl KvStorage for KvCache {
    fn spec(&self) -> &KvSpec {
        &self.spec
    }

    fn resident_bytes(&self) -> usize {
        (self.k.len() + self.v.len()) * size_of::<f32>()
    }
}

/// `a · b`, the products and their sum in `f64`.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

impl Backend for Reference {
    type Stream = Stream;
    type Buffer = HostBuffer;
    type Weight = Weight;
    type KvCache = KvCache;
    type Recording = std::convert::Infallible;
    type Mark = Instant;
    type Communicator = HostCommunicator;

    fn name(&self) -> &'static str {
        "reference"
    }

    fn check(&self, need: &Need) -> Result<()> {
        let unsupported = |what| Err(KernelError::Unsupported { backend: self.name(), what });
        match *need {
            Need::Linear { format, cols } | Need::ExpertLinear { format, cols }
                if cols == 0 || format.row_bytes(cols).is_none() =>
            {
                unsupported(format!("{format} weights with rows of {cols} values"))
            }
            Need::PackedAttention { head_dim: 0 } => unsupported("heads of no values".into()),
            Need::Attention { head_dim, values, kv } if !checks::is_head(head_dim, values, kv) => {
                unsupported(format!("a cache in {kv:?} with {}", values.of(head_dim)))
            }
            Need::Linear { .. }
            | Need::ExpertLinear { .. }
            | Need::Embed(_)
            | Need::Attention { .. }
            | Need::PackedAttention { .. } => Ok(()),
        }
    }

    fn stream(&self) -> Result<Stream> {
        Ok(Stream)
    }

    fn mark(&self, _s: &mut Stream) -> Result<Instant> {
        Ok(Instant::now())
    }

    fn elapsed(&self, from: &Instant, to: &Instant) -> Result<Duration> {
        Ok(*to - *from)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<HostBuffer> {
        HostBuffer::new(self.name(), dtype, len)
    }

    fn upload_f32(&self, _: &mut Stream, src: &[f32], dst: &mut HostBuffer) -> Result<()> {
        dst.f32_mut("upload_f32", src.len())?.copy_from_slice(src);
        Ok(())
    }

    fn upload_i32(&self, _: &mut Stream, src: &[i32], dst: &mut HostBuffer) -> Result<()> {
        dst.i32_mut("upload_i32", src.len())?.copy_from_slice(src);
        Ok(())
    }

    fn download_f32(&self, _: &mut Stream, src: &HostBuffer, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(src.f32("download_f32", dst.len())?);
        Ok(())
    }

    fn download_i32(&self, _: &mut Stream, src: &HostBuffer, dst: &mut [i32]) -> Result<()> {
        dst.copy_from_slice(src.i32("download_i32", dst.len())?);
        Ok(())
    }

    fn pack(&self, _: &mut Stream, source: &WeightSource<'_>) -> Result<Weight> {
        checks::pack(source)?;
        let &WeightSource { format, rows, cols, experts, .. } = source;
        let mut data = zeroed(rows.saturating_mul(cols))?;
        for (row, dst) in data.chunks_exact_mut(cols).enumerate() {
            dequantize_row(format, source.row(row), dst)?;
            let scale = source.scales.map_or(1.0, |scales| scales[row]);
            dst.iter_mut().for_each(|value| *value *= scale);
            if let Some(columns) = source.columns {
                let stored = dst.to_vec();
                columns.iter().zip(stored).for_each(|(&at, value)| dst[at as usize] = value);
            }
            source.consume(row..row + 1);
        }
        Ok(Weight { format, experts, rows: rows / experts, cols, data })
    }

    fn packed_bytes(&self, _: Format, rows: usize, cols: usize) -> usize {
        rows.saturating_mul(cols).saturating_mul(size_of::<f32>())
    }

    fn kv_cache(&self, spec: &KvSpec) -> Result<KvCache> {
        let [keys, values] = checks::kv_cache(spec)?;
        Ok(KvCache { spec: *spec, k: zeroed(keys)?, v: zeroed(values)? })
    }

    fn embed(&self, _: &mut Stream, dst: &mut HostBuffer, p: &Embed<'_, Self>) -> Result<()> {
        embed::embed(dst, p)
    }

    fn linear(&self, _: &mut Stream, p: Linear<'_, '_, Self>) -> Result<()> {
        linear::linear(p)
    }

    fn gated_linear(
        &self,
        _: &mut Stream,
        dst: &mut HostBuffer,
        p: &GatedLinear<'_, Self>,
    ) -> Result<()> {
        gated_linear::gated_linear(dst, p)
    }

    fn route_topk(&self, _: &mut Stream, p: RouteTopk<'_, Self>) -> Result<()> {
        route_topk::route_topk(p)
    }

    fn expert_gated_linear(
        &self,
        _: &mut Stream,
        dst: &mut HostBuffer,
        p: &ExpertGatedLinear<'_, Self>,
    ) -> Result<()> {
        expert_gated_linear::expert_gated_linear(dst, p)
    }

    fn expert_combine(
        &self,
        _: &mut Stream,
        dst: &mut HostBuffer,
        p: &ExpertCombine<'_, Self>,
    ) -> Result<()> {
        expert_combine::expert_combine(dst, p)
    }

    fn rms_norm(&self, _: &mut Stream, dst: &mut HostBuffer, p: &RmsNorm<'_, Self>) -> Result<()> {
        rms_norm::rms_norm(dst, p)
    }

    fn layer_norm(
        &self,
        _: &mut Stream,
        dst: &mut HostBuffer,
        p: &LayerNorm<'_, Self>,
    ) -> Result<()> {
        layer_norm::layer_norm(dst, p)
    }

    fn activate(&self, _: &mut Stream, x: &mut HostBuffer, p: &Activate) -> Result<()> {
        activate::activate(x, p)
    }

    fn gate(&self, _: &mut Stream, x: &mut HostBuffer, p: &Gate<'_, Self>) -> Result<()> {
        gate::gate(x, p)
    }

    fn rope(&self, _: &mut Stream, p: Rope<'_, '_, Self>) -> Result<()> {
        rope::rope(p)
    }

    fn kv_write(&self, _: &mut Stream, kv: &mut KvCache, p: &KvWrite<'_, Self>) -> Result<()> {
        kv_write::kv_write(kv, p)
    }

    fn attention(
        &self,
        _: &mut Stream,
        dst: &mut HostBuffer,
        p: &Attention<'_, Self>,
    ) -> Result<()> {
        attention::attention(dst, p)
    }

    fn packed_attention(
        &self,
        _: &mut Stream,
        dst: &mut HostBuffer,
        p: &PackedAttention<'_, Self>,
    ) -> Result<()> {
        packed_attention::packed_attention(dst, p)
    }

    fn gather_rows(
        &self,
        _: &mut Stream,
        dst: &mut HostBuffer,
        p: &GatherRows<'_, Self>,
    ) -> Result<()> {
        gather_rows::gather_rows(dst, p)
    }

    fn scatter_add(
        &self,
        _: &mut Stream,
        dst: &mut HostBuffer,
        p: &ScatterAdd<'_, Self>,
    ) -> Result<()> {
        scatter_add::scatter_add(dst, p)
    }

    fn sample(&self, _: &mut Stream, dst: &mut HostBuffer, p: &Sample<'_, Self>) -> Result<()> {
        sample::sample(dst, p)
    }

    fn logprobs(&self, _: &mut Stream, p: Logprobs<'_, Self>) -> Result<()> {
        logprobs::logprobs(p)
    }

    fn communicators(ranks: &[&Self]) -> Result<Vec<HostCommunicator>> {
        Ok(HostCommunicator::world(ranks.len()))
    }

    fn all_reduce(
        &self,
        _: &mut Stream,
        c: &mut HostCommunicator,
        x: &mut HostBuffer,
        len: usize,
    ) -> Result<()> {
        c.all_reduce(x, len)
    }

    fn all_gather(
        &self,
        _: &mut Stream,
        c: &mut HostCommunicator,
        p: AllGather<'_, Self>,
    ) -> Result<()> {
        c.all_gather(p)
    }

    fn broadcast(
        &self,
        _: &mut Stream,
        c: &mut HostCommunicator,
        p: Broadcast<'_, Self>,
    ) -> Result<()> {
        c.broadcast(p)
    }
}
