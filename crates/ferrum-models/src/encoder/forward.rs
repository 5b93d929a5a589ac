//! The network: token ids of a packed step to hidden states.

use ferrum_kernels::params::{Activate, Embed, LayerNorm, Linear, LinearOutput, PackedAttention};
use ferrum_kernels::{Backend, DType, KernelError, Need, StepInput};

use super::EncoderSpec;
use super::weights::{self, Layer, Norm, Wanted, Weights};
use crate::hf::Shards;
use crate::load::ModelError;

/// An encoder on its device; the type of the backend ends here.
pub(super) trait Network: Send {
    /// Hidden states `[T, hidden]` of the last layer. `step` has the tokens, their positions and the
    /// starts of the sequences; its other arrays stay empty but for the lengths.
    fn run(&mut self, step: &StepInput) -> Result<&[f32], KernelError>;

    /// An error where the device does not work any more.
    fn works(&self) -> Result<(), KernelError>;
}

/// An encoder on a backend.
pub(super) struct Encoder<B: Backend> {
    spec: EncoderSpec,
    backend: B,
    stream: B::Stream,
    weights: Weights<B>,
    act: Activations<B>,
    host: Vec<f32>,
}

/// Buffers for the largest step.
struct Activations<B: Backend> {
    tokens: B::Buffer,
    positions: B::Buffer,
    starts: B::Buffer,
    /// Hidden states `[T, hidden]`.
    x: B::Buffer,
    q: B::Buffer,
    k: B::Buffer,
    v: B::Buffer,
    /// What attention gives `[T, hidden]`.
    attended: B::Buffer,
    /// `[T, mlp_width]`
    mlp: B::Buffer,
}

impl<B: Backend> Encoder<B> {
    /// Loads the weights, with room for steps of up to `tokens` tokens.
    pub fn load(
        backend: B,
        shards: &Shards,
        wanted: &Wanted<'_>,
        tokens: usize,
    ) -> Result<Self, ModelError> {
        let spec = wanted.spec;
        backend.check(&Need::PackedAttention { head_dim: spec.head_dim() })?;
        let mut stream = backend.stream()?;
        let weights = weights::load(&backend, &mut stream, shards, wanted)?;
        let floats = |width: usize| backend.alloc(DType::F32, tokens.saturating_mul(width));
        let ints = |len: usize| backend.alloc(DType::I32, len);
        let hidden = spec.hidden;
        let act = Activations {
            tokens: ints(tokens)?,
            positions: ints(tokens)?,
            starts: ints(tokens.saturating_add(1))?,
            x: floats(hidden)?,
            q: floats(hidden)?,
            k: floats(hidden)?,
            v: floats(hidden)?,
            attended: floats(hidden)?,
            mlp: floats(spec.mlp_width)?,
        };
        Ok(Encoder { spec: spec.clone(), backend, stream, weights, act, host: Vec::new() })
    }

    fn embed(&mut self, step: &StepInput) -> Result<(), KernelError> {
        let Encoder { spec, backend, stream: s, weights, act, .. } = self;
        backend.step_begins(s, step);
        backend.upload_i32(s, &step.tokens, &mut act.tokens)?;
        backend.upload_i32(s, &step.positions, &mut act.positions)?;
        backend.upload_i32(s, &step.query_starts, &mut act.starts)?;
        let rows = step.tokens.len();
        let (scale, words, tokens) = (1.0, &weights.words, &act.tokens);
        let p = Embed { table: words, tokens, rows, scale, accumulate: false };
        backend.embed(s, &mut act.x, &p)?;
        let (table, tokens) = (&weights.positions, &act.positions);
        let p = Embed { table, tokens, rows, scale, accumulate: true };
        backend.embed(s, &mut act.x, &p)?;
        norm(backend, s, &mut act.x, &weights.norm, spec, rows)
    }

    fn layer(&mut self, i: usize, rows: usize, seqs: usize) -> Result<(), KernelError> {
        let Encoder { spec, backend, stream: s, weights, act, .. } = self;
        let layer = &weights.layers[i];
        attention_input(backend, s, act, layer, rows)?;
        let p = PackedAttention {
            q: &act.q,
            k: &act.k,
            v: &act.v,
            query_starts: &act.starts,
            tokens: rows,
            seqs,
            heads: spec.heads,
            kv_heads: spec.heads,
            head_dim: spec.head_dim(),
            scale: 1.0 / (spec.head_dim() as f32).sqrt(),
        };
        backend.packed_attention(s, &mut act.attended, &p)?;
        let (weight, bias) = (&layer.output.weight, Some(&layer.output.bias));
        let outputs = &mut [LinearOutput { weight, bias, dst: &mut act.x, accumulate: true }];
        backend.linear(s, Linear { input: &act.attended, rows, outputs })?;
        norm(backend, s, &mut act.x, &layer.attention_norm, spec, rows)?;
        let (weight, bias) = (&layer.up.weight, Some(&layer.up.bias));
        let outputs = &mut [LinearOutput { weight, bias, dst: &mut act.mlp, accumulate: false }];
        backend.linear(s, Linear { input: &act.x, rows, outputs })?;
        let (width, activation) = (spec.mlp_width, spec.activation);
        backend.activate(s, &mut act.mlp, &Activate { rows, width, activation })?;
        let (weight, bias) = (&layer.down.weight, Some(&layer.down.bias));
        let outputs = &mut [LinearOutput { weight, bias, dst: &mut act.x, accumulate: true }];
        backend.linear(s, Linear { input: &act.mlp, rows, outputs })?;
        norm(backend, s, &mut act.x, &layer.norm, spec, rows)
    }
}

/// Queries, keys and values.
fn attention_input<B: Backend>(
    backend: &B,
    s: &mut B::Stream,
    act: &mut Activations<B>,
    layer: &Layer<B>,
    rows: usize,
) -> Result<(), KernelError> {
    let Activations { x, q, k, v, .. } = act;
    let mut outputs = [(&layer.q, q), (&layer.k, k), (&layer.v, v)].map(|(dense, dst)| {
        LinearOutput { weight: &dense.weight, bias: Some(&dense.bias), dst, accumulate: false }
    });
    backend.linear(s, Linear { input: x, rows, outputs: &mut outputs })
}

fn norm<B: Backend>(
    backend: &B,
    s: &mut B::Stream,
    x: &mut B::Buffer,
    norm: &Norm<B>,
    spec: &EncoderSpec,
    groups: usize,
) -> Result<(), KernelError> {
    let (weight, bias) = (&norm.weight, &norm.bias);
    let (width, eps) = (spec.hidden, spec.eps);
    backend.layer_norm(s, x, &LayerNorm { src: None, weight, bias, groups, width, eps })
}

impl<B: Backend> Network for Encoder<B> {
    fn run(&mut self, step: &StepInput) -> Result<&[f32], KernelError> {
        let (rows, seqs) = (step.tokens.len(), step.kv_lens.len());
        self.embed(step)?;
        for i in 0..self.spec.layers {
            self.layer(i, rows, seqs)?;
        }
        let len = rows * self.spec.hidden;
        self.host.resize(self.host.len().max(len), 0.0);
        self.backend.download_f32(&mut self.stream, &self.act.x, &mut self.host[..len])?;
        Ok(&self.host[..len])
    }

    fn works(&self) -> Result<(), KernelError> {
        self.backend.works()
    }
}
