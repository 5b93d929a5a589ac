//! `packed_attention`: every shape against the oracle, sequences alone and together, refusals.
//!
//! The bound: values are a mean of the values seen, so a few roundings of the largest of them; and
//! weights whose relative error is that of a score, which is some roundings of its products.

use ferrum_kernels::params::PackedAttention;
use ferrum_kernels::{Backend, DType, Need};

use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

#[derive(Clone)]
struct Case {
    lens: Vec<usize>,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    scale: f32,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Rng, lens: &[usize], heads: (usize, usize), dim: usize) -> Self {
        let tokens: usize = lens.iter().sum();
        let (heads, kv_heads) = heads;
        Case {
            lens: lens.to_vec(),
            heads,
            kv_heads,
            dim,
            scale: 1.0 / (dim as f32).sqrt(),
            q: rng.normals(tokens * heads * dim, 2.0),
            k: rng.normals(tokens * kv_heads * dim, 1.0),
            v: rng.normals(tokens * kv_heads * dim, 1.0),
        }
    }

    fn tokens(&self) -> usize {
        self.lens.iter().sum()
    }

    fn starts(&self) -> Vec<i32> {
        let mut starts = vec![0];
        for len in &self.lens {
            starts.push(starts[starts.len() - 1] + *len as i32);
        }
        starts
    }

    /// Sequence `i` as a case of its own.
    fn alone(&self, i: usize) -> Case {
        let start = self.starts()[i] as usize;
        let part = |x: &[f32], heads: usize| {
            let width = heads * self.dim;
            x[start * width..(start + self.lens[i]) * width].to_vec()
        };
        Case {
            lens: vec![self.lens[i]],
            q: part(&self.q, self.heads),
            k: part(&self.k, self.kv_heads),
            v: part(&self.v, self.kv_heads),
            ..self.clone()
        }
    }
}

fn run<B: Backend>(s: &mut Subject<B>, c: &Case) -> Vec<f32> {
    let (q, k, v) = (s.operand(&c.q), s.operand(&c.k), s.operand(&c.v));
    let starts = s.indices(&c.starts());
    let mut dst = s.target(&vec![f32::NAN; c.q.len()]);
    let p = PackedAttention {
        q: &q,
        k: &k,
        v: &v,
        query_starts: &starts,
        tokens: c.tokens(),
        seqs: c.lens.len(),
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.dim,
        scale: c.scale,
    };
    s.backend.packed_attention(&mut s.stream, &mut dst, &p).expect("packed_attention");
    s.result(&dst, c.q.len())
}

fn compare<B: Backend>(report: &mut Report, subjects: &mut [Subject<B>], c: &Case) {
    let want = run(&mut oracle(), c);
    for s in subjects {
        let got = run(s, c);
        let case = (&c.lens, c.heads, c.kv_heads, c.dim);
        report.compare(s, &case, &got, &want, |_| 2e-5);
    }
}

/// Lengths around the sizes of tiles, blocks, steps and splits; groups; widths.
pub fn packed_attention_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(61);
    let none: &[usize] = &[];
    for lens in [
        none,
        &[1],
        &[2],
        &[5, 1, 6, 7],
        &[31, 32, 33],
        &[63, 64, 65],
        &[1, 1, 1, 1, 1, 1, 1, 1, 1],
        &[129, 3],
        &[255, 257],
        &[520],
    ] {
        for heads in [(1, 1), (3, 3), (4, 2), (5, 1)] {
            for dim in [8, 32, 40, 64] {
                let c = Case::new(&mut rng, lens, heads, dim);
                compare(&mut report, subjects, &c);
            }
        }
    }
    // Scores far from zero, and all alike.
    for factor in [40.0, -40.0, 0.0] {
        let mut c = Case::new(&mut rng, &[7, 40, 300], (2, 2), 16);
        c.q.iter_mut().for_each(|q| *q = factor);
        compare(&mut report, subjects, &c);
    }
    report.finish();
}

/// Each sequence, alone and with others: the same to the bit.
pub fn packed_sequences_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(62);
    let c = Case::new(&mut rng, &[3, 70, 1, 290, 12, 33], (4, 2), 32);
    for s in subjects {
        let want = run(s, &c);
        for i in 0..c.lens.len() {
            let got = run(s, &c.alone(i));
            let start = c.starts()[i] as usize * c.heads * c.dim;
            report.compare(s, &i, &got, &want[start..start + got.len()], |_| 0.0);
        }
    }
    report.finish();
}

/// Sizes that contradict each other.
struct Raw {
    starts: Vec<i32>,
    tokens: usize,
    seqs: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    scale: f32,
    /// Lengths and types of q, k, v and the result.
    lens: [usize; 4],
    types: [DType; 4],
}

type Fault = (&'static str, fn(&mut Raw));

const FAULTS: &[Fault] = &[
    ("short queries", |r| r.lens[0] -= 1),
    ("short keys", |r| r.lens[1] -= 1),
    ("short values", |r| r.lens[2] -= 1),
    ("a short result", |r| r.lens[3] -= 1),
    ("queries of integers", |r| r.types[0] = DType::I32),
    ("keys of integers", |r| r.types[1] = DType::I32),
    ("values of integers", |r| r.types[2] = DType::I32),
    ("a result of integers", |r| r.types[3] = DType::I32),
    ("no heads", |r| r.heads = 0),
    ("no heads of keys", |r| r.kv_heads = 0),
    ("heads that do not divide", |r| r.heads = 3),
    ("heads of no values", |r| r.dim = 0),
    ("a huge head", |r| r.dim = usize::MAX / 8 * 8),
    ("a factor that is no number", |r| r.scale = f32::NAN),
    ("too many tokens", |r| r.tokens = 6),
    ("a huge number of tokens", |r| r.tokens = usize::MAX),
    ("more sequences than starts", |r| r.seqs = 3),
    ("a huge number of sequences", |r| r.seqs = usize::MAX),
    ("starts not from zero", |r| r.starts[0] = 1),
    ("a sequence of nothing", |r| r.starts[1] = 0),
    ("falling starts", |r| r.starts[1] = -1),
    ("starts short of the tokens", |r| r.starts[2] = 4),
];

pub fn wrong_packed_attention_is_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        let raw = || Raw {
            starts: vec![0, 2, 5],
            tokens: 5,
            seqs: 2,
            heads: 4,
            kv_heads: 2,
            dim: 16,
            scale: 1.0,
            lens: [320, 160, 160, 320],
            types: [DType::F32; 4],
        };
        assert!(attempt(s, &raw()), "{}", s.label);
        for (name, fault) in FAULTS {
            let mut r = raw();
            fault(&mut r);
            assert!(!attempt(s, &r), "{}: accepted {name}", s.label);
        }
        for dim in 0..70 {
            let able = s.backend.check(&Need::PackedAttention { head_dim: dim }).is_ok();
            let lens = [20 * dim, 10 * dim, 10 * dim, 20 * dim];
            assert_eq!(attempt(s, &Raw { dim, lens, ..raw() }), able, "{} {dim}", s.label);
        }
    }
}

fn attempt<B: Backend>(s: &mut Subject<B>, r: &Raw) -> bool {
    let b = &s.backend;
    let mut starts = b.alloc(DType::I32, r.starts.len()).expect("memory");
    b.upload_i32(&mut s.stream, &r.starts, &mut starts).expect("fits");
    let mut buffers: Vec<_> =
        r.lens.iter().zip(r.types).map(|(&len, t)| b.alloc(t, len).expect("memory")).collect();
    let mut dst = buffers.pop().expect("four");
    let p = PackedAttention {
        q: &buffers[0],
        k: &buffers[1],
        v: &buffers[2],
        query_starts: &starts,
        tokens: r.tokens,
        seqs: r.seqs,
        heads: r.heads,
        kv_heads: r.kv_heads,
        head_dim: r.dim,
        scale: r.scale,
    };
    b.packed_attention(&mut s.stream, &mut dst, &p).is_ok()
}
