//! From hidden states to logits, and to tokens where draws say how.

use ferrum_kernels::draw::{DrawBatch, DrawSizes, Drawn, LogprobBatch, RowDraw, Scored};
use ferrum_kernels::params::{GatherRows, Linear, LinearOutput, Logprobs, RmsNorm, Sample};
use ferrum_kernels::{Backend, DType, KernelError, PackedWeight};

use super::DecoderRunner;
use crate::decoder::memory::{adjusted, masks};
use crate::runner::{RunnerLimits, Sampled};

/// Draws and their results, for a step of `R` rows.
pub(super) struct Sampling<B: Backend> {
    draws: DrawBatch<B::Buffer>,
    /// `I32 [R]`
    drawn: B::Buffer,
    logprobs: LogprobBatch<B::Buffer>,
    /// What the step that was uploaded last wants.
    wanted: Wanted,
    /// The results on the host, `[R]`.
    integers: Vec<i32>,
    tokens: Vec<Drawn>,
    scored: Vec<Option<Scored>>,
}

/// What is to be made of a step's logits on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Wanted {
    /// Nothing: the logits themselves are wanted.
    #[default]
    Logits,
    /// A token of some rows.
    Draws,
    /// Log-probabilities, too.
    Logprobs,
}

impl Wanted {
    fn of(draws: &[Option<RowDraw<'_>>]) -> Wanted {
        let draws = || draws.iter().flatten();
        match draws().any(|draw| draw.logprobs.is_some()) {
            true => Wanted::Logprobs,
            false if draws().next().is_some() => Wanted::Draws,
            false => Wanted::Logits,
        }
    }
}

impl<B: Backend> Sampling<B> {
    pub(super) fn new(backend: &B, limits: &RunnerLimits) -> Result<Self, KernelError> {
        let (rows, vocab) = (limits.capacity.samples, limits.vocab);
        let sizes = DrawSizes { rows, masks: masks(limits), adjusted: adjusted(limits), vocab };
        Ok(Sampling {
            draws: DrawBatch::new(backend, sizes)?,
            drawn: backend.alloc(DType::I32, rows)?,
            logprobs: LogprobBatch::new(backend, rows)?,
            wanted: Wanted::Logits,
            integers: Vec::new(),
            tokens: Vec::new(),
            scored: Vec::new(),
        })
    }
}

impl<B: Backend> DecoderRunner<B> {
    /// What the step that was uploaded last wants of its logits.
    pub(super) fn wanted(&self) -> Wanted {
        self.sampling.as_ref().map_or(Wanted::Logits, |sampling| sampling.wanted)
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
        sampling.wanted = Wanted::of(draws);
        if sampling.wanted != Wanted::Logits {
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

    /// Draws from the logits in `act.logits`, and scores tokens by them, where that is wanted.
    pub(super) fn draw(&mut self) -> Result<(), KernelError> {
        let Some(sampling) = &mut self.sampling else { return Ok(()) };
        let &mut Sampling { ref draws, ref mut drawn, logprobs: ref mut dst, wanted, .. } =
            sampling;
        if wanted == Wanted::Logits {
            return Ok(());
        }
        let (logits, rows, vocab) = (&self.act.logits, self.batch.shape.samples, self.limits.vocab);
        let (scale, softcap) = (self.spec.logits.scale, self.spec.logits.softcap);
        let p = Sample { logits, draws, rows, vocab, scale, softcap };
        self.backend.sample(&mut self.stream, drawn, &p)?;
        if wanted == Wanted::Draws {
            return Ok(());
        }
        let p = Logprobs { logits, came: drawn, draws, rows, vocab, scale, softcap, dst };
        self.backend.logprobs(&mut self.stream, p)
    }

    /// Copies to the host what is wanted of the step that has run.
    pub(super) fn download(&mut self, draws: &[Option<RowDraw<'_>>]) -> Result<(), KernelError> {
        let (b, s) = (&self.backend, &mut self.stream);
        let (samples, width) = (self.batch.shape.samples, self.weights.head().rows());
        let mut wanted = samples;
        let draws_some = |sampling: &&mut Sampling<B>| sampling.wanted != Wanted::Logits;
        if let Some(sampling) = self.sampling.as_mut().filter(draws_some) {
            wanted = draws.iter().rposition(Option::is_none).map_or(0, |last| last + 1);
            sampling.integers.resize(samples, 0);
            b.download_i32(s, &sampling.drawn, &mut sampling.integers)?;
            sampling.tokens.clear();
            sampling.tokens.extend(sampling.integers.iter().map(|&token| Drawn(token)));
            sampling.scored.clear();
            if sampling.wanted == Wanted::Logprobs {
                let vocab = self.limits.vocab;
                sampling.scored = sampling.logprobs.download(b, s, draws, vocab)?;
            }
        }
        self.logits.resize(wanted * width, 0.0);
        if wanted > 0 {
            b.download_f32(s, &self.act.logits, &mut self.logits)?;
            self.spec.logits.apply(&mut self.logits);
        } else if self.rank.is_some() {
            // What goes wrong is told in its step, and no rank is at work between two of them.
            b.synchronize(s)?;
        }
        Ok(())
    }

    /// What was copied to the host.
    pub(super) fn sampled(&self) -> Sampled<'_> {
        let drawing = self.sampling.as_ref().filter(|s| s.wanted != Wanted::Logits);
        Sampled {
            logits: &self.logits,
            drawn: drawing.map_or(&[], |sampling| &sampling.tokens),
            scored: drawing.map_or(&[], |sampling| &sampling.scored),
        }
    }
}
