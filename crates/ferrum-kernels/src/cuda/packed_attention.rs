//! `packed_attention`: a block for eight query rows of a head of keys and values.

use super::attention::{ROWS_TILE, THREADS, countable, rows_shared_bytes};
use super::kv_cache::check_head_dim;
use super::launch::Grid;
use super::modules::Source;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer};
use crate::params::{KvValues, PackedAttention};
use crate::{KvDType, Result, checks};

pub(super) fn packed_attention(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &PackedAttention<'_, Cuda>,
) -> Result<()> {
    let op = "packed_attention";
    let view = checks::packed_attention(dst, p)?;
    check_head_dim(&s.device, p.head_dim, KvValues::Own, KvDType::F32)?;
    countable(op, p.tokens, p.heads)?;
    let launch = s.launch(op, Source::PackedAttention, op);
    let launch = launch.write(&view.dst).read(&view.q).read(&view.k).read(&view.v);
    let launch = launch.memory(&p.query_starts.memory, 0);
    let launch = launch.int(p.seqs).int(view.group).int(p.head_dim).float(p.scale);
    let tiles = p.tokens * view.group / ROWS_TILE + p.seqs;
    let shared = rows_shared_bytes(p.head_dim, KvValues::Own, KvDType::F32);
    // SAFETY: `checks` has held the lengths, and the sequences against the tokens.
    unsafe { launch.run(Grid { blocks: [tiles, p.kv_heads, 1], threads: THREADS, shared }) }
}
