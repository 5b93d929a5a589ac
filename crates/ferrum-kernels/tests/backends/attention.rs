//! `kv_write` and `attention`: packed steps of several sequences over a paged cache.
//!
//! The bound: an output is a mean of values, so an error is measured in the largest of them. A
//! score has the rounding of a sum of products in single precision, 3e-7 of `scale·|q|·|k|`; it
//! enters the weights as it is (a factor of `exp(error)`). The exponential, the sum of weights and
//! the sum of values add 2e-6. Rounding on the way into the cache is the same on every
//! backend, so the bound does not depend on the cache's type.

use ferrum_kernels::params::{Attention, KvSpec, KvValues, KvWrite};
use ferrum_kernels::{Backend, KV_BLOCK_SIZE, KV_SCALE_GROUP, KvDType, StepCapacity, StepInput};

use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

/// Shape and options of a case.
#[derive(Debug, Clone)]
pub struct Case {
    pub kv: KvDType,
    pub head_dim: usize,
    pub values: KvValues,
    pub kv_heads: usize,
    /// Query heads per head of keys and values.
    pub group: usize,
    /// Times `1/√head_dim`.
    pub scale: f32,
    pub window: Option<usize>,
    pub softcap: Option<f32>,
    /// What the logits of the heads' sinks lie around.
    pub sinks: Option<f32>,
    /// (positions in the cache before the step, tokens in the step)
    pub seqs: Vec<(usize, usize)>,
}

/// The numbers of a case.
#[derive(Clone)]
pub struct World {
    blocks: usize,
    /// Of each sequence.
    tables: Vec<Vec<i32>>,
    /// Keys and values of each sequence, `[positions, kv_heads · head_dim]`.
    pub k: Vec<Vec<f32>>,
    pub v: Vec<Vec<f32>>,
    /// Queries of each sequence at all positions, `[positions, heads · head_dim]`.
    pub q: Vec<Vec<f32>>,
    /// `[heads]`
    pub sinks: Option<Vec<f32>>,
}

impl Case {
    /// One head of keys and values and one query of it, and nothing besides; no sequences.
    pub fn plain(kv: KvDType, head_dim: usize) -> Case {
        Case {
            kv,
            head_dim,
            values: KvValues::Own,
            kv_heads: 1,
            group: 1,
            scale: 1.0,
            window: None,
            softcap: None,
            sinks: None,
            seqs: Vec::new(),
        }
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    pub fn q_width(&self) -> usize {
        self.kv_width() * self.group
    }

    fn out_width(&self) -> usize {
        self.kv_heads * self.group * self.values.dim(self.head_dim)
    }

    fn scale(&self) -> f32 {
        self.scale / (self.head_dim as f32).sqrt()
    }

    /// Random numbers, and blocks in random order from a pool with some to spare.
    pub fn world(&self, rng: &mut Rng) -> World {
        let lens: Vec<usize> = self.seqs.iter().map(|(before, new)| before + new).collect();
        let need: Vec<usize> = lens.iter().map(|len| len.div_ceil(KV_BLOCK_SIZE)).collect();
        let blocks = need.iter().sum::<usize>() + 3;
        let mut pool: Vec<i32> = (0..blocks as i32).collect();
        rng.shuffle(&mut pool);
        let tables = need.iter().map(|&n| pool.split_off(pool.len() - n)).collect();
        let mut random =
            |width: usize| lens.iter().map(|&len| rng.normals(len * width, 1.0)).collect();
        let (kv, q) = (self.kv_width(), self.q_width());
        let (k, v, q) = (random(kv), random(kv), random(q));
        let heads = self.kv_heads * self.group;
        let around = |level: f32| rng.normals(heads, 1.0).iter().map(|x| level + x).collect();
        World { blocks, tables, k, v, q, sinks: self.sinks.map(around) }
    }

    /// Largest error of a value.
    fn bound(&self, w: &World) -> f64 {
        let norm = |x: &Vec<f32>| {
            let heads = x.chunks(self.head_dim);
            let squares = heads.map(|h| h.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>());
            squares.fold(0.0, f64::max).sqrt()
        };
        let largest = |all: &[Vec<f32>]| all.iter().map(norm).fold(0.0, f64::max);
        let values = if self.values == KvValues::Own { &w.v } else { &w.k };
        let value = values.iter().flatten().fold(0.0, |m, &v| f64::max(m, f64::from(v).abs()));
        let score = f64::from(self.scale().abs()) * largest(&w.q) * largest(&w.k);
        let finite = w.sinks.iter().flatten().filter(|sink| sink.is_finite());
        let score = finite.fold(score, |score, &sink| score.max(f64::from(sink).abs()));
        value * (2e-6 + 3e-7 * score)
    }
}

/// One step: of each sequence its tokens from one position to another; none where they are equal.
fn step(w: &World, spans: &[(usize, usize)]) -> StepInput {
    let mut step = StepInput { query_starts: vec![0], ..StepInput::default() };
    let used = |&(_, &(from, to)): &(usize, &(usize, usize))| from < to;
    let longest = spans.iter().enumerate().filter(used).map(|(i, _)| w.tables[i].len()).max();
    step.blocks_per_seq = longest.unwrap_or(0);
    for (seq, &(from, to)) in spans.iter().enumerate().filter(used) {
        step.positions.extend(from as i32..to as i32);
        step.tokens.resize(step.positions.len(), 0);
        step.query_starts.push(step.positions.len() as i32);
        step.kv_lens.push(to as i32);
        let mut table = w.tables[seq].clone();
        table.resize(step.blocks_per_seq, 0);
        step.block_tables.extend(table);
    }
    step
}

/// The rows of each sequence that take part in a step, packed.
fn packed(all: &[Vec<f32>], width: usize, spans: &[(usize, usize)]) -> Vec<f32> {
    let rows = all.iter().zip(spans).map(|(x, &(from, to))| &x[from * width..to * width]);
    rows.collect::<Vec<_>>().concat()
}

/// A cache with nothing but NaN in it: what no sequence wrote must not be seen.
pub fn poisoned<B: Backend>(s: &mut Subject<B>, c: &Case, w: &World) -> B::KvCache {
    let &Case { kv: dtype, head_dim, values, kv_heads, .. } = c;
    let spec = KvSpec { blocks: w.blocks, kv_heads, head_dim, values, dtype };
    let mut cache = s.backend.kv_cache(&spec).expect("a cache");
    let slots = w.blocks * KV_BLOCK_SIZE;
    let all = World {
        blocks: w.blocks,
        tables: vec![(0..w.blocks as i32).collect()],
        k: vec![vec![f32::NAN; slots * c.kv_width()]],
        v: vec![vec![f32::NAN; slots * c.kv_width()]],
        q: vec![],
        sinks: None,
    };
    write(s, c, &all, &mut cache, &[(0, slots)]);
    cache
}

/// A step on the device, in arrays with room for more.
fn batch<B: Backend>(
    s: &mut Subject<B>,
    w: &World,
    spans: &[(usize, usize)],
) -> ferrum_kernels::StepBatch<B::Buffer> {
    let step = step(w, spans);
    let cap = StepCapacity {
        tokens: step.tokens.len() + 5,
        seqs: step.kv_lens.len() + 2,
        blocks_per_seq: step.blocks_per_seq + 1,
        samples: 1,
    };
    s.batch(&step, &cap, w.blocks)
}

pub fn write<B: Backend>(
    s: &mut Subject<B>,
    c: &Case,
    w: &World,
    cache: &mut B::KvCache,
    spans: &[(usize, usize)],
) {
    if spans.iter().all(|(from, to)| from == to) {
        return;
    }
    let k = s.operand(&packed(&w.k, c.kv_width(), spans));
    let v = s.operand(&packed(&w.v, c.kv_width(), spans));
    let v = (c.values == KvValues::Own).then_some(&v);
    let p = KvWrite { k: &k, v, batch: &batch(s, w, spans) };
    s.backend.kv_write(&mut s.stream, cache, &p).expect("kv_write");
}

/// Writes and attends.
pub fn attend<B: Backend>(
    s: &mut Subject<B>,
    c: &Case,
    w: &World,
    cache: &mut B::KvCache,
    spans: &[(usize, usize)],
) -> Vec<f32> {
    write(s, c, w, cache, spans);
    let queries = packed(&w.q, c.q_width(), spans);
    let q = s.operand(&queries);
    let len = queries.len() / c.q_width() * c.out_width();
    let mut dst = s.target(&vec![f32::NAN; len]);
    let sinks = w.sinks.as_ref().map(|sinks| s.operand(sinks));
    let p = Attention {
        q: &q,
        kv: cache,
        batch: &batch(s, w, spans),
        heads: c.kv_heads * c.group,
        scale: c.scale(),
        window: c.window,
        softcap: c.softcap,
        sinks: sinks.as_ref(),
    };
    s.backend.attention(&mut s.stream, &mut dst, &p).expect("attention");
    s.result(&dst, len)
}

/// The whole case: what was before, then the step.
pub fn run<B: Backend>(s: &mut Subject<B>, c: &Case, w: &World) -> Vec<f32> {
    let mut cache = poisoned(s, c, w);
    let before: Vec<_> = c.seqs.iter().map(|&(before, _)| (0, before)).collect();
    write(s, c, w, &mut cache, &before);
    let spans: Vec<_> = c.seqs.iter().map(|&(before, new)| (before, before + new)).collect();
    attend(s, c, w, &mut cache, &spans)
}

/// Compares a case with the oracle's.
pub fn check<B: Backend>(
    report: &mut Report,
    subjects: &mut [Subject<B>],
    rng: &mut Rng,
    c: &Case,
) {
    let w = c.world(rng);
    let want = run(&mut oracle(), c, &w);
    let bound = c.bound(&w);
    for s in subjects {
        let got = run(s, c, &w);
        report.compare(s, c, &got, &want, |_| bound);
    }
}

/// Head widths, grouping, windows and soft caps, over mixes of prefill chunks and decodes.
pub fn attention_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mixes: [&[(usize, usize)]; 8] = [
        &[(0, 1)],
        &[(0, 33), (31, 1)],
        &[(40, 5), (0, 2), (100, 1), (31, 2)],
        &[(63, 1), (64, 1), (95, 1), (0, 1), (7, 1)],
        &[(0, 70)],
        &[(30, 40), (0, 3)],
        &[(127, 1)],
        &[(5, 8), (32, 16), (33, 23)],
    ];
    let mut report = Report::new();
    let mut rng = Rng::new(61);
    let mut turn = 0;
    for kv in KvDType::ALL {
        for head_dim in [32_usize, 64, 80, 96, 128, 256] {
            for (kv_heads, group) in [(4, 1), (3, 3), (2, 4), (1, 7), (2, 7)] {
                for window in [None, Some(1), Some(5), Some(32), Some(100)] {
                    turn += 1;
                    if kv == KvDType::Q8_0 && !head_dim.is_multiple_of(KV_SCALE_GROUP) {
                        continue;
                    }
                    let c = Case {
                        kv,
                        head_dim,
                        values: KvValues::Own,
                        kv_heads,
                        group,
                        scale: [1.0, 4.0, -1.0][turn % 3],
                        window,
                        softcap: [None, Some(3.0), None, Some(50.0), None][turn / 5 % 5],
                        sinks: None,
                        seqs: mixes[(turn + turn / 8) % mixes.len()].to_vec(),
                    };
                    check(&mut report, subjects, &mut rng, &c);
                }
            }
        }
    }
    report.finish();
}

/// Contexts of many blocks, decodes and chunks, whose work a backend may split.
pub fn attention_over_long_contexts<B: Backend>(subjects: &mut [Subject<B>]) {
    let mixes: [&[(usize, usize)]; 6] = [
        &[(1199, 1)],
        &[(1000, 1), (1199, 1), (3, 1), (500, 20)],
        &[(1100, 40)],
        &[(767, 1), (768, 1), (769, 1), (800, 1), (1, 1), (1023, 1), (1024, 1), (64, 1)],
        &[(0, 300)],
        &[(255, 2), (511, 3)],
    ];
    let mut report = Report::new();
    let mut rng = Rng::new(62);
    for kv in KvDType::ALL {
        for (head_dim, kv_heads, group) in [(64, 3, 3), (128, 1, 7), (256, 1, 4)] {
            for (turn, seqs) in mixes.iter().enumerate() {
                let c = Case {
                    kv,
                    head_dim,
                    values: KvValues::Own,
                    kv_heads,
                    group,
                    scale: 1.0,
                    window: [None, Some(512), None][turn % 3],
                    softcap: None,
                    sinks: None,
                    seqs: seqs.to_vec(),
                };
                check(&mut report, subjects, &mut rng, &c);
            }
        }
    }
    report.finish();
}

/// Scores of thousands: one position has nearly all the weight, and the others vanish.
pub fn attention_of_large_scores<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(63);
    for scale in [0.0, 100.0, -100.0, 3000.0] {
        for softcap in [None, Some(0.5), Some(50.0)] {
            let c = Case {
                kv: KvDType::F32,
                head_dim: 64,
                values: KvValues::Own,
                kv_heads: 2,
                group: 2,
                scale,
                window: None,
                softcap,
                sinks: None,
                seqs: vec![(0, 40), (300, 1), (90, 2)],
            };
            check(&mut report, subjects, &mut rng, &c);
        }
    }
    report.finish();
}

/// A prefill in chunks, or token by token, or beside another sequence, is the prefill in one step.
pub fn attention_in_chunks_equals_one_shot<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(64);
    let len = 150;
    let chunkings: [&[usize]; 4] =
        [&[33, 1, 31, 64, 21], &[1; 150], &[32, 32, 32, 32, 22], &[149, 1]];
    for kv in KvDType::ALL {
        for window in [None, Some(40)] {
            let c = Case {
                kv,
                head_dim: 64,
                values: KvValues::Own,
                kv_heads: 2,
                group: 3,
                scale: 1.0,
                window,
                softcap: None,
                sinks: window.map(|_| 2.0),
                seqs: vec![(0, len), (0, len)],
            };
            let w = c.world(&mut rng);
            let bound = c.bound(&w);
            for s in &mut *subjects {
                let mut cache = poisoned(s, &c, &w);
                let want = attend(s, &c, &w, &mut cache, &[(0, len), (0, 0)]);
                for chunks in chunkings {
                    let mut cache = poisoned(s, &c, &w);
                    let (mut from, mut got) = (0, Vec::new());
                    for chunk in chunks {
                        // The other sequence goes along, at its own pace.
                        let other = (from / 2, (from + chunk) / 2);
                        let spans = [(from, from + chunk), other];
                        let rows = attend(s, &c, &w, &mut cache, &spans);
                        got.extend_from_slice(&rows[..chunk * c.q_width()]);
                        from += chunk;
                    }
                    report.compare(s, &(kv, window, chunks.len()), &got, &want, |_| bound);
                }
            }
        }
    }
    report.finish();
}
