//! A step to run: which tokens of whom, and the arrays for the model.

use ferrum_models::StepInput;

use super::Scheduler;
use crate::{pacer::StepLoad, request::RequestId};

/// One step to run, and what it does for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The arrays for the model.
    pub step: StepInput,
    /// The sequences of the step, in its order.
    pub chunks: Vec<Chunk>,
    /// What its time depends on.
    pub load: StepLoad,
}

/// The part of one request in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Whose.
    pub id: RequestId,
    /// Position of the first token.
    pub start: usize,
    /// Tokens.
    pub len: usize,
    /// Logits are wanted for this many of the last tokens.
    pub rows: usize,
    /// This many of the last tokens are proposed ones.
    pub draft: usize,
}

impl Chunk {
    /// Position of the first token with logits, if there is one.
    pub fn first_row(&self) -> usize {
        self.start + self.len - self.rows
    }
}

/// What a sequence gets of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Its index into `running`.
    pub index: usize,
    /// Known tokens.
    pub len: usize,
    /// Proposed tokens after these.
    pub draft: usize,
}

impl Plan {
    /// The tokens of a chunk that are proposed.
    pub fn draft(&self, chunk: &Chunk) -> Vec<u32> {
        if chunk.draft == 0 {
            return Vec::new();
        }
        // Chunks lie in the order of their rows, and drafts at the end of their chunks.
        let before = self.chunks.iter().take_while(|other| other.id != chunk.id);
        let end = before.map(|other| other.len).sum::<usize>() + chunk.len;
        self.step.tokens[end - chunk.draft..end].iter().map(|&token| token as u32).collect()
    }

    /// The chunks with logits, in the order of their rows.
    pub fn judged(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter().filter(|chunk| chunk.rows > 0)
    }
}

impl Scheduler {
    /// Packs the tokens of `parts`.
    pub(super) fn plan(&self, parts: &[Part]) -> Plan {
        let sequences = || parts.iter().map(|part| (&self.running[part.index], part));
        let blocks_per_seq = sequences().map(|(s, _)| s.blocks.len()).max().unwrap_or(0);
        let mut step = StepInput { query_starts: vec![0], blocks_per_seq, ..Default::default() };
        let mut chunks = Vec::with_capacity(parts.len());
        let mut load = StepLoad::default();
        for (sequence, &Part { len, draft, .. }) in sequences() {
            let start = sequence.computed;
            let known = &sequence.tokens[start..start + len];
            let (len, end) = (len + draft, start + len + draft);
            // Ids and positions fit: the vocabulary and the cache slots are i32 (see `new`).
            let tokens = known.iter().chain(&sequence.proposed[..draft]);
            step.tokens.extend(tokens.map(|&token| token as i32));
            step.positions.extend(start as i32..end as i32);
            step.query_starts.push(step.tokens.len() as i32);
            step.kv_lens.push(end as i32);
            step.adapters.push(sequence.adapter as i32);
            step.block_tables.extend(&sequence.blocks);
            step.block_tables.resize(step.kv_lens.len() * blocks_per_seq, 0);
            let rows = len.saturating_sub(sequence.without_rows());
            let packed = step.tokens.len();
            step.sample_rows.extend((packed - rows..packed).map(|row| row as i32));
            load.add(start, len, rows, sequence.remaining() > 1);
            chunks.push(Chunk { id: sequence.id, start, len, rows, draft });
        }
        Plan { step, chunks, load }
    }
}
