//! Weights in E4M3 with a number for each row: on backends that have them.
//!
//! The bounds are those of the other formats of single numbers: of [`crate::linear`] where inputs are as
//! they are, of [`crate::dense`] where they may be rounded.

use ferrum_kernels::{Backend, Format, Need, PackedWeight};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::Subject;
use crate::{dense, embed, experts, gated_linear, invariance, linear};

const FORMAT: [Format; 1] = [Format::F8_E4M3];

/// Around the tiles of kernels, and a whole prefill chunk.
const ROWS: [usize; 8] = [1, 3, 8, 9, 23, 64, 65, 130];

pub fn fp8_linear<B: Backend>(subjects: &mut [Subject<B>]) {
    linear::linear_of_shapes(subjects, &FORMAT, &[1, 17, 130], &ROWS);
}

pub fn fp8_gated_linear<B: Backend>(subjects: &mut [Subject<B>]) {
    gated_linear::gated_linear_of_shapes(subjects, &FORMAT, &[1, 48], &ROWS);
}

pub fn fp8_experts<B: Backend>(subjects: &mut [Subject<B>]) {
    experts::expert_gated_linear_of(subjects, &FORMAT);
    experts::expert_combine_of(subjects, &FORMAT);
}

pub fn fp8_embed<B: Backend>(subjects: &mut [Subject<B>]) {
    embed::embed_of(subjects, &FORMAT);
}

pub fn fp8_rows_are_independent<B: Backend>(subjects: &mut [Subject<B>]) {
    invariance::linear_rows_of(subjects, &FORMAT, 8, &[1, 3]);
    invariance::linear_rows_of(subjects, &FORMAT, 37, &[9]);
    invariance::linear_rows_of(subjects, &FORMAT, 140, &[65]);
}

/// By a library of dense products, or not where rows or columns are no multiples of 16 bytes.
pub fn fp8_linear_of_many_tokens<B: Backend>(subjects: &mut [Subject<B>]) {
    let shapes = [(1, 1), (17, 33), (48, 31), (132, 96), (16, 576)];
    dense::many_tokens(subjects, &FORMAT, &shapes, &[65, 70, 131]);
    dense::many_tokens(subjects, &FORMAT, &[(64, 128)], &[512]);
}

pub fn fp8_linear_of_unlike_tokens<B: Backend>(subjects: &mut [Subject<B>]) {
    dense::unlike_tokens(subjects, &FORMAT);
}

pub fn fp8_linear_of_what_is_no_number<B: Backend>(subjects: &mut [Subject<B>]) {
    dense::what_is_no_number(subjects, &FORMAT);
}

pub fn fp8_gated_linear_of_many_tokens<B: Backend>(subjects: &mut [Subject<B>]) {
    let with = |other| [Format::F8_E4M3, other];
    dense::gates_of_many_tokens(subjects, &[Format::F8_E4M3, Format::F16, Format::Q8_0].map(with));
}

/// A card whose tensor cores have no such numbers takes the weights as they are, and rounds nothing.
pub fn fp8_is_not_rounded<B: Backend>(subjects: &mut [Subject<B>]) {
    let (rows, mut rng) = (70, Rng::new(6));
    let weight = WeightBytes::new(&mut rng, Format::F8_E4M3, 16, 64, Pattern::Random);
    let (x, before) = (rng.normals(rows * 64, 1.0), vec![0.0; rows * 16]);
    for s in subjects {
        assert!(!s.backend.keeps_e4m3(), "{}", s.label);
        let rounded = s.backend.pack(&mut s.stream, &weight.source().rounded()).unwrap();
        let packed = [s.pack(&weight), rounded];
        let output = linear::Output {
            weight: weight.clone(),
            bias: None,
            before: before.clone(),
            accumulate: false,
        };
        let results = linear::run(s, rows, &x, &[output.clone(), output], &packed);
        assert_eq!(results[0], results[1], "{}", s.label);
    }
}

/// What is no number, or does not fit; and what memory a weight takes.
pub fn fp8_weights_are_checked<B: Backend>(subjects: &mut [Subject<B>]) {
    let right = WeightBytes::new(&mut Rng::new(5), Format::F8_E4M3, 6, 33, Pattern::Random);
    for s in subjects {
        s.backend.check(&Need::Linear { format: right.format, cols: right.cols }).unwrap();
        let packed = s.backend.pack(&mut s.stream, &right.source()).unwrap();
        let promised = s.backend.packed_bytes(right.format, right.rows, right.cols);
        assert_eq!(packed.resident_bytes(), promised, "{}", s.label);
        assert_eq!(packed.format(), Format::F8_E4M3);

        let (source, mut data) = (right.source(), right.data.clone());
        data[70] = 0xff;
        let infinite = [1.0, 2.0, f32::INFINITY, 1.0, 2.0, 3.0];
        let halves = WeightBytes::new(&mut Rng::new(5), Format::F16, 6, 33, Pattern::Random);
        let mut wrong = [source; 5];
        wrong[0].data = &data;
        wrong[1].scales = None;
        wrong[2].scales = Some(&right.scales[..5]);
        wrong[3].scales = Some(&infinite);
        wrong[4] = halves.source();
        wrong[4].scales = Some(&right.scales);
        for (i, wrong) in wrong.iter().enumerate() {
            assert!(s.backend.pack(&mut s.stream, wrong).is_err(), "{}: {i}", s.label);
        }
    }
}

/// Where there are no kernels they are refused by name.
pub fn fp8_is_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    let weight = WeightBytes::new(&mut Rng::new(5), Format::F8_E4M3, 6, 32, Pattern::Random);
    for s in subjects {
        assert!(!s.backend.keeps_e4m3(), "{}", s.label);
        let refused = s.backend.check(&Need::Linear { format: weight.format, cols: 32 });
        let packed = s.backend.pack(&mut s.stream, &weight.source()).map(|_| ());
        for refused in [refused, s.backend.check(&Need::Embed(weight.format)), packed] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("F8_E4M3"), "{}: {error}", s.label);
        }
    }
}
