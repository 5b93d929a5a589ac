//! Cases small enough to be worked out by hand, for the oracle above all.

use ferrum_kernels::params::{
    Activate, Activation, Attention, Embed, GatedLinear, GatherRows, KvSpec, KvValues, KvWrite,
    LayerNorm, Linear, LinearOutput, PackedAttention, RmsNorm, Rope, RopeInput, RopeStyle,
};
use ferrum_kernels::{Backend, KvDType, StepCapacity, StepInput};

use crate::common::WeightBytes;
use crate::harness::Subject;

/// An unquantised weight, `values.len() / cols` rows.
fn weight(cols: usize, values: &[f32]) -> WeightBytes {
    WeightBytes::floats(cols, values)
}

fn close(label: &str, what: &str, got: &[f32], want: &[f32]) {
    let near = |(g, w): (&f32, &f32)| (g - w).abs() <= 1e-6 * w.abs().max(1.0);
    let all = got.len() == want.len() && got.iter().zip(want).all(near);
    assert!(all, "{label}: {what}: {got:?}, not {want:?}");
}

/// Every operation on a handful of numbers.
pub fn worked_by_hand<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        products(s);
        norms(s);
        encoders(s);
        rotations(s);
        attention(s);
        half_precision(s);
        bfloat16(s);
        floats_of_eight_bits(s);
        bytes_with_scales(s);
    }
}

fn products<B: Backend>(s: &mut Subject<B>) {
    let label = s.label.clone();
    let w = s.pack(&weight(2, &[1.0, 2.0, -3.0, 0.5, 4.0, 0.0]));
    let x = s.operand(&[10.0, 1.0, -2.0, 4.0]);
    let bias = s.operand(&[0.5, 0.0, -1.0]);
    let mut y = s.target(&[100.0; 6]);
    let outputs =
        &mut [LinearOutput { weight: &w, bias: Some(&bias), dst: &mut y, accumulate: true }];
    s.backend.linear(&mut s.stream, Linear { input: &x, rows: 2, outputs }).unwrap();
    close(&label, "linear", &s.result(&y, 6), &[112.5, 70.5, 139.0, 106.5, 108.0, 91.0]);

    let mut y = s.target(&[100.0; 6]);
    let outputs = &mut [LinearOutput { weight: &w, bias: None, dst: &mut y, accumulate: false }];
    s.backend.linear(&mut s.stream, Linear { input: &x, rows: 1, outputs }).unwrap();
    let got = s.result(&y, 6);
    close(&label, "linear of one row", &got, &[12.0, -29.5, 40.0, 100.0, 100.0, 100.0]);

    // silu(2) = 2 / (1 + e^-2); gelu(1) = (1 + tanh(0.7978845608 · 1.044715)) / 2
    let (gate, up) = (s.pack(&weight(1, &[2.0, -1.0])), s.pack(&weight(1, &[3.0, 5.0])));
    let one = s.operand(&[1.0]);
    for (activation, want) in [
        (Activation::Silu, [3.0 * 1.761_594_2, -5.0 * 0.268_941_42]),
        (Activation::GeluTanh, [3.0 * 1.954_597_7, -5.0 * 0.158_808_01]),
    ] {
        let mut y = s.target(&[0.0; 2]);
        let p = GatedLinear { input: &one, rows: 1, gate: &gate, up: &up, activation };
        s.backend.gated_linear(&mut s.stream, &mut y, &p).unwrap();
        close(&label, "gated_linear", &s.result(&y, 2), &want);
    }

    let tokens = s.indices(&[2, 0]);
    let mut y = s.target(&[0.0; 4]);
    let p = Embed { table: &w, tokens: &tokens, rows: 2, scale: 2.0, accumulate: false };
    s.backend.embed(&mut s.stream, &mut y, &p).unwrap();
    close(&label, "embed", &s.result(&y, 4), &[8.0, 0.0, 2.0, 4.0]);

    let mut y = s.target(&[0.0; 4]);
    let rows = s.indices(&[1, 0]);
    let p = GatherRows { src: &x, rows: &rows, count: 2, width: 2 };
    s.backend.gather_rows(&mut s.stream, &mut y, &p).unwrap();
    close(&label, "gather_rows", &s.result(&y, 4), &[-2.0, 4.0, 10.0, 1.0]);
}

fn norms<B: Backend>(s: &mut Subject<B>) {
    // The mean square of (1, 7) is 25.
    let weight = s.operand(&[2.0, 1.0]);
    let src = s.operand(&[1.0, 7.0, 0.0, 0.0]);
    for (eps, accumulate, want) in [
        (0.0, false, [0.4, 1.4, 0.0, 0.0]),
        (75.0, false, [0.2, 0.7, 0.0, 0.0]),
        (75.0, true, [10.2, 10.7, 10.0, 10.0]),
    ] {
        let groups = if eps == 0.0 { 1 } else { 2 };
        let mut y = s.target(&[if accumulate { 10.0 } else { 0.0 }; 4]);
        let p = RmsNorm { src: Some(&src), weight: &weight, groups, width: 2, eps, accumulate };
        s.backend.rms_norm(&mut s.stream, &mut y, &p).unwrap();
        close(&s.label.clone(), "rms_norm", &s.result(&y, 4), &want);
    }
}

fn encoders<B: Backend>(s: &mut Subject<B>) {
    let label = s.label.clone();
    // Mean 2, variance 1; mean -1, variance 4 (and eps 0).
    let src = s.operand(&[1.0, 3.0, -3.0, 1.0]);
    let (weight, bias) = (s.operand(&[2.0, 3.0]), s.operand(&[0.5, -1.0]));
    let mut y = s.target(&[0.0; 4]);
    let (src, weight, bias) = (Some(&src), &weight, &bias);
    let p = LayerNorm { src, weight, bias, groups: 2, width: 2, eps: 0.0 };
    s.backend.layer_norm(&mut s.stream, &mut y, &p).unwrap();
    close(&label, "layer_norm", &s.result(&y, 4), &[-1.5, 2.0, -1.5, 2.0]);

    // Φ(1) = 0.8413447461, Φ(-2) = 0.0227501319
    for (activation, want) in [
        (Activation::Gelu, [0.841_345, -0.045_500_264, 0.0]),
        (Activation::Relu, [1.0, 0.0, 0.0]),
        (Activation::Silu, [0.731_058_6, -0.238_405_84, 0.0]),
    ] {
        let mut y = s.target(&[1.0, -2.0, 0.0]);
        let p = Activate { rows: 3, width: 1, activation };
        s.backend.activate(&mut s.stream, &mut y, &p).unwrap();
        close(&label, "activate", &s.result(&y, 3), &want);
    }

    // Two sequences: weights 1 : 2 for the first token, 2 : 1 for the second; and one alone.
    let ln2 = std::f32::consts::LN_2;
    let row = |xs: [f32; 3]| xs.iter().flat_map(|&x| [x; 8]).collect::<Vec<_>>();
    let (q, k) = (s.operand(&row([1.0, -1.0, 5.0])), s.operand(&row([0.0, ln2, 9.0])));
    let (v, starts) = (s.operand(&row([3.0, 6.0, -7.0])), s.indices(&[0, 2, 3]));
    let mut y = s.target(&[0.0; 24]);
    let p = PackedAttention {
        q: &q,
        k: &k,
        v: &v,
        query_starts: &starts,
        tokens: 3,
        seqs: 2,
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        scale: 1.0 / 8.0,
    };
    s.backend.packed_attention(&mut s.stream, &mut y, &p).unwrap();
    close(&label, "packed_attention", &s.result(&y, 24), &row([5.0, 4.0, -7.0]));
}

fn rotations<B: Backend>(s: &mut Subject<B>) {
    // Position 0: by 0 and 0; position 1: by 90 and 180 degrees. The fifth value stays.
    let table = s.exact(&[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, -1.0, 0.0]);
    let positions = s.indices(&[1, 0]);
    let x: Vec<f32> = (1..=10).map(|i| i as f32).collect();
    for (style, want) in [
        (RopeStyle::Split, [-3.0, -2.0, 1.0, -4.0, 5.0]),
        (RopeStyle::Interleaved, [-2.0, 1.0, -3.0, -4.0, 5.0]),
    ] {
        let mut y = s.target(&x);
        let p = Rope {
            positions: &positions,
            table: &table,
            rows: 2,
            head_dim: 5,
            rotary_dim: 4,
            style,
            eps: 0.0,
            inputs: &mut [RopeInput { x: &mut y, heads: 1, norm: None }],
        };
        s.backend.rope(&mut s.stream, p).unwrap();
        let want = [want, [6.0, 7.0, 8.0, 9.0, 10.0]].concat();
        close(&s.label.clone(), "rope", &s.result(&y, 10), &want);
    }
}

/// One sequence of three tokens whose keys and values are all of one number a position.
fn three_tokens<B: Backend>(
    s: &mut Subject<B>,
    dtype: KvDType,
    keys: [f32; 3],
    values: [f32; 3],
    window: Option<usize>,
    softcap: Option<f32>,
    sink: Option<f32>,
) -> [f32; 3] {
    let dim = 32;
    let row = |xs: [f32; 3]| xs.iter().flat_map(|&x| [x; 32]).collect::<Vec<_>>();
    let step = StepInput {
        tokens: vec![0; 3],
        positions: vec![0, 1, 2],
        query_starts: vec![0, 3],
        kv_lens: vec![3],
        block_tables: vec![1],
        blocks_per_seq: 1,
        ..StepInput::default()
    };
    let cap = StepCapacity { tokens: 3, seqs: 1, blocks_per_seq: 1, samples: 1 };
    let batch = s.batch(&step, &cap, 2);
    let own = KvValues::Own;
    let spec = KvSpec { blocks: 2, kv_heads: 1, head_dim: dim, values: own, dtype };
    let mut kv = s.backend.kv_cache(&spec).unwrap();
    let (k, v) = (s.operand(&row(keys)), s.operand(&row(values)));
    let write = KvWrite { k: &k, v: Some(&v), batch: &batch };
    s.backend.kv_write(&mut s.stream, &mut kv, &write).unwrap();
    let q = s.operand(&row([1.0; 3]));
    let mut y = s.target(&[0.0; 96]);
    // 32 products of 1 · key: the score is the key.
    let scale = 1.0 / 32.0;
    let sinks = sink.map(|sink| s.operand(&[sink]));
    let (q, kv, batch, sinks) = (&q, &kv, &batch, sinks.as_ref());
    let p = Attention { q, kv, batch, heads: 1, scale, window, softcap, sinks };
    s.backend.attention(&mut s.stream, &mut y, &p).unwrap();
    let y = s.result(&y, 96);
    for row in y.chunks(dim) {
        let same = |&v: &f32| v == row[0] || v.is_nan() && row[0].is_nan();
        assert!(row.iter().all(same), "{}: {row:?}", s.label);
    }
    [y[0], y[32], y[64]]
}

fn attention<B: Backend>(s: &mut Subject<B>) {
    let label = s.label.clone();
    let (ln2, v) = (std::f32::consts::LN_2, [3.0, 6.0, 12.0]);
    let f32 = KvDType::F32;
    // Weights 1 : 2 : 1.
    let got = three_tokens(s, f32, [0.0, ln2, 0.0], v, None, None, None);
    close(&label, "attention", &got, &[3.0, 5.0, 6.75]);
    let got = three_tokens(s, f32, [0.0, ln2, 0.0], v, Some(2), None, None);
    close(&label, "attention with a window", &got, &[3.0, 5.0, 8.0]);
    let got = three_tokens(s, f32, [0.0, ln2, 0.0], v, Some(1), None, None);
    close(&label, "attention to itself", &got, &[3.0, 6.0, 12.0]);
    // 2·ln2 · tanh(x / (2·ln2)) = ln2 for x = 2·ln2 · atanh(1/2) = ln2 · ln3
    let key = ln2 * 3.0_f32.ln();
    let got = three_tokens(s, f32, [0.0, key, 0.0], v, None, Some(2.0 * ln2), None);
    close(&label, "attention with a soft cap", &got, &[3.0, 5.0, 6.75]);
    // Of the weights 1 : 2 : 1 and 2 nothing comes of the last, and neither factor nor soft cap is for it.
    let sink = Some(ln2);
    let got = three_tokens(s, f32, [0.0, ln2, 0.0], v, None, None, sink);
    close(&label, "attention with a sink", &got, &[1.0, 3.0, 4.5]);
    let got = three_tokens(s, f32, [0.0, ln2, 0.0], v, Some(2), None, sink);
    close(&label, "attention with a sink and a window", &got, &[1.0, 3.0, 4.8]);
    let got = three_tokens(s, f32, [0.0, key, 0.0], v, None, Some(2.0 * ln2), Some(3.0 * ln2));
    close(&label, "attention with a sink and a soft cap", &got, &[1.0 / 3.0, 15.0 / 11.0, 2.25]);
}

/// What bytes with scales keep of groups of one value: 127 times a scale in half precision.
fn bytes_with_scales<B: Backend>(s: &mut Subject<B>) {
    let label = s.label.clone();
    let ln2 = std::f32::consts::LN_2;
    let got = three_tokens(s, KvDType::Q8_0, [0.0; 3], [127.0, -63.5, 0.0], Some(1), None, None);
    assert_eq!(got, [127.0, -63.5, 0.0], "{label}");
    // The scales are 1/127 and 300/127, rounded to eleven bits.
    let got = three_tokens(s, KvDType::Q8_0, [0.0; 3], [1.0, 300.0, 1e-7], Some(1), None, None);
    assert_eq!(got, [127.0 * 1032.0 / 131_072.0, 127.0 * 1209.0 / 512.0, 0.0], "{label}");
    // Weights 1 : 2 : 1, as far as ln 2 survives.
    let key = 127.0 * half::f16::from_f32(ln2 / 127.0).to_f32();
    let got =
        three_tokens(s, KvDType::Q8_0, [0.0, ln2, 0.0], [127.0, 254.0, 508.0], None, None, None);
    let e = key.exp();
    let want = [127.0, (127.0 + 254.0 * e) / (1.0 + e), (635.0 + 254.0 * e) / (2.0 + e)];
    close(&label, "attention over bytes", &got, &want);
}

/// What half precision keeps of a value: to the nearest, ties to even, subnormals included.
fn half_precision<B: Backend>(s: &mut Subject<B>) {
    let label = s.label.clone();
    let values = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 2049.0];
    let got = three_tokens(s, KvDType::F16, [0.0; 3], values, Some(1), None, None);
    assert_eq!(got, [1.0, 1.0 + 2.0 / 1024.0, 2048.0], "{label}");
    let tiny = [2.0_f32.powi(-24), 3.0 * 2.0_f32.powi(-25), 2.0_f32.powi(-26)];
    let got = three_tokens(s, KvDType::F16, [0.0; 3], tiny, Some(1), None, None);
    assert_eq!(got, [2.0_f32.powi(-24), 2.0_f32.powi(-23), 0.0], "{label}");
}

/// What bfloat16 keeps of a value: eight bits, to the nearest, ties to even, and the range of single
/// precision.
fn bfloat16<B: Backend>(s: &mut Subject<B>) {
    let label = s.label.clone();
    let alone =
        |s: &mut _, values| three_tokens(s, KvDType::BF16, [0.0; 3], values, Some(1), None, None);
    let got = alone(s, [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -257.0]);
    assert_eq!(got, [1.0, 1.0 + 2.0 / 128.0, -256.0], "{label}");
    let wide = [2.0_f32.powi(100), 1.001 * 2.0_f32.powi(-100), 65537.0];
    assert_eq!(alone(s, wide), [2.0_f32.powi(100), 2.0_f32.powi(-100), 65536.0], "{label}");
    let got = alone(s, [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    assert!(got.iter().all(|v| !v.is_finite()), "{label}: {got:?}");
    // Weights 1 : 2 : 1, as far as ln 2 survives: 177/256.
    weights(s, KvDType::BF16, 177.0 / 256.0);
}

/// What floats of eight bits keep of a value: four bits, to the nearest, ties to even, up to ±448.
fn floats_of_eight_bits<B: Backend>(s: &mut Subject<B>) {
    let label = s.label.clone();
    let alone = |s: &mut _, values| {
        three_tokens(s, KvDType::Fp8E4M3, [0.0; 3], values, Some(1), None, None)
    };
    let got = alone(s, [1.0 + 1.0 / 16.0, 1.0 + 3.0 / 16.0, -17.5]);
    assert_eq!(got, [1.0, 1.25, -18.0], "{label}");
    let unit = 2.0_f32.powi(-9);
    assert_eq!(alone(s, [1.5 * unit, -0.5 * unit, -6.9 * unit]), [2.0 * unit, 0.0, -7.0 * unit]);
    assert_eq!(alone(s, [450.0, -1e9, 448.0]), [448.0, -448.0, 448.0], "{label}");
    let got = alone(s, [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    assert!(got.iter().all(|v| v.is_nan()), "{label}: {got:?}");
    // Of ln 2, 11/16.
    weights(s, KvDType::Fp8E4M3, 11.0 / 16.0);
}

/// Weights 1 : 2 : 1, where what is kept of ln 2 is `key`.
fn weights<B: Backend>(s: &mut Subject<B>, dtype: KvDType, key: f32) {
    let keys = [0.0, std::f32::consts::LN_2, 0.0];
    let got = three_tokens(s, dtype, keys, [3.0, 6.0, 12.0], None, None, None);
    let e = key.exp();
    let want = [3.0, (3.0 + 6.0 * e) / (1.0 + e), (15.0 + 6.0 * e) / (2.0 + e)];
    close(&s.label.clone(), &format!("attention over {dtype:?}"), &got, &want);
}
