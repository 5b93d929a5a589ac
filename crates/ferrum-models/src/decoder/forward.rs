//! The forward pass of a packed step, on any backend.

mod mlp;
mod rank;
mod recorded;
mod sampling;

use ferrum_kernels::draw::RowDraw;
use ferrum_kernels::params::{
    Attention, Embed, KvSpec, KvValues, KvWrite, Linear, LinearOutput, RmsNorm, Rope, RopeInput,
};
use ferrum_kernels::{
    Backend, Communicator, DType, KernelError, KvDType, PackedWeight, StepBatch, StepInput,
};

use mlp::Routing;
use rank::{Rank, carries_stream};
use recorded::Recordings;
use sampling::Sampling;

use super::adapters::{Adapters, Linears};
use super::memory::{ActivationSizes, adjusted};
use super::weights::{DecoderWeights, LayerWeights, Loader, check_file, vector_values};
use super::{DecoderSpec, LayerSpec, QkNorm, Share, rope_table};
use crate::checkpoint::Checkpoint;
use crate::load::ModelError;
use crate::lora::{Adapter, Module};
use crate::runner::{Runner, RunnerLimits, Sampled};

/// Sizes of a runner, fixed when it is made.
#[derive(Debug, Clone, Copy)]
pub struct DecoderOptions {
    /// Context length, pool size and the largest step.
    pub limits: RunnerLimits,
    /// Element type of the KV cache.
    pub kv_dtype: KvDType,
    /// Linears may be rounded, as [`ferrum_kernels::WeightSource::rounded`] says.
    pub rounded: bool,
}

/// A decoder on a backend: weights, KV cache and the buffers of a step, all allocated once.
pub struct DecoderRunner<B: Backend> {
    /// Decode steps that the backend has recorded.
    recordings: Recordings<B>,
    /// Where several compute a step. It is dropped early, so that no other waits for one that is gone,
    /// and after the recordings, which mention it.
    rank: Option<Rank<B>>,
    backend: B,
    stream: B::Stream,
    /// What this rank computes.
    spec: DecoderSpec,
    weights: DecoderWeights<B>,
    /// Tables of [`DecoderSpec::ropes`].
    ropes: Vec<B::Buffer>,
    /// One cache per layer.
    kv: Vec<B::KvCache>,
    batch: StepBatch<B::Buffer>,
    act: Activations<B>,
    /// Where there are any.
    adapters: Option<Adapters<B>>,
    /// Numbers that a sequence may name, from 0.
    adapter_count: usize,
    /// Drawing from whole rows; `None` where this is one of several ranks, which have parts of them.
    sampling: Option<Sampling<B>>,
    /// Why the device does nothing any more.
    failure: Option<String>,
    limits: RunnerLimits,
    /// Results of the last step on the host: logits `[R, vocab]`, or states `[T, hidden]`.
    logits: Vec<f32>,
}

/// Device buffers of a step of `T` tokens and `R` rows to sample, all `F32`.
struct Activations<B: Backend> {
    /// Residual stream `[T, hidden]`.
    x: B::Buffer,
    /// Normalised input of a sublayer, or its output before a post-norm `[T, hidden]`.
    h: B::Buffer,
    /// `[T, heads · head_dim]`
    q: B::Buffer,
    /// `[T, kv_heads · head_dim]`
    k: B::Buffer,
    /// `[T, kv_heads · head_dim]`
    v: B::Buffer,
    /// Attention's output `[T, heads · head_dim]`.
    attn: B::Buffer,
    /// `[T, mlp width]`; of a mixture `[T, experts that work on a token, width]`.
    mlp: B::Buffer,
    routing: Routing<B>,
    /// Hidden states to sample `[R, hidden]`.
    sampled: B::Buffer,
    /// `[R, vocab]`
    logits: B::Buffer,
}

impl<B: Backend> Activations<B> {
    fn new(backend: &B, spec: &DecoderSpec, limits: &RunnerLimits) -> Result<Self, KernelError> {
        let sizes = ActivationSizes::new(spec, limits);
        let floats = |len: usize| backend.alloc(DType::F32, len);
        Ok(Activations {
            x: floats(sizes.hidden)?,
            h: floats(sizes.hidden)?,
            q: floats(sizes.q)?,
            k: floats(sizes.kv)?,
            v: floats(sizes.kv)?,
            attn: floats(sizes.q)?,
            mlp: floats(sizes.mlp)?,
            routing: Routing::new(backend, &sizes)?,
            sampled: floats(sizes.sampled)?,
            logits: floats(sizes.logits)?,
        })
    }
}

impl<B: Backend> DecoderRunner<B> {
    /// Checks the file against the spec and the backend, then loads it. A sequence has the adapter
    /// whose number it names; the first is for those that name none.
    pub(crate) fn load(
        backend: B,
        file: &dyn Checkpoint,
        spec: DecoderSpec,
        options: &DecoderOptions,
        adapters: &[Adapter],
    ) -> Result<Self, ModelError> {
        Self::load_share((backend, None), file, spec, options, adapters)
    }

    /// One of several ranks that compute every step together, each on a thread of its own. Of `spec`,
    /// which is the whole model, it has its share; the logits that it gives are those of its part of
    /// the vocabulary, and perhaps one more.
    pub(crate) fn load_rank(
        backend: B,
        communicator: B::Communicator,
        file: &dyn Checkpoint,
        spec: DecoderSpec,
        options: &DecoderOptions,
    ) -> Result<Self, ModelError> {
        Self::load_share((backend, Some(communicator)), file, spec, options, &[])
    }

    fn load_share(
        (backend, communicator): (B, Option<B::Communicator>),
        file: &dyn Checkpoint,
        whole: DecoderSpec,
        options: &DecoderOptions,
        adapters: &[Adapter],
    ) -> Result<Self, ModelError> {
        let share = communicator
            .as_ref()
            .map_or(Share::WHOLE, |c| Share { rank: c.rank(), ranks: c.ranks() });
        check_file(&backend, file, (&whole, share), (options.kv_dtype, options.rounded))?;
        let spec = share.of_spec(&whole)?;
        let limits = options.limits;
        let mut stream = backend.stream()?;
        // Who samples nothing wants states, and no head.
        let (rounded, head) = (options.rounded, limits.capacity.samples > 0);
        let mut loader = Loader {
            backend: &backend,
            stream: &mut stream,
            file,
            rounded,
            head,
            share,
            memory: Vec::new(),
        };
        let weights = loader.load(&whole)?;
        let ropes = load_ropes(&backend, &mut stream, file, &spec, limits.context)?;
        let (blocks, dtype) = (limits.kv_blocks, options.kv_dtype);
        let cache = |layer: &LayerSpec| {
            let (kv_heads, head_dim) = (layer.kv_heads, layer.head_dim);
            let values = KvValues::Own;
            backend.kv_cache(&KvSpec { blocks, kv_heads, head_dim, values, dtype })
        };
        let kv = spec.layers.iter().map(cache).collect::<Result<_, _>>()?;
        let batch = StepBatch::new(&backend, &limits.capacity)?;
        let act = Activations::new(&backend, &spec, &limits)?;
        let loaded = Adapters::load(&backend, &mut stream, adapters, (&spec, &limits))?;
        let sampling = communicator.is_none().then(|| Sampling::new(&backend, &limits));
        let tokens = share.of(whole.vocab);
        let mut runner = DecoderRunner {
            recordings: Recordings::default(),
            rank: communicator.map(|communicator| Rank { communicator, tokens }),
            backend,
            stream,
            spec,
            weights,
            ropes,
            kv,
            batch,
            act,
            adapters: loaded,
            adapter_count: adapters.len().max(1),
            sampling: sampling.transpose()?,
            failure: None,
            limits,
            logits: Vec::new(),
        };
        if runner.backend.compiles_at_first_use() {
            runner.warm_up()?;
        }
        Ok(runner)
    }

    /// Query, key and value projections with their norms and rotation; writes the KV cache.
    fn project(&mut self, i: usize) -> Result<(), KernelError> {
        let weights = &self.weights.layers[i];
        let (b, s, act) = (&self.backend, &mut self.stream, &mut self.act);
        let rows = self.batch.shape.tokens;
        let [bias_q, bias_k, bias_v] = match &weights.qkv_bias {
            Some([q, k, v]) => [Some(q), Some(k), Some(v)],
            None => [None, None, None],
        };
        let (q, k, v) = (&mut act.q, &mut act.k, &mut act.v);
        let mut linears = Linears { b, s: &mut *s, adapters: self.adapters.as_mut() };
        linears.linear(
            i,
            &[Module::Q, Module::K, Module::V],
            Linear {
                input: if weights.attn_norm.is_some() { &act.h } else { &act.x },
                rows,
                outputs: &mut [
                    LinearOutput { weight: &weights.q, bias: bias_q, dst: q, accumulate: false },
                    LinearOutput { weight: &weights.k, bias: bias_k, dst: k, accumulate: false },
                    LinearOutput { weight: &weights.v, bias: bias_v, dst: v, accumulate: false },
                ],
            },
        )?;
        self.rotate(i)?;
        let (kv, act) = (&mut self.kv[i], &self.act);
        let p = KvWrite { k: &act.k, v: Some(&act.v), batch: &self.batch };
        self.backend.kv_write(&mut self.stream, kv, &p)
    }

    /// Norms and rotation of queries and keys.
    fn rotate(&mut self, i: usize) -> Result<(), KernelError> {
        let (layer, norms) = (&self.spec.layers[i], &self.weights.layers[i].qk_norm);
        let (b, s, act) = (&self.backend, &mut self.stream, &mut self.act);
        let (rows, head_dim, eps) = (self.batch.shape.tokens, layer.head_dim, self.spec.norm_eps);
        let [norm_q, norm_k] = norms.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
        let mut inputs = [
            RopeInput { x: &mut act.q, heads: layer.heads, norm: norm_q },
            RopeInput { x: &mut act.k, heads: layer.kv_heads, norm: norm_k },
        ];
        // Norms of heads come with the rotation, where there is one.
        for RopeInput { x, heads, norm } in &mut inputs {
            let (groups, width) = match (layer.qk_norm, layer.rope) {
                (QkNorm::Head, Some(_)) => continue,
                (QkNorm::Row, _) => (rows, *heads * head_dim),
                _ => (rows * *heads, head_dim),
            };
            let Some(weight) = norm.take() else { continue };
            let p = RmsNorm { src: None, weight, groups, width, eps, accumulate: false };
            b.rms_norm(s, x, &p)?;
        }
        let Some(index) = layer.rope else { return Ok(()) };
        let (rotary_dim, style) = (self.spec.ropes[index].rotary_dim, self.spec.ropes[index].style);
        let (positions, table) = (&self.batch.positions, &self.ropes[index]);
        let inputs = &mut inputs;
        b.rope(s, Rope { positions, table, rows, head_dim, rotary_dim, style, eps, inputs })
    }

    /// The attention sublayer: reads the residual stream and adds to it.
    fn attention(&mut self, i: usize) -> Result<(), KernelError> {
        self.norm_into_h(|w| w.attn_norm.as_ref(), i)?;
        self.project(i)?;
        let layer = &self.spec.layers[i];
        self.backend.attention(
            &mut self.stream,
            &mut self.act.attn,
            &Attention {
                q: &self.act.q,
                kv: &self.kv[i],
                batch: &self.batch,
                heads: layer.heads,
                scale: layer.attn_scale,
                window: layer.window,
                softcap: layer.softcap,
                sinks: None,
            },
        )?;
        let weights = &self.weights.layers[i];
        let (act, rows) = (&mut self.act, self.batch.shape.tokens);
        let sublayer = Sublayer {
            layer: i,
            module: Module::AttnOutput,
            input: &act.attn,
            weight: &weights.attn_output,
            post_norm: weights.post_attn_norm.as_ref(),
            rows,
            eps: self.spec.norm_eps,
        };
        let (b, s, adapters) = (&self.backend, &mut self.stream, self.adapters.as_mut());
        let linears = Linears { b, s, adapters };
        sublayer.add_to(linears, self.rank.as_mut(), (&mut act.x, &mut act.h))
    }

    /// `h = norm(x)` with one of the layer's norms, where it has it.
    fn norm_into_h(
        &mut self,
        weight: fn(&LayerWeights<B>) -> Option<&B::Buffer>,
        i: usize,
    ) -> Result<(), KernelError> {
        let Some(weight) = weight(&self.weights.layers[i]) else { return Ok(()) };
        self.backend.rms_norm(
            &mut self.stream,
            &mut self.act.h,
            &RmsNorm {
                src: Some(&self.act.x),
                weight,
                groups: self.batch.shape.tokens,
                width: self.spec.hidden,
                eps: self.spec.norm_eps,
                accumulate: false,
            },
        )
    }
}

/// The second half of a sublayer: `x += post_norm(weight · input)`.
struct Sublayer<'a, B: Backend> {
    layer: usize,
    module: Module,
    input: &'a B::Buffer,
    weight: &'a B::Weight,
    post_norm: Option<&'a B::Buffer>,
    rows: usize,
    eps: f32,
}

impl<B: Backend> Sublayer<'_, B> {
    /// Adds to the residual stream `x`; `h` is scratch for the post-norm.
    fn add_to(
        &self,
        mut linears: Linears<'_, B>,
        rank: Option<&mut Rank<B>>,
        (x, h): (&mut B::Buffer, &mut B::Buffer),
    ) -> Result<(), KernelError> {
        let (dst, accumulate) = match self.post_norm {
            Some(_) => (&mut *h, false),
            None => (&mut *x, carries_stream(rank.as_deref())),
        };
        let outputs =
            &mut [LinearOutput { weight: self.weight, bias: None, dst: &mut *dst, accumulate }];
        let p = Linear { input: self.input, rows: self.rows, outputs };
        linears.linear(self.layer, &[self.module], p)?;
        let (groups, width) = (self.rows, self.weight.rows());
        if let Some(rank) = rank {
            rank.sum(linears.b, linears.s, dst, groups * width)?;
        }
        let Some(weight) = self.post_norm else { return Ok(()) };
        let (src, eps) = (Some(&*h), self.eps);
        let p = RmsNorm { src, weight, groups, width, eps, accumulate: true };
        linears.b.rms_norm(linears.s, x, &p)
    }
}

impl<B: Backend> Runner for DecoderRunner<B> {
    fn limits(&self) -> &RunnerLimits {
        &self.limits
    }

    fn adapters(&self) -> usize {
        self.adapter_count
    }

    fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    fn step(&mut self, step: &StepInput) -> Result<&[f32], KernelError> {
        Ok(self.sample(step, &[])?.logits)
    }

    fn draws(&self) -> bool {
        self.sampling.is_some()
    }

    fn adjusted(&self) -> usize {
        self.sampling.as_ref().map_or(0, |_| adjusted(&self.limits))
    }

    fn sample(
        &mut self,
        step: &StepInput,
        draws: &[Option<RowDraw<'_>>],
    ) -> Result<Sampled<'_>, KernelError> {
        if let Err(error) = self.try_step(step, draws) {
            self.failure = self.works().err().map(|error| error.to_string());
            return Err(error);
        }
        Ok(self.sampled())
    }
}

impl<B: Backend> DecoderRunner<B> {
    /// An error where the device does not work any more.
    pub fn works(&self) -> Result<(), KernelError> {
        self.backend.works()
    }

    /// Runs one packed step, and gives the normalised states of all of its tokens, `[T, hidden]`.
    pub fn states(&mut self, step: &StepInput) -> Result<&[f32], KernelError> {
        self.upload(step)?;
        self.layers()?;
        let (groups, width) = (self.batch.shape.tokens, self.spec.hidden);
        let (weight, eps) = (&self.weights.output_norm, self.spec.norm_eps);
        let src = Some(&self.act.x);
        let p = RmsNorm { src, weight, groups, width, eps, accumulate: false };
        self.backend.rms_norm(&mut self.stream, &mut self.act.h, &p)?;
        self.logits.resize(groups * width, 0.0);
        self.backend.download_f32(&mut self.stream, &self.act.h, &mut self.logits)?;
        Ok(&self.logits)
    }

    /// Runs a step; what it gives is on the host then.
    fn try_step(
        &mut self,
        step: &StepInput,
        draws: &[Option<RowDraw<'_>>],
    ) -> Result<(), KernelError> {
        self.upload(step)?;
        self.upload_draws(draws)?;
        self.run()?;
        self.download(draws)
    }

    /// Checks the step and puts it on the device.
    fn upload(&mut self, step: &StepInput) -> Result<(), KernelError> {
        self.limits.check(step, self.adapter_count)?;
        let mut widened = self.widened(step);
        if let Some(rank) = &self.rank {
            rank.localise(&mut widened.to_mut().tokens);
        }
        self.batch.upload(&self.backend, &mut self.stream, &widened)?;
        if let Some(adapters) = &mut self.adapters {
            adapters.begin(&self.backend, &mut self.stream, step)?;
        }
        Ok(())
    }

    fn compute(&mut self) -> Result<(), KernelError> {
        self.layers()?;
        match self.batch.shape.samples {
            0 => Ok(()),
            _ => {
                self.head()?;
                self.draw()
            }
        }
    }

    /// Runs all layers: the residual stream is in `act.x` then.
    fn layers(&mut self) -> Result<(), KernelError> {
        self.backend.embed(
            &mut self.stream,
            &mut self.act.x,
            &Embed {
                table: &self.weights.embed,
                tokens: &self.batch.tokens,
                rows: self.batch.shape.tokens,
                scale: self.spec.embed_scale,
                accumulate: false,
            },
        )?;
        if let Some(rank) = &mut self.rank {
            let values = self.batch.shape.tokens * self.spec.hidden;
            rank.sum(&self.backend, &mut self.stream, &mut self.act.x, values)?;
        }
        for i in 0..self.spec.layers.len() {
            self.attention(i)?;
            self.mlp(i)?;
        }
        Ok(())
    }
}

/// Puts the tables of all ropes on the backend, for `positions` positions.
fn load_ropes<B: Backend>(
    backend: &B,
    stream: &mut B::Stream,
    file: &dyn Checkpoint,
    spec: &DecoderSpec,
    positions: usize,
) -> Result<Vec<B::Buffer>, ModelError> {
    let mut tables = Vec::new();
    for rope in &spec.ropes {
        let divisors = rope.divisors_for(positions).map(|name| vector_values(file, name));
        let table = rope_table(rope, divisors.transpose()?.as_deref(), positions);
        let mut buffer = backend.alloc(DType::F32, table.len())?;
        backend.upload_f32(stream, &table, &mut buffer)?;
        tables.push(buffer);
    }
    Ok(tables)
}
