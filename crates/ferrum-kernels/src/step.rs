//! One step of a packed batch: `T` tokens of `S` sequences, prefill chunks and decodes together.

use crate::{Backend, DType, KV_BLOCK_SIZE, KernelError, Result};

/// The largest step that a [`StepBatch`] can hold. Fixed, so that device addresses are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCapacity {
    /// Tokens `T`.
    pub tokens: usize,
    /// Sequences `S`.
    pub seqs: usize,
    /// Blocks of the longest sequence `B`.
    pub blocks_per_seq: usize,
    /// Rows to sample `R`.
    pub samples: usize,
}

/// A step as the scheduler describes it, on the host.
///
/// Sequence `i` owns tokens `query_starts[i] .. query_starts[i + 1]`, which are the last of its
/// `kv_lens[i]` positions. Its block `j` is `block_tables[i * blocks_per_seq + j]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepInput {
    /// Token ids `[T]`.
    pub tokens: Vec<i32>,
    /// Position of each token in its sequence `[T]`.
    pub positions: Vec<i32>,
    /// First token of each sequence, and `T` at the end `[S + 1]`.
    pub query_starts: Vec<i32>,
    /// Positions of each sequence once this step is written `[S]`.
    pub kv_lens: Vec<i32>,
    /// Cache blocks of each sequence `[S, blocks_per_seq]`; unused entries are 0.
    pub block_tables: Vec<i32>,
    /// Entries of a row of `block_tables`.
    pub blocks_per_seq: usize,
    /// Tokens whose logits are wanted `[R]`.
    pub sample_rows: Vec<i32>,
    /// Number of each sequence's adapter `[S]`, 0 for what the model has by itself; empty where all
    /// have that. It is for the model, and no array of the device.
    pub adapters: Vec<i32>,
}

/// Sizes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StepShape {
    /// Tokens `T`.
    pub tokens: usize,
    /// Sequences `S`.
    pub seqs: usize,
    /// Entries of a block table `B`.
    pub blocks_per_seq: usize,
    /// Rows to sample `R`.
    pub samples: usize,
}

impl StepInput {
    /// Sizes of this step.
    pub fn shape(&self) -> StepShape {
        StepShape {
            tokens: self.tokens.len(),
            seqs: self.kv_lens.len(),
            blocks_per_seq: self.blocks_per_seq,
            samples: self.sample_rows.len(),
        }
    }

    /// The same with longer rows in `block_tables`. Panics where `blocks` is less than it has.
    pub fn with_blocks_per_seq(&self, blocks: usize) -> StepInput {
        let mut step = self.clone();
        step.blocks_per_seq = blocks;
        step.block_tables.clear();
        for row in self.block_tables.chunks(self.blocks_per_seq.max(1)) {
            step.block_tables.extend_from_slice(row);
            step.block_tables.resize(step.block_tables.len() + blocks - row.len(), 0);
        }
        step
    }

    /// The cache slot of each token `[T]`: `block · KV_BLOCK_SIZE + offset`. Any step may be asked;
    /// one whose arrays do not fit together is an error.
    fn slots(&self) -> Result<Vec<i32>> {
        let slot = |seq: usize, t: usize| {
            let position = usize::try_from(*self.positions.get(t)?).ok()?;
            let entry = position / KV_BLOCK_SIZE;
            let row = self.block_tables.get(seq.checked_mul(self.blocks_per_seq)?..)?;
            let block = usize::try_from(*row.get(..self.blocks_per_seq)?.get(entry)?).ok()?;
            let slot = block.checked_mul(KV_BLOCK_SIZE)?.checked_add(position % KV_BLOCK_SIZE)?;
            i32::try_from(slot).ok()
        };
        let mut slots = Vec::with_capacity(self.tokens.len());
        for (seq, bounds) in self.query_starts.windows(2).enumerate() {
            for t in bounds[0]..bounds[1] {
                let found = usize::try_from(t).ok().and_then(|t| slot(seq, t));
                slots.push(found.ok_or_else(|| {
                    KernelError::shape("step", format!("token {t} of sequence {seq} has no slot"))
                })?);
            }
        }
        Ok(slots)
    }

    /// Holds the arrays against each other and against the capacities, so that no kernel can be
    /// led outside its buffers, nor two tokens to one slot. `blocks` is the size of the KV pool,
    /// `vocab` that of the vocabulary.
    pub fn validate(&self, cap: &StepCapacity, blocks: usize, vocab: usize) -> Result<()> {
        let err = |what: String| Err(KernelError::shape("step", what));
        let s = self.shape();
        if s.tokens == 0 || s.tokens > cap.tokens {
            return err(format!("{} tokens, capacity {}", s.tokens, cap.tokens));
        }
        if s.seqs == 0 || s.seqs > cap.seqs || s.blocks_per_seq > cap.blocks_per_seq {
            return err(format!("{s:?} exceeds {cap:?}"));
        }
        if s.samples > cap.samples {
            return err(format!("{} rows to sample, capacity {}", s.samples, cap.samples));
        }
        if self.positions.len() != s.tokens
            || self.query_starts.len() != s.seqs + 1
            || Some(self.block_tables.len()) != s.seqs.checked_mul(s.blocks_per_seq)
        {
            return err("arrays of different lengths".into());
        }
        let all_named = self.adapters.is_empty() || self.adapters.len() == s.seqs;
        if !all_named || self.adapters.iter().any(|&number| number < 0) {
            return err("adapters that are not one for each sequence".into());
        }
        if self.tokens.iter().any(|&t| t < 0 || t as usize >= vocab) {
            return err(format!("a token outside the vocabulary of {vocab}"));
        }
        if self.sample_rows.iter().any(|&r| r < 0 || r as usize >= s.tokens) {
            return err("a row to sample outside the step".into());
        }
        if self.block_tables.iter().any(|&b| b < 0 || b as usize >= blocks) {
            return err(format!("a block outside the pool of {blocks}"));
        }
        self.validate_sequences()?;
        let mut slots = self.slots()?;
        slots.sort_unstable();
        if slots.windows(2).any(|w| w[0] == w[1]) {
            return err("two tokens are to be written to one slot".into());
        }
        Ok(())
    }

    /// Each sequence's tokens are its last positions, in order, and covered by its blocks.
    fn validate_sequences(&self) -> Result<()> {
        let err = |what: String| Err(KernelError::shape("step", what));
        let starts = &self.query_starts;
        if starts.first() != Some(&0)
            || starts.last().and_then(|&t| usize::try_from(t).ok()) != Some(self.tokens.len())
            || starts.windows(2).any(|w| w[0] >= w[1])
        {
            return err("query_starts do not share out the tokens".into());
        }
        for (seq, (&kv_len, bounds)) in self.kv_lens.iter().zip(starts.windows(2)).enumerate() {
            // All bounds lie in 0..=T, so nothing below overflows or is out of range.
            let positions = &self.positions[bounds[0] as usize..bounds[1] as usize];
            let count = bounds[1] - bounds[0];
            if kv_len < count {
                return err(format!("sequence {seq}: {count} tokens, {kv_len} positions"));
            }
            if (kv_len as usize).div_ceil(KV_BLOCK_SIZE) > self.blocks_per_seq {
                return err(format!("sequence {seq}: {kv_len} positions exceed its blocks"));
            }
            if !positions.iter().copied().eq(kv_len - count..kv_len) {
                return err(format!("sequence {seq}: positions are not its last ones"));
            }
        }
        Ok(())
    }
}

/// A step on the device: the arrays of [`StepInput`] and the slots derived from them, in buffers
/// of type `T` that are allocated once.
pub struct StepBatch<T> {
    /// Token ids, `I32 [T]`.
    pub tokens: T,
    /// Positions, `I32 [T]`.
    pub positions: T,
    /// `I32 [S + 1]`
    pub query_starts: T,
    /// `I32 [S]`
    pub kv_lens: T,
    /// `I32 [S, blocks_per_seq]`
    pub block_tables: T,
    /// Cache slot of each token, `I32 [T]`.
    pub slots: T,
    /// `I32 [R]`
    pub sample_rows: T,
    /// Sizes of the step that was uploaded last.
    pub shape: StepShape,
}

impl<T> StepBatch<T> {
    /// Allocates the arrays for steps of up to `cap`.
    pub fn new<B: Backend<Buffer = T>>(backend: &B, cap: &StepCapacity) -> Result<Self> {
        let ints = |len: usize| backend.alloc(DType::I32, len);
        Ok(StepBatch {
            tokens: ints(cap.tokens)?,
            positions: ints(cap.tokens)?,
            query_starts: ints(cap.seqs.saturating_add(1))?,
            kv_lens: ints(cap.seqs)?,
            block_tables: ints(cap.seqs.saturating_mul(cap.blocks_per_seq))?,
            slots: ints(cap.tokens)?,
            sample_rows: ints(cap.samples)?,
            shape: StepShape::default(),
        })
    }

    /// Uploads a step that [`StepInput::validate`] accepted. After an error the batch is empty.
    pub fn upload<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        s: &mut B::Stream,
        step: &StepInput,
    ) -> Result<()> {
        self.shape = StepShape::default();
        backend.step_begins(s, step);
        let slots = step.slots()?;
        backend.upload_i32(s, &step.tokens, &mut self.tokens)?;
        backend.upload_i32(s, &step.positions, &mut self.positions)?;
        backend.upload_i32(s, &step.query_starts, &mut self.query_starts)?;
        backend.upload_i32(s, &step.kv_lens, &mut self.kv_lens)?;
        backend.upload_i32(s, &step.block_tables, &mut self.block_tables)?;
        backend.upload_i32(s, &slots, &mut self.slots)?;
        backend.upload_i32(s, &step.sample_rows, &mut self.sample_rows)?;
        self.shape = step.shape();
        Ok(())
    }
}
