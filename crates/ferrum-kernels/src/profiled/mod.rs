//! A backend that measures another: every operation is passed on, and its time, its bytes and its
//! arithmetic are recorded. The inner backend and the model above know nothing of it, so a program
//! that does not profile pays nothing.
//!
//! The time is that between marks before and after the operation, on the device's clock: nothing is
//! waited for until a step's results are, or the next step begins. Where a device has nothing to do
//! until an operation comes, it has the way there in it, some microseconds.

mod cost;
mod record;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use record::{Op, OpRecord, Profiler};

use crate::params::{
    Activate, AllGather, Attention, Broadcast, Embed, ExpertCombine, ExpertGatedLinear, Gate,
    GatedLinear, GatherRows, KvSpec, KvWrite, LayerNorm, Linear, LinearOutput, Logprobs,
    PackedAttention, RmsNorm, Rope, RopeInput, RouteTopk, Sample, ScatterAdd,
};
use crate::{Backend, DType, Format, Need, PackedWeight, Result, StepInput, WeightSource};
use record::{Cost, Formats};

/// `B`, measured.
pub struct Profiled<B> {
    inner: B,
    profiler: Profiler,
}

impl<B: Backend> Profiled<B> {
    /// Wraps a backend; the [`Profiler`] gives what is recorded.
    pub fn new(inner: B) -> (Self, Profiler) {
        let profiler = Profiler::default();
        (Profiled { inner, profiler: profiler.clone() }, profiler)
    }

    /// Runs and records an operation.
    fn record<T>(
        &self,
        s: &mut Stream<B>,
        (op, formats, cost): (Op, Formats, Cost),
        run: impl FnOnce(&B, &mut B::Stream) -> Result<T>,
    ) -> Result<T> {
        let from = self.inner.mark(&mut s.inner)?;
        // What is refused has neither moved nor computed anything, and is not counted.
        let result = run(&self.inner, &mut s.inner)?;
        let to = self.inner.mark(&mut s.inner)?;
        s.queued.push(Queued { op, formats, cost, from, to });
        s.last = match op {
            // What stands between two linears says nothing of their parts.
            Op::Norm | Op::Upload | Op::Collective => s.last,
            _ => Some(op),
        };
        Ok(result)
    }

    /// Counts what has been queued; waits for it.
    fn count(&self, s: &mut Stream<B>) -> Result<()> {
        for Queued { op, formats, cost, from, to } in s.queued.drain(..) {
            let time = self.inner.elapsed(&from, &to)?;
            self.profiler.add(op, formats, time, cost);
        }
        Ok(())
    }
}

/// An operation between its marks.
struct Queued<M> {
    op: Op,
    formats: Formats,
    cost: Cost,
    from: M,
    to: M,
}

/// The stream of the inner backend, and what came last on it.
pub struct Stream<B: Backend> {
    inner: B::Stream,
    last: Option<Op>,
    step: StepInput,
    /// What is not counted yet.
    queued: Vec<Queued<B::Mark>>,
}

/// What a linear is for, by what came before it.
fn role(last: Option<Op>, outputs: usize) -> Op {
    match last {
        _ if outputs > 1 => Op::Qkv,
        Some(Op::Attention) => Op::AttentionOutput,
        Some(Op::GateUp | Op::Activate) => Op::Down,
        Some(Op::GatherRows) => Op::Head,
        Some(Op::AttentionOutput) => Op::Router,
        _ => Op::OtherLinear,
    }
}

impl<B: Backend> Backend for Profiled<B> {
    type Stream = Stream<B>;
    type Buffer = B::Buffer;
    type Weight = B::Weight;
    type KvCache = B::KvCache;
    // Operations are measured one by one.
    type Recording = std::convert::Infallible;
    type Mark = B::Mark;
    type Communicator = B::Communicator;

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn check(&self, need: &Need) -> Result<()> {
        self.inner.check(need)
    }

    fn compiles_at_first_use(&self) -> bool {
        self.inner.compiles_at_first_use()
    }

    fn keeps_e4m3(&self) -> bool {
        self.inner.keeps_e4m3()
    }

    fn stream(&self) -> Result<Stream<B>> {
        let (inner, step) = (self.inner.stream()?, StepInput::default());
        Ok(Stream { inner, last: None, step, queued: Vec::new() })
    }

    fn synchronize(&self, s: &mut Stream<B>) -> Result<()> {
        self.inner.synchronize(&mut s.inner)?;
        self.count(s)
    }

    fn works(&self) -> Result<()> {
        self.inner.works()
    }

    fn mark(&self, s: &mut Stream<B>) -> Result<B::Mark> {
        self.inner.mark(&mut s.inner)
    }

    fn elapsed(&self, from: &B::Mark, to: &B::Mark) -> Result<Duration> {
        self.inner.elapsed(from, to)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<B::Buffer> {
        self.inner.alloc(dtype, len)
    }

    fn step_begins(&self, s: &mut Stream<B>, step: &StepInput) {
        s.step.clone_from(step);
        // The step before may have had no results to wait for, or have failed.
        if self.count(s).is_err() {
            s.queued.clear();
        }
        self.inner.step_begins(&mut s.inner, step);
    }

    fn upload_f32(&self, s: &mut Stream<B>, src: &[f32], dst: &mut B::Buffer) -> Result<()> {
        self.inner.upload_f32(&mut s.inner, src, dst)
    }

    fn upload_i32(&self, s: &mut Stream<B>, src: &[i32], dst: &mut B::Buffer) -> Result<()> {
        let what = (Op::Upload, Formats::default(), cost::copy(1, src.len()));
        self.record(s, what, |b, s| b.upload_i32(s, src, dst))
    }

    fn download_f32(&self, s: &mut Stream<B>, src: &B::Buffer, dst: &mut [f32]) -> Result<()> {
        let what = (Op::Download, Formats::default(), cost::copy(1, dst.len()));
        self.record(s, what, |b, s| b.download_f32(s, src, dst))?;
        self.count(s)
    }

    fn download_i32(&self, s: &mut Stream<B>, src: &B::Buffer, dst: &mut [i32]) -> Result<()> {
        let what = (Op::Download, Formats::default(), cost::copy(1, dst.len()));
        self.record(s, what, |b, s| b.download_i32(s, src, dst))?;
        self.count(s)
    }

    fn pack(&self, s: &mut Stream<B>, source: &WeightSource<'_>) -> Result<B::Weight> {
        self.inner.pack(&mut s.inner, source)
    }

    fn packed_bytes(&self, format: Format, rows: usize, cols: usize) -> usize {
        self.inner.packed_bytes(format, rows, cols)
    }

    fn kv_cache(&self, spec: &KvSpec) -> Result<B::KvCache> {
        self.inner.kv_cache(spec)
    }

    fn embed(&self, s: &mut Stream<B>, dst: &mut B::Buffer, p: &Embed<'_, Self>) -> Result<()> {
        let what = (Op::Embed, Formats::of([p.table.format()]), cost::embed(p));
        let &Embed { table, tokens, rows, scale, accumulate } = p;
        let p = Embed { table, tokens, rows, scale, accumulate };
        self.record(s, what, |b, s| b.embed(s, dst, &p))
    }

    fn linear(&self, s: &mut Stream<B>, p: Linear<'_, '_, Self>) -> Result<()> {
        let op = role(s.last, p.outputs.len());
        let formats = Formats::of(p.outputs.iter().map(|o| o.weight.format()));
        let what = (op, formats, cost::linear(&p));
        let Linear { input, rows, outputs } = p;
        let mut outputs: Vec<LinearOutput<'_, B>> = outputs
            .iter_mut()
            .map(|LinearOutput { weight, bias, dst, accumulate }| LinearOutput {
                weight: *weight,
                bias: *bias,
                dst: &mut **dst,
                accumulate: *accumulate,
            })
            .collect();
        let outputs = outputs.as_mut_slice();
        self.record(s, what, |b, s| b.linear(s, Linear { input, rows, outputs }))
    }

    fn gated_linear(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &GatedLinear<'_, Self>,
    ) -> Result<()> {
        let formats = Formats::of([p.gate.format(), p.up.format()]);
        let what = (Op::GateUp, formats, cost::gated_linear(p));
        let &GatedLinear { input, rows, gate, up, activation } = p;
        let p = GatedLinear { input, rows, gate, up, activation };
        self.record(s, what, |b, s| b.gated_linear(s, dst, &p))
    }

    fn rms_norm(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &RmsNorm<'_, Self>,
    ) -> Result<()> {
        let what = (Op::Norm, Formats::default(), cost::rms_norm(p));
        let &RmsNorm { src, weight, groups, width, eps, accumulate } = p;
        let p = RmsNorm { src, weight, groups, width, eps, accumulate };
        self.record(s, what, |b, s| b.rms_norm(s, dst, &p))
    }

    fn layer_norm(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &LayerNorm<'_, Self>,
    ) -> Result<()> {
        let what = (Op::Norm, Formats::default(), cost::layer_norm(p));
        let &LayerNorm { src, weight, bias, groups, width, eps } = p;
        let p = LayerNorm { src, weight, bias, groups, width, eps };
        self.record(s, what, |b, s| b.layer_norm(s, dst, &p))
    }

    fn activate(&self, s: &mut Stream<B>, x: &mut B::Buffer, p: &Activate) -> Result<()> {
        let what = (Op::Activate, Formats::default(), cost::activate(p));
        self.record(s, what, |b, s| b.activate(s, x, p))
    }

    fn gate(&self, s: &mut Stream<B>, x: &mut B::Buffer, p: &Gate<'_, Self>) -> Result<()> {
        let what = (Op::Activate, Formats::default(), cost::gate(p));
        let &Gate { up, rows, width, activation } = p;
        let p = Gate { up, rows, width, activation };
        self.record(s, what, |b, s| b.gate(s, x, &p))
    }

    fn rope(&self, s: &mut Stream<B>, p: Rope<'_, '_, Self>) -> Result<()> {
        let what = (Op::Rope, Formats::default(), cost::rope(&p));
        let Rope { positions, table, rows, head_dim, rotary_dim, style, eps, inputs } = p;
        let mut inputs: Vec<RopeInput<'_, B>> = inputs
            .iter_mut()
            .map(|RopeInput { x, heads, norm }| RopeInput {
                x: &mut **x,
                heads: *heads,
                norm: *norm,
            })
            .collect();
        let inputs = inputs.as_mut_slice();
        let p = Rope { positions, table, rows, head_dim, rotary_dim, style, eps, inputs };
        self.record(s, what, |b, s| b.rope(s, p))
    }

    fn kv_write(
        &self,
        s: &mut Stream<B>,
        kv: &mut B::KvCache,
        p: &KvWrite<'_, Self>,
    ) -> Result<()> {
        let what = (Op::KvWrite, Formats::default(), cost::kv_write(kv, p));
        let &KvWrite { k, v, batch } = p;
        self.record(s, what, |b, s| b.kv_write(s, kv, &KvWrite { k, v, batch }))
    }

    fn attention(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &Attention<'_, Self>,
    ) -> Result<()> {
        let what = (Op::Attention, Formats::default(), cost::attention(p, &s.step));
        let &Attention { q, kv, batch, heads, scale, window, softcap, sinks } = p;
        let p = Attention { q, kv, batch, heads, scale, window, softcap, sinks };
        self.record(s, what, |b, s| b.attention(s, dst, &p))
    }

    fn packed_attention(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &PackedAttention<'_, Self>,
    ) -> Result<()> {
        let what = (Op::Attention, Formats::default(), cost::packed_attention(p, &s.step));
        let &PackedAttention { q, k, v, query_starts, tokens, seqs, .. } = p;
        let &PackedAttention { heads, kv_heads, head_dim, scale, .. } = p;
        let p = PackedAttention {
            q,
            k,
            v,
            query_starts,
            tokens,
            seqs,
            heads,
            kv_heads,
            head_dim,
            scale,
        };
        self.record(s, what, |b, s| b.packed_attention(s, dst, &p))
    }

    fn gather_rows(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &GatherRows<'_, Self>,
    ) -> Result<()> {
        let what = (Op::GatherRows, Formats::default(), cost::copy(p.count, p.width));
        let &GatherRows { src, rows, count, width } = p;
        let p = GatherRows { src, rows, count, width };
        self.record(s, what, |b, s| b.gather_rows(s, dst, &p))
    }

    fn scatter_add(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &ScatterAdd<'_, Self>,
    ) -> Result<()> {
        let what = (Op::ScatterAdd, Formats::default(), cost::scatter_add(p));
        let &ScatterAdd { src, rows, count, width } = p;
        let p = ScatterAdd { src, rows, count, width };
        self.record(s, what, |b, s| b.scatter_add(s, dst, &p))
    }

    fn sample(&self, s: &mut Stream<B>, dst: &mut B::Buffer, p: &Sample<'_, Self>) -> Result<()> {
        let what = (Op::Sample, Formats::default(), cost::sample(p));
        let &Sample { logits, draws, rows, vocab, scale, softcap } = p;
        let p = Sample { logits, draws, rows, vocab, scale, softcap };
        self.record(s, what, |b, s| b.sample(s, dst, &p))
    }

    fn logprobs(&self, s: &mut Stream<B>, p: Logprobs<'_, Self>) -> Result<()> {
        let what = (Op::Logprobs, Formats::default(), cost::logprobs(&p));
        let Logprobs { logits, came, draws, rows, vocab, scale, softcap, dst } = p;
        let p = Logprobs { logits, came, draws, rows, vocab, scale, softcap, dst };
        self.record(s, what, |b, s| b.logprobs(s, p))
    }

    fn route_topk(&self, s: &mut Stream<B>, p: RouteTopk<'_, Self>) -> Result<()> {
        let what = (Op::RouteTopk, Formats::default(), cost::copy(p.rows, p.experts));
        let RouteTopk { scores, rows, experts, used, normalize, scale, ids, weights } = p;
        let p = RouteTopk { scores, rows, experts, used, normalize, scale, ids, weights };
        self.record(s, what, |b, s| b.route_topk(s, p))
    }

    fn expert_gated_linear(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &ExpertGatedLinear<'_, Self>,
    ) -> Result<()> {
        let formats = Formats::of([p.gate.format(), p.up.format()]);
        let what = (Op::ExpertGateUp, formats, cost::expert_gated_linear(p));
        let &ExpertGatedLinear { input, rows, ids, used, gate, up, activation } = p;
        let p = ExpertGatedLinear { input, rows, ids, used, gate, up, activation };
        self.record(s, what, |b, s| b.expert_gated_linear(s, dst, &p))
    }

    fn expert_combine(
        &self,
        s: &mut Stream<B>,
        dst: &mut B::Buffer,
        p: &ExpertCombine<'_, Self>,
    ) -> Result<()> {
        let formats = Formats::of([p.weight.format()]);
        let what = (Op::ExpertDown, formats, cost::expert_combine(p));
        let &ExpertCombine { input, rows, ids, weights, used, weight, accumulate } = p;
        let p = ExpertCombine { input, rows, ids, weights, used, weight, accumulate };
        self.record(s, what, |b, s| b.expert_combine(s, dst, &p))
    }

    fn communicators(ranks: &[&Self]) -> Result<Vec<B::Communicator>> {
        B::communicators(&ranks.iter().map(|rank| &rank.inner).collect::<Vec<_>>())
    }

    fn all_reduce(
        &self,
        s: &mut Stream<B>,
        c: &mut B::Communicator,
        x: &mut B::Buffer,
        len: usize,
    ) -> Result<()> {
        let what = (Op::Collective, Formats::default(), cost::copy(1, len));
        self.record(s, what, |b, s| b.all_reduce(s, c, x, len))
    }

    fn all_gather(
        &self,
        s: &mut Stream<B>,
        c: &mut B::Communicator,
        p: AllGather<'_, Self>,
    ) -> Result<()> {
        let what = (Op::Collective, Formats::default(), cost::copy(1, p.len));
        let AllGather { dst, src, len } = p;
        self.record(s, what, |b, s| b.all_gather(s, c, AllGather { dst, src, len }))
    }

    fn broadcast(
        &self,
        s: &mut Stream<B>,
        c: &mut B::Communicator,
        p: Broadcast<'_, Self>,
    ) -> Result<()> {
        let what = (Op::Collective, Formats::default(), cost::copy(1, p.len));
        let Broadcast { x, len, root } = p;
        self.record(s, what, |b, s| b.broadcast(s, c, Broadcast { x, len, root }))
    }
}
