//! What the operations of a mixture of experts must refuse.

use ferrum_kernels::params::{
    Activation, Embed, ExpertCombine, ExpertGatedLinear, GatedLinear, Linear, LinearOutput,
    RouteTopk,
};
use ferrum_kernels::{Backend, DType, Format, Need, PackedWeight, Result, WeightSource};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::Subject;

const F: DType = DType::F32;
const I: DType = DType::I32;

/// What a test spoils: lengths and types of (scores or input, ids, weights, dst), and numbers.
#[derive(Clone, Copy)]
struct Parts {
    lens: [usize; 4],
    types: [DType; 4],
    id: i32,
    rows: usize,
    used: usize,
    experts: usize,
    scale: f32,
    /// Which of several weights.
    weight: usize,
}

type Spoil = fn(&mut Parts);

const COMMON: &[(&str, Spoil)] = &[
    ("a short input", |p| p.lens[0] -= 1),
    ("too few ids", |p| p.lens[1] -= 1),
    ("a short result", |p| p.lens[3] -= 1),
    ("an input of integers", |p| p.types[0] = I),
    ("ids that are floats", |p| p.types[1] = F),
    ("a result of integers", |p| p.types[3] = I),
    ("sizes that overflow", |p| p.rows = usize::MAX / 2),
    ("no experts for a token", |p| p.used = 0),
];
const WEIGHTS: &[(&str, Spoil)] =
    &[("too few weights", |p| p.lens[2] -= 1), ("weights that are integers", |p| p.types[2] = I)];
const IDS: &[(&str, Spoil)] = &[
    ("a negative expert", |p| p.id = -1),
    ("an expert past the last", |p| p.id = 3),
    ("a huge expert", |p| p.id = i32::MAX),
];
const ROUTES: &[(&str, Spoil)] = &[
    ("more experts for a token than there are", |p| p.used = 4),
    ("no experts", |p| p.experts = 0),
    ("more experts than ids can tell", |p| p.experts = 1 << 40),
    ("a factor that is no number", |p| p.scale = f32::NAN),
];
const STACKS: &[(&str, Spoil)] = &[
    ("stacks of different widths", |p| p.weight = 1),
    ("stacks of different heights", |p| p.weight = 2),
    ("stacks of different numbers", |p| p.weight = 3),
];

/// Buffers as asked for; ids hold `id`.
fn buffers<B: Backend>(s: &mut Subject<B>, p: &Parts) -> [B::Buffer; 4] {
    std::array::from_fn(|i| {
        let mut b = s.backend.alloc(p.types[i], p.lens[i]).expect("memory");
        if p.types[i] == I {
            s.backend.upload_i32(&mut s.stream, &vec![p.id; p.lens[i]], &mut b).expect("fits");
        }
        b
    })
}

/// The good parts must be accepted, and each spoilt one refused.
fn refuses<B: Backend>(
    s: &mut Subject<B>,
    op: &str,
    good: Parts,
    spoils: &[&[(&str, Spoil)]],
    run: impl Fn(&mut Subject<B>, Parts) -> Result<()>,
) {
    run(s, good).unwrap_or_else(|e| panic!("{} {op}: {e}", s.label));
    for (name, spoil) in spoils.iter().copied().flatten() {
        let mut parts = good;
        spoil(&mut parts);
        assert!(run(s, parts).is_err(), "{} {op}: accepted {name}", s.label);
    }
}

/// Three experts, of which each of five tokens has two.
pub fn wrong_operands_of_experts_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut rng = Rng::new(95);
    let mut bytes =
        |rows, cols| WeightBytes::new(&mut rng, Format::F16, rows, cols, Pattern::Random);
    let (right, narrow, low) = (bytes(3 * 4, 32), bytes(3 * 4, 16), bytes(3 * 2, 32));
    let good = Parts {
        lens: [5 * 3, 10, 10, 10],
        types: [F, I, F, F],
        id: 2,
        rows: 5,
        used: 2,
        experts: 3,
        scale: 1.0,
        weight: 0,
    };
    for s in subjects {
        refuses(
            s,
            "route_topk",
            good,
            &[&COMMON[..2], &COMMON[3..5], &COMMON[6..], WEIGHTS, ROUTES],
            |s, z| {
                let [scores, mut ids, mut weights, _] = buffers(s, &z);
                let Parts { rows, experts, used, scale, .. } = z;
                let (scores, ids, weights) = (&scores, &mut ids, &mut weights);
                let normalize = true;
                let p = RouteTopk { scores, rows, experts, used, normalize, scale, ids, weights };
                s.backend.route_topk(&mut s.stream, p)
            },
        );
        let gates = [
            s.pack_stack(&right, 3),
            s.pack_stack(&narrow, 3),
            s.pack_stack(&low, 3),
            s.pack_stack(&right, 4),
        ];
        let up = s.pack_stack(&right, 3);
        let lens = [5 * 32, 10, 10, 10 * 4];
        refuses(
            s,
            "expert_gated_linear",
            Parts { lens, ..good },
            &[COMMON, IDS, STACKS],
            |s, z| {
                let [input, ids, _, mut dst] = buffers(s, &z);
                let p = ExpertGatedLinear {
                    input: &input,
                    rows: z.rows,
                    ids: &ids,
                    used: z.used,
                    gate: &gates[z.weight],
                    up: &up,
                    activation: Activation::Silu,
                };
                s.backend.expert_gated_linear(&mut s.stream, &mut dst, &p)
            },
        );
        let lens = [10 * 32, 10, 10, 5 * 4];
        refuses(s, "expert_combine", Parts { lens, ..good }, &[COMMON, IDS, WEIGHTS], |s, z| {
            let [input, ids, weights, mut dst] = buffers(s, &z);
            let p = ExpertCombine {
                input: &input,
                rows: z.rows,
                ids: &ids,
                weights: &weights,
                used: z.used,
                weight: &up,
                accumulate: false,
            };
            s.backend.expert_combine(&mut s.stream, &mut dst, &p)
        });
    }
}

/// A stack is no matrix; nor can rows be shared out unequally. What a stack keeps is as promised.
pub fn stacks_are_refused_where_one_weight_is_meant<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut rng = Rng::new(96);
    for s in subjects {
        for format in Format::ALL {
            let cols = format.block_len() * 2;
            let bytes = WeightBytes::new(&mut rng, format, 6 * 9, cols, Pattern::Random);
            let stack = s.pack_stack(&bytes, 6);
            assert_eq!((stack.experts(), stack.rows(), stack.cols()), (6, 9, cols));
            let promised = 6 * s.backend.packed_bytes(format, 9, cols);
            assert_eq!(stack.resident_bytes(), promised, "{}: {format}", s.label);
            assert!(s.backend.check(&Need::ExpertLinear { format, cols }).is_ok());
            assert!(s.backend.check(&Need::ExpertLinear { format, cols: 0 }).is_err());

            let input = s.operand(&vec![0.0; cols]);
            let tokens = s.indices(&[0]);
            let mut dst = s.target(&vec![0.0; cols.max(9)]);
            let (b, stream) = (&s.backend, &mut s.stream);
            let p =
                Embed { table: &stack, tokens: &tokens, rows: 1, scale: 1.0, accumulate: false };
            assert!(b.embed(stream, &mut dst, &p).is_err(), "{}: embed {format}", s.label);
            let activation = Activation::Silu;
            let p = GatedLinear { input: &input, rows: 1, gate: &stack, up: &stack, activation };
            assert!(b.gated_linear(stream, &mut dst, &p).is_err(), "{}: {format}", s.label);
            let dst = &mut dst;
            let outputs =
                &mut [LinearOutput { weight: &stack, bias: None, dst, accumulate: false }];
            let refused = b.linear(stream, Linear { input: &input, rows: 1, outputs }).is_err();
            assert!(refused, "{}: linear {format}", s.label);

            let source = WeightSource::new(format, 54, cols, &bytes.data).expect("whole rows");
            for experts in [0, 4, 55, usize::MAX] {
                assert!(source.stacked(experts).is_err());
                let source = WeightSource { experts, ..source };
                assert!(s.backend.pack(&mut s.stream, &source).is_err(), "{}: {experts}", s.label);
            }
        }
    }
}
