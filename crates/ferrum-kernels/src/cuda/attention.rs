//! `attention`: sequences of few tokens by kernels that split the context, those of many by kernels
//! that do not. Both are launched over the whole step, and a block that has nothing to do there ends
//! at once: what a sequence has is read from the step's arrays, so that a recording holds for every
//! step of its shape.
//!
//! A sequence gets the same, to the bit, alone and in any batch. So does a prompt in chunks of more than
//! [`MOST_TOKENS`] and in one step. What does not hold, as the order of sums is another: a prompt in
//! smaller chunks, and drafts that cross a length of context at which splits become longer (8192
//! positions, and each power of two from there).

use std::sync::Arc;

use super::kv_cache::check_head_dim;
use super::launch::{Grid, Launch};
use super::memory::Memory;
use super::modules::Source;
use super::stream::{CudaStream, Scratch};
use super::{Cuda, CudaBuffer};
use crate::checks::{self, AttentionView};
use crate::params::{Attention, KvSpec, KvValues};
use crate::{KV_BLOCK_SIZE, KV_SCALE_GROUP, KernelError, KvDType, KvStorage, Result, StepShape};

/// Threads of a block of each kernel.
pub(super) const THREADS: usize = 128;

/// Query rows of a block of `attention_rows.cuh`.
pub(super) const ROWS_TILE: usize = 8;

/// Query rows of a block of `attention_decode.cu`, which all its warps take, and those of a block of
/// `attention_prefill.cu`.
const DECODE_ROWS: usize = 16;
const DECODE_WARPS: usize = 4;
const PREFILL_ROWS: usize = 64;

/// Positions of a tile of `attention_latent.cu`, whose blocks have [`DECODE_ROWS`].
const LATENT_KEYS: usize = 16;

/// Sequences of at most so many tokens have their contexts split: decodes, and drafts.
const MOST_TOKENS: usize = 8;

/// Positions of a split at least, and splits that a long context is cut into (`attention.cuh`).
const SPLIT_LEAST: usize = 128;
const SPLITS_AIM: usize = 64;

/// Shared memory of a block of `attention_rows.cuh`, as `rows_shared` shares it out.
pub(super) fn rows_shared_bytes(head_dim: usize, values: KvValues, kv: KvDType) -> usize {
    let (value, scales) = match kv {
        KvDType::F32 => (4, 0),
        KvDType::F16 | KvDType::BF16 => (2, 0),
        KvDType::Fp8E4M3 => (1, 0),
        KvDType::Q8_0 => (1, KV_BLOCK_SIZE / KV_SCALE_GROUP * head_dim),
    };
    let tiles = if values == KvValues::Own { 2 } else { 1 };
    let tiles = tiles * (KV_BLOCK_SIZE * (head_dim * value + 16) + scales * size_of::<u16>());
    let floats = ROWS_TILE * (head_dim + KV_BLOCK_SIZE + 3);
    tiles + floats * size_of::<f32>()
}

/// Kernels count query rows in 32 bits.
pub(super) fn countable(op: &'static str, tokens: usize, heads: usize) -> Result<()> {
    match tokens.checked_mul(heads).map(i32::try_from) {
        Some(Ok(_)) => Ok(()),
        _ => {
            let what = format!("{tokens} tokens of {heads} heads are more than a kernel can count");
            Err(KernelError::shape(op, what))
        }
    }
}

/// [`crate::Backend::attention`]
pub(super) fn attention(
    s: &mut CudaStream,
    dst: &mut CudaBuffer,
    p: &Attention<'_, Cuda>,
) -> Result<()> {
    let view = checks::attention(dst, p)?;
    let &KvSpec { head_dim, values, dtype, .. } = p.kv.spec();
    check_head_dim(&s.device, head_dim, values, dtype)?;
    countable("attention", p.batch.shape.tokens, p.heads)?;
    let StepShape { tokens, seqs, .. } = p.batch.shape;
    if seqs == 0 {
        return Ok(());
    }
    // Tokens that a sequence of this step may have.
    let longest = tokens - (seqs - 1);
    if seqs > 1 || tokens <= MOST_TOKENS {
        decode(s, &view, p, longest.min(MOST_TOKENS))?;
    }
    if longest > MOST_TOKENS {
        prefill(s, &view, p)?;
    }
    Ok(())
}

/// Splits of a sequence at most, in a step of this shape.
fn most_splits(shape: &StepShape, window: Option<usize>) -> usize {
    let positions = shape.blocks_per_seq.saturating_mul(KV_BLOCK_SIZE);
    let seen = window.map_or(positions, |window| window.min(positions));
    // Of a window that begins and ends anywhere, one more at either end.
    let windowed = (seen + MOST_TOKENS - 1) / SPLIT_LEAST + 2;
    windowed.min(positions.div_ceil(SPLIT_LEAST)).min(SPLITS_AIM + 2)
}

/// Tokens of the sequences of at most [`MOST_TOKENS`]: those of this step, or if it is recorded as
/// many as a step of its shape can have.
fn decode_tokens(recorded: bool, view: &AttentionView<'_, CudaBuffer>, shape: &StepShape) -> usize {
    if recorded {
        return shape.tokens.min(shape.seqs * MOST_TOKENS);
    }
    let tokens = (0..shape.seqs).map(|i| view.seq(i).tokens.len());
    tokens.filter(|&tokens| tokens <= MOST_TOKENS).sum()
}

/// What the kernels of all kinds have last: `scale`, `softcap`, `window`, `sinks`, `most_tokens`.
fn scores<'s>(launch: Launch<'s>, p: &Attention<'_, Cuda>) -> Launch<'s> {
    let launch = launch.float(p.scale).float(p.softcap.unwrap_or(0.0));
    launch.int(window(p)).memory_if(sinks(p)).int(MOST_TOKENS)
}

/// The logits that heads have besides scores.
fn sinks<'a>(p: &Attention<'a, Cuda>) -> Option<(&'a Arc<Memory>, usize)> {
    p.sinks.map(|sinks| (&sinks.memory, 0))
}

/// Positions that a token sees, as a kernel counts them.
fn window(p: &Attention<'_, Cuda>) -> usize {
    p.window.map_or(i32::MAX as usize, |window| window.min(i32::MAX as usize))
}

/// The sequences of at most [`MOST_TOKENS`] tokens, of which this step has some of `longest`.
fn decode(
    s: &mut CudaStream,
    view: &AttentionView<'_, CudaBuffer>,
    p: &Attention<'_, Cuda>,
    longest: usize,
) -> Result<()> {
    let &KvSpec { kv_heads, head_dim, values, .. } = p.kv.spec();
    let value_dim = values.dim(head_dim);
    let shape = p.batch.shape;
    let splits = most_splits(&shape, p.window);
    let states = decode_tokens(s.recording.is_some(), view, &shape) * p.heads * splits;
    let partials = states * value_dim * size_of::<f32>();
    let scratch = s.scratch(Scratch::Attention, partials + states * 2 * size_of::<f32>())?;

    let Kernel { source, entry, rows, shared, fixed } = decode_kernel(p.kv.spec());
    let launch = s.launch("attention", source, entry).write(&view.dst);
    let launch = launch.memory(&scratch, 0).memory(&scratch, partials).read(&view.q);
    let launch = step(cache(launch, p, fixed), p).int(shape.blocks_per_seq);
    let launch = launch.int(kv_heads).int(view.group);
    let launch = if fixed { launch } else { launch.int(head_dim).int(value_dim) };
    let blocks = [splits, kv_heads * (longest * view.group).div_ceil(rows), shape.seqs];
    // SAFETY: `checks` has held the lengths, the sequences and their blocks; the scratch memory is as
    // long as the kernel needs.
    unsafe { scores(launch, p).run(Grid { blocks, threads: THREADS, shared }) }?;
    if splits == 1 {
        return Ok(());
    }

    let launch = s.launch("attention", Source::AttentionMerge, "attention_merge");
    let launch = launch.write(&view.dst).memory(&scratch, 0).memory(&scratch, partials);
    let launch = launch.memory(&p.batch.query_starts.memory, 0).memory(&p.batch.kv_lens.memory, 0);
    let launch = launch.int(splits).int(value_dim);
    let launch = launch.int(window(p)).memory_if(sinks(p)).int(MOST_TOKENS);
    let blocks = [p.heads, longest, shape.seqs];
    // SAFETY: as above.
    unsafe { launch.run(Grid { blocks, threads: THREADS, shared: 0 }) }
}

/// The sequences of more than [`MOST_TOKENS`] tokens.
fn prefill(
    s: &mut CudaStream,
    view: &AttentionView<'_, CudaBuffer>,
    p: &Attention<'_, Cuda>,
) -> Result<()> {
    let &KvSpec { kv_heads, head_dim, values, .. } = p.kv.spec();
    let value_dim = values.dim(head_dim);
    let StepShape { tokens, seqs, blocks_per_seq, .. } = p.batch.shape;
    let Kernel { source, entry, rows, shared, fixed } = prefill_kernel(p.kv.spec());
    let launch = s.launch("attention", source, entry).write(&view.dst).read(&view.q);
    let launch = step(cache(launch, p, fixed), p);
    let launch = launch.int(blocks_per_seq).int(seqs).int(view.group);
    let launch = if fixed { launch } else { launch.int(head_dim).int(value_dim) };
    // A tile that is not full for each sequence, and full ones.
    let blocks = [tokens * view.group / rows + seqs, kv_heads, 1];
    // SAFETY: `checks` has held the lengths, the sequences and their blocks.
    unsafe { scores(launch, p).run(Grid { blocks, threads: THREADS, shared }) }
}

/// A kernel, and how it is launched.
struct Kernel {
    source: Source,
    entry: &'static str,
    /// Query rows of a block.
    rows: usize,
    /// Bytes of its shared memory.
    shared: usize,
    /// On tensor cores: for one head width, which it need not be told.
    fixed: bool,
}

/// Bytes of a row of shared memory on tensor cores: 16 more than its values.
fn mma_row(head_dim: usize) -> usize {
    (head_dim + 8) * size_of::<u16>()
}

/// Bytes of a tile of keys and one of values (`KvTile` in `kv_tiles.cuh`).
fn tile_bytes(kv: KvDType, head_dim: usize, keys: usize) -> usize {
    let numbers = keys * mma_row(head_dim);
    let scales = if kv == KvDType::Q8_0 { head_dim / KV_SCALE_GROUP } else { 0 };
    match kv {
        KvDType::Fp8E4M3 | KvDType::Q8_0 => {
            numbers + 2 * keys * (head_dim + scales * size_of::<u16>())
        }
        KvDType::F16 | KvDType::BF16 | KvDType::F32 => 2 * numbers,
    }
}

/// Entry points of a file: over a split, and over all that a row sees.
struct Entries {
    split: &'static str,
    whole: &'static str,
}

/// Kernels on tensor cores, which are for some widths of heads with values of their own.
fn tensor_cores(spec: &KvSpec) -> Option<Entries> {
    if spec.dtype == KvDType::F32 || spec.values != KvValues::Own {
        return None;
    }
    let (split, whole) = match spec.head_dim {
        64 => ("attention_decode_64", "attention_prefill_64"),
        96 => ("attention_decode_96", "attention_prefill_96"),
        128 => ("attention_decode_128", "attention_prefill_128"),
        256 => ("attention_decode_256", "attention_prefill_256"),
        _ => return None,
    };
    Some(Entries { split, whole })
}

/// What computes a split.
fn decode_kernel(spec: &KvSpec) -> Kernel {
    let &KvSpec { head_dim, dtype, .. } = spec;
    if is_latent(spec) {
        return latent_kernel(head_dim, "attention_latent_split_576");
    }
    let Some(Entries { split: entry, .. }) = tensor_cores(spec) else {
        return plain_kernel(spec, plain(dtype).split);
    };
    // Of queries two halves, of each warp keys and values, in whose place its sums come, and its states.
    let keys = if head_dim > 128 { 16 } else { 32 };
    let tiles = tile_bytes(dtype, head_dim, keys).max(DECODE_ROWS * head_dim * size_of::<f32>());
    let states = DECODE_ROWS * 2 * size_of::<f32>();
    let shared = 2 * DECODE_ROWS * mma_row(head_dim) + DECODE_WARPS * (tiles + states);
    let source = Source::AttentionDecode(dtype);
    Kernel { source, entry, rows: DECODE_ROWS, shared, fixed: true }
}

/// What computes all that a row sees.
fn prefill_kernel(spec: &KvSpec) -> Kernel {
    let &KvSpec { head_dim, dtype, .. } = spec;
    if is_latent(spec) {
        return latent_kernel(head_dim, "attention_latent_576");
    }
    let Some(Entries { whole: entry, .. }) = tensor_cores(spec) else {
        return plain_kernel(spec, plain(dtype).whole);
    };
    // Of queries two halves, of a tile keys and values.
    let keys = if head_dim > 128 { 16 } else { 64 };
    let shared = 2 * PREFILL_ROWS * mma_row(head_dim) + tile_bytes(dtype, head_dim, keys);
    let source = Source::AttentionPrefill(dtype);
    Kernel { source, entry, rows: PREFILL_ROWS, shared, fixed: true }
}

/// Keys of 576 numbers in F16 of which the first 512 are the values.
fn is_latent(spec: &KvSpec) -> bool {
    let &KvSpec { head_dim, values, dtype, .. } = spec;
    dtype == KvDType::F16 && head_dim == 576 && values == KvValues::PrefixOfKey(512)
}

/// A split or all that a row sees, of a cache as [`is_latent`] says.
fn latent_kernel(head_dim: usize, entry: &'static str) -> Kernel {
    // Of queries two halves, two tiles, and products of both halves of a key.
    let tiles = 2 * (DECODE_ROWS + LATENT_KEYS) * mma_row(head_dim);
    let products = 2 * DECODE_ROWS * LATENT_KEYS * size_of::<f32>();
    let (source, rows) = (Source::AttentionLatent, DECODE_ROWS);
    Kernel { source, entry, rows, shared: tiles + products, fixed: true }
}

/// A kernel by multiply-adds.
fn plain_kernel(spec: &KvSpec, entry: &'static str) -> Kernel {
    let shared = rows_shared_bytes(spec.head_dim, spec.values, spec.dtype);
    Kernel { source: Source::AttentionPlain, entry, rows: ROWS_TILE, shared, fixed: false }
}

/// Kernels by multiply-adds.
fn plain(dtype: KvDType) -> Entries {
    let (split, whole) = match dtype {
        KvDType::F16 => ("attention_plain_split_f16", "attention_plain_f16"),
        KvDType::BF16 => ("attention_plain_split_bf16", "attention_plain_bf16"),
        KvDType::F32 => ("attention_plain_split_f32", "attention_plain_f32"),
        KvDType::Fp8E4M3 => ("attention_plain_split_e4m3", "attention_plain_e4m3"),
        KvDType::Q8_0 => ("attention_plain_split_q8_0", "attention_plain_q8_0"),
    };
    Entries { split, whole }
}

/// `k`, `v`, `k_scales` and `v_scales`. Where values are a part of the keys, theirs are null; a `fixed`
/// kernel is given `k` alone then.
fn cache<'s>(launch: Launch<'s>, p: &Attention<'_, Cuda>, fixed: bool) -> Launch<'s> {
    let kv = p.kv;
    let v = |offset| kv.v.as_ref().map(|v| (v, offset));
    let launch = launch.memory(&kv.k, 0);
    if fixed && kv.v.is_none() {
        return launch;
    }
    launch.memory_if(v(0)).memory(&kv.k, kv.scales).memory_if(v(kv.scales))
}

/// `query_starts`, `kv_lens`, `block_tables`.
fn step<'s>(launch: Launch<'s>, p: &Attention<'_, Cuda>) -> Launch<'s> {
    let batch = p.batch;
    let launch = launch.memory(&batch.query_starts.memory, 0).memory(&batch.kv_lens.memory, 0);
    launch.memory(&batch.block_tables.memory, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `splits_of` counts in `attention.cuh`.
    fn splits(kv_len: usize, tokens: usize, window: usize) -> usize {
        let mut len = SPLIT_LEAST;
        while len * SPLITS_AIM < kv_len.min(window) {
            len *= 2;
        }
        kv_len.div_ceil(len) - (kv_len + 1).saturating_sub(tokens + window) / len
    }

    #[test]
    fn the_grid_has_room_for_all_splits() {
        for blocks_per_seq in [1, 3, 4, 5, 63, 256, 257, 300, 1024] {
            let shape = StepShape { tokens: 8, seqs: 1, blocks_per_seq, samples: 0 };
            for window in [None, Some(1), Some(127), Some(130), Some(4096), Some(8192), Some(9000)]
            {
                let most = most_splits(&shape, window);
                for kv_len in 1..=blocks_per_seq * KV_BLOCK_SIZE {
                    for tokens in 1..=MOST_TOKENS.min(kv_len) {
                        let found = splits(kv_len, tokens, window.unwrap_or(i32::MAX as usize));
                        assert!(found <= most, "{kv_len} {tokens} {window:?} {blocks_per_seq}");
                    }
                }
            }
        }
    }
}
