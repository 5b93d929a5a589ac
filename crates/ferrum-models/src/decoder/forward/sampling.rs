//! From hidden states to logits, and to tokens where draws say how.

use ferrum_kernels::draw::{DrawBatch, Drawn, RowDraw};
use ferrum_kernels::params::{GatherRows, Linear, LinearOutput, RmsNorm, Sample};
use ferrum_kernels::{Backend, DType, KernelError, PackedWeight};

use super::DecoderRunner;
use crate::decoder::memory::masks;
use crate::runner::{RunnerLimits, Sampled};

/// Draws and their results, for a step of `R` rows.
pub(super) struct Sampling<B: Backend> {
    draws: DrawBatch<B::Buffer>,
    /// `I32 [R]`
    drawn: B::Buffer,
    /// Whether the step that was uploaded last draws.
    active: bool,
    /// The results on the host, `[R]`.
    integers: Vec<i32>,
    tokens: Vec<Drawn>,
}

impl<B: Backend> Sampling<B> {
    pub(super) fn new(backend: &B, limits: &RunnerLimits) -> Result<Self, KernelError> {
        let rows = limits.capacity.samples;
        Ok(Sampling {
            draws: DrawBatch::new(backend, rows, masks(limits), limits.vocab)?,
            drawn: backend.alloc(DType::I32, rows)?,
            active: false,
            integers: Vec::new(),
            tokens: Vec::new(),
        })
    }
}

impl<B: Backend> DecoderRunner<B> {
    /// Whether the step that was uploaded last draws.
    pub(super) fn is_drawing(&self) -> bool {
        self.sampling.as_ref().is_some_and(|sampling| sampling.active)
    }

    /// Puts the draws of the step that was uploaded on the device, if there are any.
    pub(super) fn upload_draws(
        &mut self,
        draws: &[Option<RowDraw<'_>>],
    ) -> Result<(), KernelError> {
        let samples = self.batch.shape.samples;
        if !draws.is_empty() && draws.len() != samples {
            let what = format!("{} draws for {samples} rows", draws.len());
            return Err(KernelError::shape("step", what));
        }
        let Some(sampling) = &mut self.sampling else { return Ok(()) };
        sampling.active = draws.iter().any(Option::is_some);
        if sampling.active {
            sampling.draws.upload(&self.backend, &mut self.stream, draws)?;
        }
        Ok(())
    }

    /// Logits of the rows to sample, into `act.logits`.
    pub(super) fn head(&mut self) -> Result<(), KernelError> {
        let (b, s, act) = (&self.backend, &mut self.stream, &mut self.act);
        let rows = self.batch.shape.samples;
        b.gather_rows(
            s,
            &mut act.sampled,
            &GatherRows {
                src: &act.x,
                rows: &self.batch.sample_rows,
                count: rows,
                width: self.spec.hidden,
            },
        )?;
        b.rms_norm(
            s,
            &mut act.sampled,
            &RmsNorm {
                src: None,
                weight: &self.weights.output_norm,
                groups: rows,
                width: self.spec.hidden,
                eps: self.spec.norm_eps,
                accumulate: false,
            },
        )?;
        let weight = self.weights.head();
        let dst = &mut act.logits;
        b.linear(
            s,
            Linear {
                input: &act.sampled,
                rows,
                outputs: &mut [LinearOutput { weight, bias: None, dst, accumulate: false }],
            },
        )
    }

    /// Draws from the logits in `act.logits`, where that is wanted.
    pub(super) fn draw(&mut self) -> Result<(), KernelError> {
        let Some(Sampling { draws, drawn, active: true, .. }) = &mut self.sampling else {
            return Ok(());
        };
        let p = Sample {
            logits: &self.act.logits,
            draws,
            rows: self.batch.shape.samples,
            vocab: self.limits.vocab,
            scale: self.spec.logits.scale,
            softcap: self.spec.logits.softcap,
        };
        self.backend.sample(&mut self.stream, drawn, &p)
    }

    /// Copies to the host what is wanted of the step that has run.
    pub(super) fn download(
        &mut self,
        draws: &[Option<RowDraw<'_>>],
    ) -> Result<Sampled<'_>, KernelError> {
        let (b, s) = (&self.backend, &mut self.stream);
        let (samples, width) = (self.batch.shape.samples, self.weights.head().rows());
        let mut wanted = samples;
        let mut tokens: &[Drawn] = &[];
        if let Some(sampling) = self.sampling.as_mut().filter(|sampling| sampling.active) {
            wanted = draws.iter().rposition(Option::is_none).map_or(0, |last| last + 1);
            sampling.integers.resize(samples, 0);
            b.download_i32(s, &sampling.drawn, &mut sampling.integers)?;
            sampling.tokens.clear();
            sampling.tokens.extend(sampling.integers.iter().map(|&token| Drawn(token)));
            tokens = &sampling.tokens;
        }
        self.logits.resize(wanted * width, 0.0);
        if wanted > 0 {
            b.download_f32(s, &self.act.logits, &mut self.logits)?;
            self.spec.logits.apply(&mut self.logits);
        } else if self.rank.is_some() {
            // What goes wrong is told in its step, and no rank is at work between two of them.
            b.synchronize(s)?;
        }
        Ok(Sampled { logits: &self.logits, drawn: tokens })
    }
}
