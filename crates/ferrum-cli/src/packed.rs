//! Steps of several equally long sequences, for the commands that drive a runner themselves.

use ferrum_models::runner::RunnerLimits;
use ferrum_models::{KV_BLOCK_SIZE, StepInput};

/// Sequences of equal length that own fixed blocks of the KV pool: sequence `i` the blocks
/// `i * blocks_per_seq ..`.
#[derive(Debug)]
pub struct Lockstep {
    seqs: usize,
    blocks_per_seq: usize,
    len: usize,
}

impl Lockstep {
    /// `seqs` empty sequences, or `None` where the pool has no room for that many of full length.
    pub fn new(limits: &RunnerLimits, seqs: usize) -> Option<Self> {
        let blocks_per_seq = limits.context.div_ceil(KV_BLOCK_SIZE);
        let needed = blocks_per_seq.checked_mul(seqs)?;
        (needed <= limits.kv_blocks && seqs <= limits.capacity.seqs).then_some(Lockstep {
            seqs,
            blocks_per_seq,
            len: 0,
        })
    }

    /// Forgets all positions but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The step that appends `tokens`, the same number to each sequence, one sequence after the
    /// other. Logits are wanted for the last `samples` tokens of each sequence.
    pub fn append(&mut self, tokens: &[u32], samples: usize) -> StepInput {
        let each = tokens.len() / self.seqs;
        debug_assert_eq!(each * self.seqs, tokens.len());
        let end = self.len + each;
        let mut step = StepInput {
            // Ids and lengths are bounded by vocabularies and contexts, far below 2^31.
            tokens: tokens.iter().map(|&t| t as i32).collect(),
            blocks_per_seq: self.blocks_per_seq,
            query_starts: vec![0],
            ..StepInput::default()
        };
        for seq in 0..self.seqs {
            step.positions.extend(self.len as i32..end as i32);
            step.query_starts.push(((seq + 1) * each) as i32);
            step.kv_lens.push(end as i32);
            let first = seq * self.blocks_per_seq;
            step.block_tables.extend((first..first + self.blocks_per_seq).map(|b| b as i32));
            let last = (seq + 1) * each;
            step.sample_rows.extend((last - samples.min(each)..last).map(|row| row as i32));
        }
        self.len = end;
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrum_models::StepCapacity;

    fn limits(context: usize, kv_blocks: usize) -> RunnerLimits {
        let capacity =
            StepCapacity { tokens: 512, seqs: 4, blocks_per_seq: context.div_ceil(32), samples: 8 };
        RunnerLimits { vocab: 100, context, kv_blocks, capacity }
    }

    #[test]
    fn steps_are_valid_and_go_on_where_the_last_ended() {
        let limits = limits(70, 9);
        for seqs in 1..=3 {
            let mut cache = Lockstep::new(&limits, seqs).unwrap();
            for each in [33, 1, 1, 35] {
                let before = cache.len;
                let step = cache.append(&vec![7; each * seqs], 1);
                step.validate(&limits.capacity, limits.kv_blocks, limits.vocab).unwrap();
                assert_eq!(step.positions[0] as usize, before);
                assert_eq!(step.sample_rows.len(), seqs);
            }
            cache.truncate(5);
            let step = cache.append(&vec![7; 2 * seqs], 2);
            assert_eq!((step.kv_lens[0], step.sample_rows.len()), (7, 2 * seqs));
        }
    }

    #[test]
    fn too_small_a_pool_is_refused() {
        assert!(Lockstep::new(&limits(70, 8), 3).is_none());
        assert!(Lockstep::new(&limits(70, 99), 5).is_none());
    }
}
