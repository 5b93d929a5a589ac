//! Attention within the sequences of a packed batch, in both directions and without a cache.
//!
//! A task is one head of keys and values of one sequence. Its keys and values are laid out as those
//! of a cache's blocks, and the queries of its heads go through them with the same inner loops and
//! the same order of operations; so a token's result depends on its own sequence and nothing else.

use std::ops::Range;

use super::kernels::{self, Scores, Softmax, add_values, scores};
use super::{SPLIT, STEP};
use crate::checks::{self, PackedAttentionView};
use crate::cpu::kv_cache::Stored;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::cpu::{Cpu, CpuStream, Isa, NAME};
use crate::host::{HostBuffer, grow};
use crate::params::PackedAttention;
use crate::{KV_BLOCK_SIZE, KernelError, Result};

/// Queries that are computed together; see `tile::MAX_ROWS`.
const MAX_ROWS: usize = 6;

/// Whether heads have whole registers.
pub(in crate::cpu) fn check(head_dim: usize) -> Result<()> {
    if head_dim == 0 || !head_dim.is_multiple_of(LANES) {
        let what =
            format!("attention of {head_dim} values per head (a multiple of {LANES}, that is)");
        return Err(KernelError::Unsupported { backend: NAME, what });
    }
    Ok(())
}

/// What all tasks share.
struct Job<'a, 'v> {
    view: &'a PackedAttentionView<'v>,
    kv_heads: usize,
    dim: usize,
    scale: f32,
    /// `[T, heads · head_dim]`
    dst: SharedSlice<'a, f32>,
}

/// [`crate::Backend::packed_attention`].
pub(in crate::cpu) fn packed_attention(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &PackedAttention<'_, Cpu>,
) -> Result<()> {
    check(p.head_dim)?;
    let mut view = checks::packed_attention(dst, p)?;
    let dst = SharedSlice::new(std::mem::take(&mut view.dst));
    let (isa, dim, kv_heads) = (s.isa, p.head_dim, p.kv_heads);
    let ws = &mut s.attention;
    ws.sequences.clear();
    ws.sequences.extend(view.sequences());
    // The longest first, so that none is left when the other threads are done.
    ws.sequences.sort_by_key(|tokens| std::cmp::Reverse(tokens.len()));
    let longest = ws.sequences.first().map_or(0, Range::len);
    let scratch_len = Scratch::len(longest, dim);
    grow(&mut ws.threads, s.team.threads() * scratch_len)?;
    let job = Job { view: &view, kv_heads, dim, scale: p.scale, dst };
    let (sequences, threads) = (&ws.sequences, SharedSlice::new(&mut ws.threads));
    s.team.chunks(sequences.len() * kv_heads, &|thread, task| {
        // SAFETY: each thread has its own scratch.
        let scratch =
            unsafe { threads.range_mut(thread * scratch_len..(thread + 1) * scratch_len) };
        let tokens = sequences[task / kv_heads].clone();
        attend(isa, &job, tokens, task % kv_heads, scratch);
    });
    Ok(())
}

/// Memory of one thread.
struct Scratch<'a> {
    /// Blocks of keys, each `[head_dim][KV_BLOCK_SIZE]`.
    k: &'a mut [f32],
    /// Blocks of values, each `[KV_BLOCK_SIZE][head_dim]`.
    v: &'a mut [f32],
    /// Queries times the scale `[rows][head_dim]`.
    q: &'a mut [f32],
    /// Sums of a split, and those of the splits before `[rows][head_dim]`.
    acc: [&'a mut [f32]; 2],
}

impl<'a> Scratch<'a> {
    /// Values for a sequence of so many tokens.
    fn len(tokens: usize, dim: usize) -> usize {
        2 * Self::block_values(tokens, dim) + 3 * MAX_ROWS * dim
    }

    fn block_values(tokens: usize, dim: usize) -> usize {
        tokens.next_multiple_of(KV_BLOCK_SIZE) * dim
    }

    fn at(memory: &'a mut [f32], tokens: usize, dim: usize) -> Self {
        let (k, rest) = memory.split_at_mut(Self::block_values(tokens, dim));
        let (v, rest) = rest.split_at_mut(Self::block_values(tokens, dim));
        let (q, rest) = rest.split_at_mut(MAX_ROWS * dim);
        let (split, rest) = rest.split_at_mut(MAX_ROWS * dim);
        Scratch { k, v, q, acc: [split, &mut rest[..MAX_ROWS * dim]] }
    }
}

/// One head of keys and values of one sequence, for all queries of its group.
fn attend(isa: Isa, job: &Job<'_, '_>, tokens: Range<usize>, kv_head: usize, memory: &mut [f32]) {
    let (dim, group) = (job.dim, job.view.group);
    let mut scratch = Scratch::at(memory, tokens.len(), dim);
    load_blocks(job, &tokens, kv_head, &mut scratch);
    // Rows are the heads of the group for each token.
    let rows = tokens.len() * group;
    let at = |row: usize| {
        let (token, head) = (tokens.start + row / group, kv_head * group + row % group);
        (token * job.kv_heads * group + head) * dim
    };
    let mut first = 0;
    while first < rows {
        let count = MAX_ROWS.min(rows - first);
        for (row, q) in scratch.q.chunks_exact_mut(dim).take(count).enumerate() {
            let q_row = &job.view.q[at(first + row)..][..dim];
            q.iter_mut().zip(q_row).for_each(|(scaled, q)| *scaled = q * job.scale);
        }
        let len = tokens.len();
        match count {
            1 => run::<1, 4>(isa, &mut scratch, dim, len),
            2 => run::<2, 4>(isa, &mut scratch, dim, len),
            3 => run::<3, 2>(isa, &mut scratch, dim, len),
            4 => run::<4, 2>(isa, &mut scratch, dim, len),
            5 => run::<5, 2>(isa, &mut scratch, dim, len),
            _ => run::<6, 2>(isa, &mut scratch, dim, len),
        }
        for (row, out) in scratch.acc[1].chunks_exact(dim).take(count).enumerate() {
            let start = at(first + row);
            // SAFETY: each head of each token belongs to one task.
            unsafe { job.dst.range_mut(start..start + dim) }.copy_from_slice(out);
        }
        first += count;
    }
}

/// Lays the keys and values of a head out in blocks; what is behind the last token is zero.
fn load_blocks(
    job: &Job<'_, '_>,
    tokens: &Range<usize>,
    kv_head: usize,
    scratch: &mut Scratch<'_>,
) {
    let dim = job.dim;
    let width = job.kv_heads * dim;
    scratch.k.fill(0.0);
    scratch.v[tokens.len() * dim..].fill(0.0);
    for (i, token) in tokens.clone().enumerate() {
        let row = token * width + kv_head * dim..token * width + (kv_head + 1) * dim;
        scratch.v[i * dim..][..dim].copy_from_slice(&job.view.v[row.clone()]);
        let block = &mut scratch.k[i / KV_BLOCK_SIZE * KV_BLOCK_SIZE * dim..];
        let column = block.iter_mut().skip(i % KV_BLOCK_SIZE).step_by(KV_BLOCK_SIZE);
        column.zip(&job.view.k[row]).for_each(|(slot, k)| *slot = *k);
    }
}

/// Compiled apart for each number of rows, as in `tile`.
#[inline(never)]
fn run<const R: usize, const P: usize>(
    isa: Isa,
    scratch: &mut Scratch<'_>,
    dim: usize,
    len: usize,
) {
    let Scratch { k, v, q, acc: [split, sums] } = scratch;
    let (q, split, sums) = (&q[..R * dim], &mut split[..R * dim], &mut sums[..R * dim]);
    isa.dispatch(Rows::<R, P> { k, v, q, split, sums, dim, len });
}

/// `R` queries against all positions of their sequence, in passes of `P` registers.
struct Rows<'a, const R: usize, const P: usize> {
    k: &'a [f32],
    v: &'a [f32],
    q: &'a [f32],
    /// Sums of the split that is being gone through `[R][head_dim]`.
    split: &'a mut [f32],
    /// Sums of the splits so far, at the end the result `[R][head_dim]`.
    sums: &'a mut [f32],
    dim: usize,
    /// Positions.
    len: usize,
}

impl<const R: usize, const P: usize> Kernel for Rows<'_, R, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Rows { k, v, q, split, sums, dim, len } = self;
        let (mut max, mut total) = ([f32::NEG_INFINITY; R], [0.0; R]);
        sums.fill(0.0);
        for start in (0..len).step_by(SPLIT) {
            let (mut split_max, mut split_total) = ([f32::NEG_INFINITY; R], [0.0; R]);
            split.fill(0.0);
            for step in (start..len.min(start + SPLIT)).step_by(STEP) {
                let seen = STEP.min(len - step);
                let mut s: Scores<R> = [[0.0; STEP]; R];
                for at in (0..seen).step_by(KV_BLOCK_SIZE) {
                    let keys = block(k, step + at, dim);
                    scores::<S, f32, R, P>(q, keys, Stored::NONE, at, &mut s);
                }
                for (r, scores) in s.iter_mut().enumerate() {
                    let acc = &mut split[r * dim..][..dim];
                    let (max, total) = (&mut split_max[r], &mut split_total[r]);
                    S::call(Softmax { scores, seen: 0..seen, softcap: None, max, total, acc });
                }
                for at in (0..seen).step_by(KV_BLOCK_SIZE) {
                    let positions = 0..KV_BLOCK_SIZE.min(seen - at);
                    let values = block(v, step + at, dim);
                    add_values::<S, f32, R, P>(&s, at, positions, values, Stored::NONE, split);
                }
            }
            for r in 0..R {
                let (into, from) = (&mut sums[r * dim..][..dim], &split[r * dim..][..dim]);
                let largest = max[r].max(split_max[r]);
                let [mine, theirs] = kernels::exp_of::<S, 2>([max[r], split_max[r]], largest);
                total[r] = total[r] * mine + split_total[r] * theirs;
                max[r] = largest;
                super::merge::combine::<S>(into, mine, from, theirs);
            }
        }
        for (r, total) in total.into_iter().enumerate() {
            kernels::divide_in_place::<S>(&mut sums[r * dim..][..dim], total);
        }
    }
}

/// The block of position `at`, a multiple of [`KV_BLOCK_SIZE`].
#[inline(always)]
fn block(all: &[f32], at: usize, dim: usize) -> Stored<'_, f32> {
    Stored { values: &all[at * dim..][..KV_BLOCK_SIZE * dim], scales: &[] }
}
