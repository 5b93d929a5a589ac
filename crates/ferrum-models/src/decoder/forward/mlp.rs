//! The MLP sublayer: one gated MLP, or a mixture of them.

use ferrum_kernels::params::{
    ExpertCombine, ExpertGatedLinear, GatedLinear, Linear, LinearOutput, RmsNorm, RouteTopk,
};
use ferrum_kernels::{Backend, DType, KernelError};

use super::{DecoderRunner, Linears, Sublayer, carries_stream};
use crate::decoder::ExpertsSpec;
use crate::decoder::memory::ActivationSizes;
use crate::decoder::weights::{ExpertWeights, MlpWeights};
use crate::lora::Module;

/// Device buffers of the routing of a step of `T` tokens; empty where no layer has experts.
pub(super) struct Routing<B: Backend> {
    /// `F32 [T, experts]`
    scores: B::Buffer,
    /// `I32 [T, experts that work on a token]`
    ids: B::Buffer,
    /// `F32`, likewise.
    weights: B::Buffer,
}

impl<B: Backend> Routing<B> {
    pub(super) fn new(backend: &B, sizes: &ActivationSizes) -> Result<Self, KernelError> {
        Ok(Routing {
            scores: backend.alloc(DType::F32, sizes.scores)?,
            ids: backend.alloc(DType::I32, sizes.slots)?,
            weights: backend.alloc(DType::F32, sizes.slots)?,
        })
    }

    /// Which experts work on each of the `rows` tokens of `input`, and by how much.
    fn route(
        &mut self,
        b: &B,
        s: &mut B::Stream,
        input: &B::Buffer,
        rows: usize,
        (spec, experts): (&ExpertsSpec, &ExpertWeights<B>),
    ) -> Result<(), KernelError> {
        let Routing { scores, ids, weights } = self;
        let (weight, dst) = (&experts.router, &mut *scores);
        let outputs = &mut [LinearOutput { weight, bias: None, dst, accumulate: false }];
        b.linear(s, Linear { input, rows, outputs })?;
        let &ExpertsSpec { count: experts, used, normalize, scale } = spec;
        let p = RouteTopk { scores, rows, experts, used, normalize, scale, ids, weights };
        b.route_topk(s, p)
    }
}

impl<B: Backend> DecoderRunner<B> {
    /// Reads the residual stream and adds to it.
    pub(super) fn mlp(&mut self, i: usize) -> Result<(), KernelError> {
        self.norm_into_h(|w| w.ffn_norm.as_ref(), i)?;
        let mlp = &self.spec.layers[i].mlp;
        let weights = &self.weights.layers[i];
        let (act, rows) = (&mut self.act, self.batch.shape.tokens);
        match &weights.mlp {
            MlpWeights::Dense { gate, up, down } => {
                let activation = mlp.activation;
                let input = if weights.ffn_norm.is_some() { &act.h } else { &act.x };
                let p = GatedLinear { input, rows, gate, up, activation };
                let (b, adapters) = (&self.backend, self.adapters.as_mut());
                let mut linears = Linears { b, s: &mut self.stream, adapters };
                linears.gated_linear(i, &mut act.mlp, &p)?;
                let sublayer = Sublayer {
                    layer: i,
                    module: Module::Down,
                    input: &act.mlp,
                    weight: down,
                    post_norm: weights.post_ffn_norm.as_ref(),
                    rows,
                    eps: self.spec.norm_eps,
                };
                sublayer.add_to(linears, self.rank.as_mut(), (&mut act.x, &mut act.h))
            }
            MlpWeights::Experts(_) => self.experts(i),
        }
    }

    /// The mixture of layer `i`, which has one: from `h` to the residual stream.
    fn experts(&mut self, i: usize) -> Result<(), KernelError> {
        let (layer, weights) = (&self.spec.layers[i], &self.weights.layers[i]);
        let (Some(spec), MlpWeights::Experts(experts)) = (layer.mlp.experts(), &weights.mlp) else {
            return Err(KernelError::shape("decoder", format!("layer {i} has no experts")));
        };
        let (b, s, act) = (&self.backend, &mut self.stream, &mut self.act);
        let rows = self.batch.shape.tokens;
        let input = if weights.ffn_norm.is_some() { &act.h } else { &act.x };
        act.routing.route(b, s, input, rows, (spec, experts))?;
        b.expert_gated_linear(
            s,
            &mut act.mlp,
            &ExpertGatedLinear {
                input,
                rows,
                ids: &act.routing.ids,
                used: spec.used,
                gate: &experts.gate,
                up: &experts.up,
                activation: layer.mlp.activation,
            },
        )?;
        let post_norm = weights.post_ffn_norm.as_ref();
        let (dst, accumulate) = match post_norm {
            Some(_) => (&mut act.h, false),
            None => (&mut act.x, carries_stream(self.rank.as_ref())),
        };
        b.expert_combine(
            s,
            &mut *dst,
            &ExpertCombine {
                input: &act.mlp,
                rows,
                ids: &act.routing.ids,
                weights: &act.routing.weights,
                used: spec.used,
                weight: &experts.down,
                accumulate,
            },
        )?;
        if let Some(rank) = &mut self.rank {
            rank.sum(b, s, dst, rows * self.spec.hidden)?;
        }
        let Some(weight) = post_norm else { return Ok(()) };
        let (src, groups, width) = (Some(&act.h), rows, self.spec.hidden);
        let eps = self.spec.norm_eps;
        b.rms_norm(s, &mut act.x, &RmsNorm { src, weight, groups, width, eps, accumulate: true })
    }
}
