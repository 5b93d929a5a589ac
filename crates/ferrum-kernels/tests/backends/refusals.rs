//! What does not fit is an error: wrong element types, buffers too short, indices out of range,
//! shapes that contradict each other. Never a panic, never a silent default.

use ferrum_kernels::params::{
    Activate, Activation, Attention, Embed, GatedLinear, GatherRows, KvSpec, KvValues, KvWrite,
    LayerNorm, Linear, LinearOutput, RmsNorm, Rope, RopeInput, RopeStyle,
};
use ferrum_kernels::{
    Backend, Buffer, DType, Format, KvDType, Need, PackedWeight, Result, StepBatch, StepCapacity,
    StepInput, StepShape, WeightSource,
};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::Subject;

/// Lengths and numbers of an operation, any of which a test spoils.
type Spoil = fn(&mut Sizes);

/// Sizes of buffers and parameters; what an operation does not use is ignored.
#[derive(Clone, Copy)]
struct Sizes {
    input: usize,
    dst: usize,
    /// A bias, a norm's weight, a rope table.
    extra: usize,
    ints: usize,
    index: i32,
    rows: usize,
    width: usize,
    /// `head_dim` of rope.
    dim: usize,
    flag: bool,
    eps: f32,
    types: [DType; 4],
}

const F: DType = DType::F32;
const I: DType = DType::I32;

fn buffer<B: Backend>(s: &mut Subject<B>, dtype: DType, len: usize, index: i32) -> B::Buffer {
    let mut b = s.backend.alloc(dtype, len).expect("memory");
    if dtype == I {
        s.backend.upload_i32(&mut s.stream, &vec![index; len], &mut b).expect("fits");
    }
    b
}

/// The good sizes must be accepted, and each spoilt one refused.
fn refuses<B: Backend>(
    s: &mut Subject<B>,
    op: &str,
    good: Sizes,
    spoils: &[(&str, Spoil)],
    run: impl Fn(&mut Subject<B>, Sizes) -> Result<()>,
) {
    run(s, good).unwrap_or_else(|e| panic!("{} {op}: {e}", s.label));
    for (name, spoil) in spoils {
        let mut sizes = good;
        spoil(&mut sizes);
        assert!(run(s, sizes).is_err(), "{} {op}: accepted {name}", s.label);
    }
}

const TYPE_INPUT: (&str, Spoil) = ("an input of integers", |z| z.types[0] = I);
const TYPE_DST: (&str, Spoil) = ("a result of integers", |z| z.types[1] = I);
const TYPE_EXTRA: (&str, Spoil) = ("a vector of integers", |z| z.types[2] = I);
const TYPE_INTS: (&str, Spoil) = ("indices that are floats", |z| z.types[3] = F);
const SHORT_INPUT: (&str, Spoil) = ("a short input", |z| z.input -= 1);
const SHORT_DST: (&str, Spoil) = ("a short result", |z| z.dst -= 1);
const SHORT_EXTRA: (&str, Spoil) = ("a short vector", |z| z.extra -= 1);
const SHORT_INTS: (&str, Spoil) = ("too few indices", |z| z.ints -= 1);
const NEGATIVE: (&str, Spoil) = ("a negative index", |z| z.index = -1);
const HUGE: (&str, Spoil) = ("a huge index", |z| z.index = i32::MAX);
const OVERFLOW: (&str, Spoil) = ("sizes that overflow", |z| z.rows = usize::MAX / 2);

pub fn wrong_operands_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        refuse_linears(s);
        refuse_embed(s);
        refuse_norm(s);
        refuse_rope(s);
        refuse_gather(s);
        refuse_transfers(s);
    }
}

fn sizes(input: usize, dst: usize, extra: usize, ints: usize, rows: usize, width: usize) -> Sizes {
    let types = [F, F, F, I];
    let (index, dim, flag, eps) = (0, 0, false, 1e-5);
    Sizes { input, dst, extra, ints, index, rows, width, dim, flag, eps, types }
}

fn refuse_linears<B: Backend>(s: &mut Subject<B>) {
    let mut rng = Rng::new(71);
    let mut pack = |s: &mut Subject<B>, format, rows, cols| {
        s.pack(&WeightBytes::new(&mut rng, format, rows, cols, Pattern::Random))
    };
    for format in [Format::F32, Format::F16, Format::Q4_0, Format::Q8_0, Format::Q6_K] {
        let w = pack(s, format, 5, 256);
        let narrow = pack(s, Format::F32, 5, 32);
        let low = pack(s, format, 4, 256);
        let good = sizes(3 * 256, 3 * 5, 5, 0, 3, 256);
        let spoils = [
            TYPE_INPUT,
            TYPE_DST,
            TYPE_EXTRA,
            SHORT_INPUT,
            SHORT_DST,
            SHORT_EXTRA,
            OVERFLOW,
            ("weights of different widths", |z: &mut Sizes| z.flag = true),
        ];
        refuses(s, "linear", good, &spoils, |s, z| {
            let x = buffer(s, z.types[0], z.input, 0);
            let bias = buffer(s, z.types[2], z.extra, 0);
            let mut y = [buffer(s, F, 15, 0), buffer(s, z.types[1], z.dst, 0)];
            let [first, second] = &mut y;
            let outputs = &mut [
                LinearOutput {
                    weight: if z.flag { &narrow } else { &w },
                    bias: None,
                    dst: first,
                    accumulate: false,
                },
                LinearOutput { weight: &w, bias: Some(&bias), dst: second, accumulate: false },
            ];
            s.backend.linear(&mut s.stream, Linear { input: &x, rows: z.rows, outputs })
        });
        let spoils = [
            TYPE_INPUT,
            TYPE_DST,
            SHORT_INPUT,
            SHORT_DST,
            OVERFLOW,
            ("a gate of another width", |z: &mut Sizes| z.index = 1),
            ("a gate of another height", |z: &mut Sizes| z.index = 2),
        ];
        refuses(s, "gated_linear", good, &spoils, |s, z| {
            let x = buffer(s, z.types[0], z.input, 0);
            let mut y = buffer(s, z.types[1], z.dst, 0);
            let gate = [&w, &narrow, &low][z.index as usize];
            let activation = Activation::Silu;
            let p = GatedLinear { input: &x, rows: z.rows, gate, up: &w, activation };
            s.backend.gated_linear(&mut s.stream, &mut y, &p)
        });
    }
}

fn refuse_embed<B: Backend>(s: &mut Subject<B>) {
    let mut rng = Rng::new(72);
    let w = WeightBytes::new(&mut rng, Format::Q8_0, 5, 64, Pattern::Random);
    let table = s.pack(&w);
    let spoils = [
        TYPE_DST,
        TYPE_INTS,
        SHORT_DST,
        SHORT_INTS,
        NEGATIVE,
        HUGE,
        OVERFLOW,
        ("a token past the table", |z: &mut Sizes| z.index = 5),
    ];
    let good = Sizes { index: 4, ..sizes(0, 3 * 64, 0, 3, 3, 64) };
    refuses(s, "embed", good, &spoils, |s, z| {
        let tokens = buffer(s, z.types[3], z.ints, z.index);
        let mut y = buffer(s, z.types[1], z.dst, 0);
        let p =
            Embed { table: &table, tokens: &tokens, rows: z.rows, scale: 1.0, accumulate: false };
        s.backend.embed(&mut s.stream, &mut y, &p)
    });
}

fn refuse_norm<B: Backend>(s: &mut Subject<B>) {
    let spoils = [
        TYPE_INPUT,
        TYPE_DST,
        TYPE_EXTRA,
        SHORT_INPUT,
        SHORT_DST,
        SHORT_EXTRA,
        OVERFLOW,
        ("a width of zero", |z: &mut Sizes| z.width = 0),
        ("a negative eps", |z: &mut Sizes| z.eps = -1.0),
        ("an eps that is no number", |z: &mut Sizes| z.eps = f32::NAN),
        ("accumulation in place", |z: &mut Sizes| z.flag = true),
    ];
    // The last is of this norm alone.
    refuse_layer_norm(s, &spoils[..spoils.len() - 1]);
    refuses(s, "rms_norm", sizes(3 * 8, 3 * 8, 8, 0, 3, 8), &spoils, |s, z| {
        let src = buffer(s, z.types[0], z.input, 0);
        let weight = buffer(s, z.types[2], z.extra, 0);
        let mut y = buffer(s, z.types[1], z.dst, 0);
        let p = RmsNorm {
            src: (!z.flag).then_some(&src),
            weight: &weight,
            groups: z.rows,
            width: z.width,
            eps: z.eps,
            accumulate: z.flag,
        };
        s.backend.rms_norm(&mut s.stream, &mut y, &p)
    });
}

fn refuse_layer_norm<B: Backend>(s: &mut Subject<B>, norm: &[(&'static str, Spoil)]) {
    let bias = ("a short bias", (|z: &mut Sizes| z.dim = 7) as Spoil);
    let spoils: Vec<_> = norm.iter().copied().chain([bias]).collect();
    let good = Sizes { dim: 8, ..sizes(3 * 8, 3 * 8, 8, 0, 3, 8) };
    refuses(s, "layer_norm", good, &spoils, |s, z| {
        let src = buffer(s, z.types[0], z.input, 0);
        let weight = buffer(s, z.types[2], z.extra, 0);
        let bias = buffer(s, F, z.dim, 0);
        let mut y = buffer(s, z.types[1], z.dst, 0);
        let (src, weight, bias) = (Some(&src), &weight, &bias);
        let p = LayerNorm { src, weight, bias, groups: z.rows, width: z.width, eps: z.eps };
        s.backend.layer_norm(&mut s.stream, &mut y, &p)
    });
    refuses(s, "activate", good, &[TYPE_DST, SHORT_DST, OVERFLOW], |s, z| {
        let mut x = buffer(s, z.types[1], z.dst, 0);
        let p = Activate { rows: z.rows, width: z.width, activation: Activation::Gelu };
        s.backend.activate(&mut s.stream, &mut x, &p)
    });
}

fn refuse_rope<B: Backend>(s: &mut Subject<B>) {
    let spoils = [
        TYPE_DST,
        TYPE_EXTRA,
        TYPE_INTS,
        SHORT_DST,
        SHORT_INTS,
        NEGATIVE,
        HUGE,
        OVERFLOW,
        ("a position past the table", |z: &mut Sizes| z.index = 4),
        ("a table that ends in the middle of the position", |z: &mut Sizes| z.extra -= 1),
        ("a width of zero", |z: &mut Sizes| z.width = 0),
        ("an odd width", |z: &mut Sizes| z.width = 5),
        ("a width larger than the head", |z: &mut Sizes| z.width = 10),
        ("heads of no values", |z: &mut Sizes| z.dim = 0),
        TYPE_INPUT,
        ("a short norm", |z: &mut Sizes| z.input -= 1),
        ("a negative eps", |z: &mut Sizes| z.eps = -1.0),
        ("an eps that is no number", |z: &mut Sizes| z.eps = f32::NAN),
    ];
    // Two heads of eight values, six of them rotated; a table of four positions.
    let good = Sizes { index: 3, dim: 8, ..sizes(8, 3 * 2 * 8, 4 * 6, 3, 3, 6) };
    refuses(s, "rope", good, &spoils, |s, z| {
        let positions = buffer(s, z.types[3], z.ints, z.index);
        let table = buffer(s, z.types[2], z.extra, 0);
        let norm = buffer(s, z.types[0], z.input, 0);
        let mut x = buffer(s, z.types[1], z.dst, 0);
        let p = Rope {
            positions: &positions,
            table: &table,
            rows: z.rows,
            head_dim: z.dim,
            rotary_dim: z.width,
            style: RopeStyle::Split,
            eps: z.eps,
            inputs: &mut [RopeInput { x: &mut x, heads: 2, norm: Some(&norm) }],
        };
        s.backend.rope(&mut s.stream, p)
    });
}

fn refuse_gather<B: Backend>(s: &mut Subject<B>) {
    let spoils = [
        TYPE_INPUT,
        TYPE_DST,
        TYPE_INTS,
        SHORT_DST,
        SHORT_INTS,
        NEGATIVE,
        HUGE,
        OVERFLOW,
        ("a row past the source", |z: &mut Sizes| z.index = 4),
        ("a row that ends after the source", |z: &mut Sizes| z.input -= 1),
        ("a width of zero", |z: &mut Sizes| z.width = 0),
    ];
    let good = Sizes { index: 3, ..sizes(4 * 8, 3 * 8, 0, 3, 3, 8) };
    refuses(s, "gather_rows", good, &spoils, |s, z| {
        let src = buffer(s, z.types[0], z.input, 0);
        let rows = buffer(s, z.types[3], z.ints, z.index);
        let mut y = buffer(s, z.types[1], z.dst, 0);
        let p = GatherRows { src: &src, rows: &rows, count: z.rows, width: z.width };
        s.backend.gather_rows(&mut s.stream, &mut y, &p)
    });
}

fn refuse_transfers<B: Backend>(s: &mut Subject<B>) {
    let b = &s.backend;
    let mut floats = b.alloc(F, 4).expect("memory");
    let mut ints = b.alloc(I, 4).expect("memory");
    assert_eq!((floats.len(), floats.dtype(), ints.dtype()), (4, F, I));
    assert!(b.upload_f32(&mut s.stream, &[0.0; 5], &mut floats).is_err());
    assert!(b.upload_f32(&mut s.stream, &[0.0; 4], &mut ints).is_err());
    assert!(b.upload_i32(&mut s.stream, &[0; 5], &mut ints).is_err());
    assert!(b.upload_i32(&mut s.stream, &[0; 4], &mut floats).is_err());
    assert!(b.download_f32(&mut s.stream, &floats, &mut [0.0; 5]).is_err());
    assert!(b.download_f32(&mut s.stream, &ints, &mut [0.0; 4]).is_err());
    assert!(b.alloc(F, usize::MAX).is_err());
    assert!(b.alloc(I, isize::MAX as usize / 4 + 1).is_err());
}

/// Sources whose bytes do not fit; `check` agrees with what follows.
pub fn wrong_weights_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        for format in Format::ALL {
            let (cols, data) = (format.block_len(), vec![0; 4 * format.block_bytes()]);
            // (rows, columns, bytes) that contradict each other, past the check of `new`.
            for (rows, cols, bytes) in [
                (2, cols, data.len()),
                (4, cols, data.len() - 1),
                (usize::MAX, cols, data.len()),
                (4, usize::MAX / cols * cols, data.len()),
                (0, cols, 0),
                (4, 0, 0),
            ] {
                let right = WeightSource::new(format, 4, format.block_len(), &data);
                let right = right.expect("whole rows");
                let source = WeightSource { rows, cols, data: &data[..bytes], ..right };
                let refused = s.backend.pack(&mut s.stream, &source).is_err();
                assert!(refused, "{}: packed {format} {rows} x {cols} of {bytes}", s.label);
            }
            // Sizes that cannot be must not overflow on the way to saying so.
            s.backend.packed_bytes(format, usize::MAX, usize::MAX);
            for cols in [cols, 3 * cols, cols + 1] {
                let data = vec![0; 3 * format.row_bytes(cols).unwrap_or(0)];
                let able = s.backend.check(&Need::Linear { format, cols }).is_ok();
                let source = WeightSource::new(format, 3, cols, &data);
                let packed = source.and_then(|w| s.backend.pack(&mut s.stream, &w));
                assert_eq!(packed.is_ok(), able, "{}: {format}, {cols} columns", s.label);
                let Ok(w) = packed else { continue };
                assert_eq!((w.format(), w.rows(), w.cols()), (format, 3, cols));
                let promised = s.backend.packed_bytes(format, 3, cols);
                assert_eq!(w.resident_bytes(), promised, "{}: {format} {cols}", s.label);
            }
            assert!(s.backend.check(&Need::Embed(format)).is_ok());
        }
    }
}

/// Two sequences: three tokens after thirty others, and a first token.
fn step() -> StepInput {
    StepInput {
        tokens: vec![0; 4],
        positions: vec![30, 31, 32, 0],
        query_starts: vec![0, 3, 4],
        kv_lens: vec![33, 1],
        block_tables: vec![3, 1, 2, 0],
        blocks_per_seq: 2,
        ..StepInput::default()
    }
}

/// Runs kv_write or attention on arrays that no engine checked.
struct Raw {
    step: StepInput,
    slots: Vec<i32>,
    shape: Option<StepShape>,
    heads: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    values: KvValues,
    /// Whether values are given to write.
    with_values: bool,
    /// Lengths of keys, values, queries, result and sinks; types of the same.
    lens: [usize; 5],
    types: [DType; 5],
}

fn raw() -> Raw {
    Raw {
        step: step(),
        slots: vec![126, 127, 32, 64],
        shape: None,
        heads: 4,
        window: None,
        softcap: None,
        values: KvValues::Own,
        with_values: true,
        lens: [4 * 64, 4 * 64, 4 * 128, 4 * 128, 4],
        types: [F; 5],
    }
}

impl Raw {
    /// Whether kv_write and attention succeed.
    fn run<B: Backend>(&self, s: &mut Subject<B>) -> (bool, bool) {
        let cap = StepCapacity { tokens: 4, seqs: 2, blocks_per_seq: 2, samples: 1 };
        let mut batch = StepBatch::new(&s.backend, &cap).expect("memory");
        batch.upload(&s.backend, &mut s.stream, &step()).expect("good");
        let (b, stream) = (&s.backend, &mut s.stream);
        for (src, dst) in [
            (&self.step.query_starts, &mut batch.query_starts),
            (&self.step.kv_lens, &mut batch.kv_lens),
            (&self.step.block_tables, &mut batch.block_tables),
            (&self.slots, &mut batch.slots),
        ] {
            b.upload_i32(stream, src, dst).expect("fits");
        }
        batch.shape = self.shape.unwrap_or(batch.shape);
        let (values, dtype) = (self.values, KvDType::F16);
        let spec = KvSpec { blocks: 4, kv_heads: 2, head_dim: 32, values, dtype };
        let mut kv = b.kv_cache(&spec).expect("a cache");
        let mut buffers = self
            .lens
            .iter()
            .zip(self.types)
            .map(|(&len, dtype)| s.backend.alloc(dtype, len).expect("memory"));
        let (k, v) = (buffers.next().expect("k"), buffers.next().expect("v"));
        let (q, mut y) = (buffers.next().expect("q"), buffers.next().expect("y"));
        let sinks = buffers.next().expect("sinks");
        let v = self.with_values.then_some(&v);
        let write = KvWrite { k: &k, v, batch: &batch };
        let written = s.backend.kv_write(&mut s.stream, &mut kv, &write).is_ok();
        let p = Attention {
            q: &q,
            kv: &kv,
            batch: &batch,
            heads: self.heads,
            scale: 1.0,
            window: self.window,
            softcap: self.softcap,
            sinks: Some(&sinks),
        };
        (written, s.backend.attention(&mut s.stream, &mut y, &p).is_ok())
    }
}

/// A name, what is spoilt, and whether kv_write and attention may still succeed.
type Fault = (&'static str, fn(&mut Raw), (bool, bool));

const WRITE: (bool, bool) = (false, true);
const ATTEND: (bool, bool) = (true, false);
const BOTH: (bool, bool) = (false, false);

const FAULTS: &[Fault] = &[
    ("keys too short", |r| r.lens[0] -= 1, WRITE),
    ("values too short", |r| r.lens[1] -= 1, WRITE),
    ("keys of integers", |r| r.types[0] = I, WRITE),
    ("values of integers", |r| r.types[1] = I, WRITE),
    ("no values", |r| r.with_values = false, WRITE),
    ("values that are a part of the keys", |r| r.values = KvValues::PrefixOfKey(16), WRITE),
    ("a slot below zero", |r| r.slots[1] = -1, WRITE),
    ("a slot past the cache", |r| r.slots[1] = 128, WRITE),
    ("a huge slot", |r| r.slots[1] = i32::MAX, WRITE),
    ("queries too short", |r| r.lens[2] -= 1, ATTEND),
    ("a result too short", |r| r.lens[3] -= 1, ATTEND),
    ("queries of integers", |r| r.types[2] = I, ATTEND),
    ("a result of integers", |r| r.types[3] = I, ATTEND),
    ("sinks of too few heads", |r| r.lens[4] -= 1, ATTEND),
    ("sinks of integers", |r| r.types[4] = I, ATTEND),
    ("no heads", |r| r.heads = 0, ATTEND),
    ("heads that do not divide", |r| r.heads = 3, ATTEND),
    ("more heads than the queries have", |r| r.heads = 6, ATTEND),
    ("a window of nothing", |r| r.window = Some(0), ATTEND),
    ("a soft cap of zero", |r| r.softcap = Some(0.0), ATTEND),
    ("a negative soft cap", |r| r.softcap = Some(-1.0), ATTEND),
    ("a soft cap that is no number", |r| r.softcap = Some(f32::NAN), ATTEND),
    ("a block below zero", |r| r.step.block_tables[1] = -1, ATTEND),
    ("a block past the cache", |r| r.step.block_tables[1] = 4, ATTEND),
    ("a first block past the cache", |r| r.step.block_tables[2] = i32::MAX, ATTEND),
    ("starts past the tokens", |r| r.step.query_starts[1] = 5, ATTEND),
    ("starts below zero", |r| r.step.query_starts[1] = -1, ATTEND),
    ("starts not from zero", |r| r.step.query_starts[0] = 1, ATTEND),
    ("starts short of the tokens", |r| r.step.query_starts[2] = 3, ATTEND),
    ("starts past the tokens at the end", |r| r.step.query_starts[2] = 5, ATTEND),
    ("starts falling", |r| r.step.query_starts[1] = i32::MIN, ATTEND),
    ("fewer positions than tokens", |r| r.step.kv_lens[0] = 2, ATTEND),
    ("negative positions", |r| r.step.kv_lens[1] = -1, ATTEND),
    ("positions past the blocks", |r| r.step.kv_lens[0] = 65, ATTEND),
    ("as many positions as there are integers", |r| r.step.kv_lens[0] = i32::MAX, ATTEND),
    ("a shape of more tokens", |r| spoil(r, |s| s.tokens = 5), BOTH),
    ("a shape of a huge number of tokens", |r| spoil(r, |s| s.tokens = usize::MAX), BOTH),
    ("a shape of more sequences", |r| spoil(r, |s| s.seqs = 3), ATTEND),
    ("a shape of a huge number of sequences", |r| spoil(r, |s| s.seqs = usize::MAX), ATTEND),
    ("a shape of more blocks", |r| spoil(r, |s| s.blocks_per_seq = 3), ATTEND),
    ("a shape of a huge number of blocks", |r| spoil(r, |s| s.blocks_per_seq = usize::MAX), ATTEND),
    ("a shape of no blocks", |r| spoil(r, |s| s.blocks_per_seq = 0), ATTEND),
];

fn spoil(r: &mut Raw, f: fn(&mut StepShape)) {
    let mut shape = r.step.shape();
    f(&mut shape);
    r.shape = Some(shape);
}

pub fn wrong_batches_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        assert_eq!(raw().run(s), (true, true), "{}", s.label);
        for (name, fault, want) in FAULTS {
            let mut r = raw();
            fault(&mut r);
            assert_eq!(r.run(s), *want, "{}: {name} (kv_write, attention succeed)", s.label);
        }
    }
}
