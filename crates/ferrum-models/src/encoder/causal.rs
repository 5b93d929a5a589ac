//! The states of a causal model (a decoder), as those of an encoder.

use ferrum_kernels::{Backend, KV_BLOCK_SIZE, KernelError, KvDType, StepCapacity, StepInput};

use super::forward::Network;
use crate::checkpoint::Checkpoint;
use crate::decoder::{DecoderOptions, DecoderRunner, DecoderSpec};
use crate::load::ModelError;
use crate::runner::RunnerLimits;

/// Texts of a step, at most: each takes a block of the cache, however short it is.
pub(super) const MAX_TEXTS: usize = 64;

/// Blocks of a cache for the texts of a step of so many tokens.
pub(super) fn kv_blocks(tokens: usize) -> usize {
    tokens / KV_BLOCK_SIZE + MAX_TEXTS
}

/// A decoder whose cache holds the texts of one step.
pub(super) struct Causal<B: Backend> {
    runner: DecoderRunner<B>,
}

impl<B: Backend> Causal<B> {
    /// Loads the weights, with room for steps of up to `tokens` tokens.
    pub fn load(
        backend: B,
        file: &dyn Checkpoint,
        spec: DecoderSpec,
        tokens: usize,
        rounded: bool,
    ) -> Result<Self, ModelError> {
        let capacity = StepCapacity {
            tokens,
            seqs: MAX_TEXTS,
            blocks_per_seq: tokens.div_ceil(KV_BLOCK_SIZE),
            samples: 0,
        };
        let limits = RunnerLimits {
            vocab: spec.vocab,
            context: tokens,
            kv_blocks: kv_blocks(tokens),
            capacity,
        };
        // Memory of the cache is taken as it is used, so that short texts take little.
        let options = DecoderOptions { limits, kv_dtype: KvDType::F32, rounded };
        Ok(Causal { runner: DecoderRunner::load(backend, file, spec, &options, &[])? })
    }
}

impl<B: Backend> Network for Causal<B> {
    fn run(&mut self, step: &StepInput) -> Result<&[f32], KernelError> {
        let blocks = |len: i32| (len as usize).div_ceil(KV_BLOCK_SIZE);
        let blocks_per_seq = step.kv_lens.iter().map(|&len| blocks(len)).max().unwrap_or(0);
        let (mut block_tables, mut next) = (Vec::new(), 0);
        for &len in &step.kv_lens {
            let own = blocks(len) as i32;
            block_tables.extend(next..next + own);
            block_tables.resize(block_tables.len() + blocks_per_seq - own as usize, 0);
            next += own;
        }
        self.runner.states(&StepInput { block_tables, blocks_per_seq, ..step.clone() })
    }

    fn works(&self) -> Result<(), KernelError> {
        self.runner.works()
    }
}
