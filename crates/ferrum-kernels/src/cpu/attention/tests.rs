//! Attention against the reference, and its independence of everything but the token: the batch,
//! the chunks, the blocks and the threads. With it go `kv_write` and the layout of the cache.

use crate::cpu::{Cpu, CpuConfig, Isa};
use crate::params::{Attention, KvSpec, KvValues, KvWrite};
use crate::reference::Reference;
use crate::{Backend, DType, KvDType, StepBatch, StepCapacity, StepInput};

/// The attention of one layer.
#[derive(Debug, Clone, Copy)]
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: KvDType,
    window: Option<usize>,
    softcap: Option<f32>,
    /// The logit of the first head's sink; each further one is one less.
    sinks: Option<f32>,
}

/// Tokens `first..end` of sequence `id`, in one step.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    id: usize,
    first: usize,
    end: usize,
}

const BLOCKS_PER_SEQ: usize = 48;
const SEQS: usize = 6;

/// A value that depends on the sequence, the position, the place and what it is for only.
fn value(id: usize, position: usize, i: usize, salt: usize) -> f32 {
    let x = (id * 7919 + position * 104_729 + i * 1_299_709 + salt * 15_485_863) as u32;
    let x = x.wrapping_mul(0x9E37_79B9) ^ (x >> 15);
    let x = x.wrapping_mul(0x85EB_CA6B) ^ (x >> 13);
    (x as f32 / u32::MAX as f32 - 0.5) * 4.0
}

fn rows(chunks: &[Chunk], width: usize, salt: usize) -> Vec<f32> {
    let mut rows = Vec::new();
    for c in chunks {
        for position in c.first..c.end {
            rows.extend((0..width).map(|i| value(c.id, position, i, salt)));
        }
    }
    rows
}

/// A step of these chunks. A sequence's blocks lie scattered, from a place that `shift` moves.
fn step(chunks: &[Chunk], shift: usize) -> StepInput {
    let mut step = StepInput { blocks_per_seq: BLOCKS_PER_SEQ, ..StepInput::default() };
    step.query_starts.push(0);
    for c in chunks {
        step.tokens.extend((c.first..c.end).map(|_| 0));
        step.positions.extend((c.first..c.end).map(|p| p as i32));
        step.query_starts.push(step.tokens.len() as i32);
        step.kv_lens.push(c.end as i32);
        let blocks = BLOCKS_PER_SEQ * SEQS;
        // 5 has no factor in common with the 288 blocks, so this is a permutation.
        let block = |i: usize| ((c.id * BLOCKS_PER_SEQ + i) * 5 + shift) % blocks;
        step.block_tables.extend((0..BLOCKS_PER_SEQ).map(|i| block(i) as i32));
    }
    step
}

/// Outputs of the chunks of every step, by (sequence, position).
type Outputs = std::collections::BTreeMap<(usize, usize), Vec<f32>>;

fn run<B: Backend<Buffer = crate::host::HostBuffer>>(
    backend: &B,
    case: &Case,
    steps: &[Vec<Chunk>],
    shift: usize,
) -> Outputs {
    let &Case { heads, kv_heads, head_dim, dtype, window, softcap, sinks } = case;
    let mut s = backend.stream().unwrap();
    let sinks = sinks.map(|first| {
        let sinks: Vec<f32> = (0..heads).map(|head| first - head as f32).collect();
        let mut buffer = backend.alloc(DType::F32, heads).unwrap();
        backend.upload_f32(&mut s, &sinks, &mut buffer).unwrap();
        buffer
    });
    let sinks = sinks.as_ref();
    let blocks = BLOCKS_PER_SEQ * SEQS;
    let values = KvValues::Own;
    let spec = KvSpec { blocks, kv_heads, head_dim, values, dtype };
    let mut kv = backend.kv_cache(&spec).unwrap();
    let cap = StepCapacity { tokens: 4096, seqs: SEQS, blocks_per_seq: BLOCKS_PER_SEQ, samples: 1 };
    let mut batch = StepBatch::new(backend, &cap).unwrap();
    let mut outputs = Outputs::new();
    for chunks in steps {
        let input = step(chunks, shift);
        input.validate(&cap, blocks, 1).unwrap();
        batch.upload(backend, &mut s, &input).unwrap();
        let tokens = input.tokens.len();
        let mut upload = |width: usize, salt: usize| {
            let mut buffer = backend.alloc(DType::F32, tokens * width).unwrap();
            backend.upload_f32(&mut s, &rows(chunks, width, salt), &mut buffer).unwrap();
            buffer
        };
        let q = upload(heads * head_dim, 1);
        let (k, v) = (upload(kv_heads * head_dim, 2), upload(kv_heads * head_dim, 3));
        backend.kv_write(&mut s, &mut kv, &KvWrite { k: &k, v: Some(&v), batch: &batch }).unwrap();
        let width = heads * head_dim;
        let mut dst = backend.alloc(DType::F32, tokens * width).unwrap();
        let scale = 0.6 / (head_dim as f32).sqrt();
        let (q, kv, batch) = (&q, &kv, &batch);
        let p = Attention { q, kv, batch, heads, scale, window, softcap, sinks };
        backend.attention(&mut s, &mut dst, &p).unwrap();
        let mut out = vec![0.0; tokens * width];
        backend.download_f32(&mut s, &dst, &mut out).unwrap();
        let mut out = out.chunks_exact(width);
        for c in chunks {
            for position in c.first..c.end {
                outputs.insert((c.id, position), out.next().unwrap().to_vec());
            }
        }
    }
    outputs
}

fn cpu(isa: Isa, threads: usize) -> Cpu {
    Cpu::new(CpuConfig { threads, isa: Some(isa), ..CpuConfig::default() }).unwrap()
}

fn case(heads: usize, kv_heads: usize, head_dim: usize) -> Case {
    let (dtype, window, softcap, sinks) = (KvDType::F16, None, None, None);
    Case { heads, kv_heads, head_dim, dtype, window, softcap, sinks }
}

fn chunk(id: usize, first: usize, end: usize) -> Chunk {
    Chunk { id, first, end }
}

/// A prefill, its continuation, decodes deep and shallow, all mixed.
fn mixed_steps() -> Vec<Vec<Chunk>> {
    vec![
        vec![chunk(0, 0, 300), chunk(1, 0, 1), chunk(2, 0, 37)],
        vec![chunk(0, 300, 301), chunk(1, 1, 2), chunk(2, 37, 70), chunk(3, 0, 65)],
        vec![chunk(3, 65, 66), chunk(0, 301, 304), chunk(2, 70, 71), chunk(1, 2, 34)],
    ]
}

#[test]
fn as_the_reference_over_shapes() {
    let mut cases = vec![case(9, 3, 64), case(1, 1, 8), case(7, 1, 24), case(4, 4, 40)];
    for group in [2, 5, 8, 13] {
        cases.push(case(group * 2, 2, 16));
    }
    cases.push(Case { window: Some(1), ..case(2, 1, 8) });
    for window in [5, 64, 100, 257] {
        cases.push(Case { window: Some(window), ..case(4, 1, 32) });
    }
    cases.push(Case { softcap: Some(2.5), ..case(6, 2, 16) });
    cases.push(Case { softcap: Some(2.5), sinks: Some(4.0), ..case(6, 2, 16) });
    for dtype in [KvDType::F32, KvDType::BF16, KvDType::Fp8E4M3] {
        cases.push(Case { dtype, window: Some(70), ..case(6, 2, 24) });
    }
    for case in cases {
        let want = run(&Reference, &case, &mixed_steps(), 3);
        for isa in Isa::available() {
            let got = run(&cpu(isa, 2), &case, &mixed_steps(), 3);
            for (at, want) in &want {
                for (g, w) in got[at].iter().zip(want) {
                    assert!((g - w).abs() <= 2e-5, "{isa} {case:?} {at:?}: {g}, not {w}");
                }
            }
        }
    }
}

/// Whatever else is in the step and however a sequence is cut up: the same bits.
#[test]
fn a_token_is_alone_in_the_world() {
    let cases = [
        case(9, 3, 64),
        case(4, 1, 32),
        Case { window: Some(100), ..case(4, 2, 16) },
        Case { dtype: KvDType::F32, softcap: Some(3.0), ..case(7, 1, 8) },
        Case { dtype: KvDType::BF16, ..case(3, 1, 24) },
        Case { dtype: KvDType::Fp8E4M3, ..case(3, 1, 24) },
        Case { sinks: Some(5.0), ..case(6, 2, 16) },
    ];
    const LEN: usize = 600;
    let whole = vec![vec![chunk(0, 0, LEN)]];
    let tail_by_tokens = {
        let mut steps = vec![vec![chunk(0, 0, 500)]];
        steps.extend((500..LEN).map(|p| vec![chunk(0, p, p + 1)]));
        steps
    };
    let odd_chunks = {
        let cuts = [0, 1, 3, 40, 63, 64, 65, 200, 255, 258, 511, 513, 560, LEN];
        cuts.windows(2).map(|w| vec![chunk(0, w[0], w[1])]).collect()
    };
    let in_company: Vec<_> = [0, 128, 450, 451, 452, 456, LEN]
        .windows(2)
        .enumerate()
        .map(|(i, w)| {
            vec![chunk(1, 50 * i, 50 * (i + 1)), chunk(0, w[0], w[1]), chunk(2, i, i + 1)]
        })
        .collect();
    for case in cases {
        for isa in Isa::available() {
            let want = run(&cpu(isa, 1), &case, &whole, 0);
            let ways: [(&str, &Vec<Vec<Chunk>>); 4] = [
                ("whole", &whole),
                ("token by token", &tail_by_tokens),
                ("odd chunks", &odd_chunks),
                ("in company", &in_company),
            ];
            for (way, steps) in ways {
                for (threads, shift) in [(1, 0), (2, 17), (3, 101)] {
                    let got = run(&cpu(isa, threads), &case, steps, shift);
                    for (at, want) in &want {
                        assert_eq!(
                            &got[at], want,
                            "{isa} {case:?} {way}, {threads} threads {at:?}"
                        );
                    }
                }
            }
        }
    }
}

/// What a token must not see is not touched: not by a weight of zero, nor by a mask that adds.
#[test]
fn what_is_not_seen_may_be_anything() {
    for window in [None, Some(40)] {
        let case = Case { window, ..case(4, 2, 16) };
        for isa in Isa::available() {
            let clean = run(&cpu(isa, 1), &case, &[vec![chunk(0, 0, 100)]], 0);
            let dirty = poisoned(&cpu(isa, 1), &case, 100);
            for (at, want) in &clean {
                assert_eq!(&dirty[at], want, "{isa} {window:?} {at:?}");
            }
        }
    }
}

/// The outputs of positions `0..len`, token by token, where all later positions hold NaN.
fn poisoned(backend: &Cpu, case: &Case, len: usize) -> Outputs {
    let &Case { heads, kv_heads, head_dim, dtype, window, softcap, .. } = case;
    let mut s = backend.stream().unwrap();
    let blocks = BLOCKS_PER_SEQ * SEQS;
    let values = KvValues::Own;
    let spec = KvSpec { blocks, kv_heads, head_dim, values, dtype };
    let mut kv = backend.kv_cache(&spec).unwrap();
    let cap = StepCapacity { tokens: 256, seqs: SEQS, blocks_per_seq: BLOCKS_PER_SEQ, samples: 1 };
    let mut batch = StepBatch::new(backend, &cap).unwrap();
    let mut outputs = Outputs::new();
    let mut write = |first: usize, end: usize, nan: bool, attend: bool| {
        let chunks = [chunk(0, first, end)];
        batch.upload(backend, &mut s, &step(&chunks, 0)).unwrap();
        let mut upload = |width: usize, salt: usize, nan: bool| {
            let mut x = rows(&chunks, width, salt);
            if nan {
                x.fill(f32::NAN);
            }
            let mut buffer = backend.alloc(DType::F32, x.len()).unwrap();
            backend.upload_f32(&mut s, &x, &mut buffer).unwrap();
            buffer
        };
        let (k, v) = (upload(kv_heads * head_dim, 2, nan), upload(kv_heads * head_dim, 3, nan));
        let q = upload(heads * head_dim, 1, false);
        backend.kv_write(&mut s, &mut kv, &KvWrite { k: &k, v: Some(&v), batch: &batch }).unwrap();
        if attend {
            let scale = 0.6 / (head_dim as f32).sqrt();
            let (q, kv, batch, sinks) = (&q, &kv, &batch, None);
            let p = Attention { q, kv, batch, heads, scale, window, softcap, sinks };
            let mut dst = backend.alloc(DType::F32, heads * head_dim).unwrap();
            backend.attention(&mut s, &mut dst, &p).unwrap();
            let mut out = vec![0.0; heads * head_dim];
            backend.download_f32(&mut s, &dst, &mut out).unwrap();
            outputs.insert((0, first), out);
            if let Some(window) = window
                && first + 1 >= window
            {
                return Some(first + 1 - window);
            }
        }
        None
    };
    write(0, 160, true, false);
    for position in 0..len {
        // What has left the window is poisoned again.
        if let Some(left) = write(position, position + 1, false, true) {
            write(left, left + 1, true, false);
        }
    }
    outputs
}

#[test]
fn other_head_widths_are_refused() {
    let backend = cpu(Isa::Portable, 1);
    for head_dim in [1, 7, 12, 60] {
        let (values, kv) = (KvValues::Own, KvDType::F16);
        let need = crate::Need::Attention { head_dim, values, kv };
        assert!(matches!(backend.check(&need), Err(crate::KernelError::Unsupported { .. })));
        let spec = KvSpec { blocks: 1, kv_heads: 1, head_dim, values, dtype: kv };
        assert!(backend.kv_cache(&spec).is_err());
    }
}
