//! `attention` in its rarer forms: sinks, and values that are a part of the keys.

use ferrum_kernels::params::KvValues;
use ferrum_kernels::{Backend, KvDType};

use crate::attention::{Case, check, run};
use crate::common::Rng;
use crate::harness::{Report, Subject};

/// Sinks among the scores, below them and far above, with whatever else becomes of scores; few tokens
/// and many, short contexts and long ones.
pub fn attention_with_sinks<B: Backend>(subjects: &mut [Subject<B>]) {
    let mixes: [&[(usize, usize)]; 4] = [
        &[(0, 1), (40, 3), (31, 1), (0, 33)],
        &[(1199, 1), (3, 1), (500, 20), (640, 7)],
        &[(0, 70)],
        &[(2047, 1)],
    ];
    let mut report = Report::new();
    let mut rng = Rng::new(65);
    let mut turn = 0;
    for (kv, head_dim) in [
        (KvDType::F16, 64),
        (KvDType::F16, 256),
        (KvDType::F16, 80),
        (KvDType::F32, 128),
        (KvDType::Q8_0, 96),
        (KvDType::Q8_0, 256),
        (KvDType::BF16, 128),
        (KvDType::Fp8E4M3, 64),
    ] {
        for level in [0.0, -30.0, 60.0, 3000.0] {
            for seqs in mixes {
                turn += 1;
                let c = Case {
                    kv,
                    head_dim,
                    values: KvValues::Own,
                    kv_heads: [1, 2][turn % 2],
                    group: [1, 3, 8][turn % 3],
                    scale: 2.0,
                    window: [None, Some(300), Some(5)][turn / 2 % 3],
                    softcap: [None, Some(3.0)][turn / 3 % 2],
                    sinks: Some(level),
                    seqs: seqs.to_vec(),
                };
                check(&mut report, subjects, &mut rng, &c);
            }
        }
    }
    report.finish();
}

/// Values that are a part of the keys: widths, types and grouping, of DeepSeek-V2's widths too, with few
/// tokens and many, short contexts and long ones.
pub fn attention_to_prefixes_of_keys<B: Backend>(subjects: &mut [Subject<B>]) {
    let shapes: [(usize, usize, &[usize]); 5] = [
        (96, 64, &[1, 3, 16]),
        (64, 64, &[4]),
        (320, 256, &[2]),
        (576, 512, &[16]),
        (64, 32, &[7, 40]),
    ];
    let mixes: [&[(usize, usize)]; 4] = [
        &[(0, 1), (40, 3), (31, 1), (0, 33)],
        &[(600, 1), (3, 1), (300, 12)],
        &[(63, 1), (64, 1), (10, 2)],
        &[(0, 35), (511, 2)],
    ];
    let mut report = Report::new();
    let mut rng = Rng::new(67);
    let mut turn = 0;
    for kv in KvDType::ALL {
        for (head_dim, value_dim, groups) in shapes {
            for (&group, seqs) in groups.iter().flat_map(|g| mixes.iter().map(move |m| (g, m))) {
                turn += 1;
                let c = Case {
                    kv,
                    head_dim,
                    values: KvValues::PrefixOfKey(value_dim),
                    kv_heads: [1, 1, 2][turn % 3],
                    group,
                    scale: 1.0,
                    window: [None, None, Some(70)][turn / 4 % 3],
                    softcap: [None, Some(3.0)][turn / 5 % 2],
                    sinks: [None, Some(1.0)][turn / 3 % 2],
                    seqs: seqs.to_vec(),
                };
                check(&mut report, subjects, &mut rng, &c);
            }
        }
    }
    // DeepSeek-V2's 128 heads over one; and few values.
    let latent = Case {
        values: KvValues::PrefixOfKey(512),
        group: 128,
        seqs: vec![(700, 1), (250, 3)],
        ..Case::plain(KvDType::F16, 576)
    };
    let values = KvValues::PrefixOfKey(32);
    let seqs = vec![(150, 11), (300, 1), (0, 17)];
    let windowed = Case { group: 20, window: Some(100), sinks: Some(1.0), seqs, ..latent.clone() };
    let small = Case { head_dim: 48, values, group: 5, ..latent.clone() };
    for c in [latent, windowed, small] {
        check(&mut report, subjects, &mut rng, &c);
    }
    report.finish();
}

/// Sinks far below all scores, and those of minus infinity, change no bit.
pub fn sinks_that_are_nothing<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(66);
    for kv in KvDType::ALL {
        for level in [-1e30, f32::NEG_INFINITY] {
            let c = Case {
                kv_heads: 2,
                group: 2,
                sinks: Some(level),
                seqs: vec![(0, 40), (700, 1), (90, 2)],
                ..Case::plain(kv, 64)
            };
            let w = c.world(&mut rng);
            let mut without = w.clone();
            without.sinks = None;
            for s in &mut *subjects {
                let (got, want) = (run(s, &c, &w), run(s, &c, &without));
                report.compare(s, &(kv, level), &got, &want, |_| 0.0);
            }
        }
    }
    report.finish();
}
