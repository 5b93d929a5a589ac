//! `rms_norm`: widths of hidden states and of heads, in place, accumulated.
//!
//! The bound: 6e-7 of the value (and of what it is added to): a sum of squares, a root and two
//! products in single precision.

use ferrum_kernels::Backend;
use ferrum_kernels::params::RmsNorm;

use crate::common::Rng;
use crate::harness::{Report, Subject, oracle};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    InPlace,
    Overwrite,
    Accumulate,
}

struct Case {
    groups: usize,
    width: usize,
    eps: f32,
    mode: Mode,
    src: Vec<f32>,
    dst: Vec<f32>,
    weight: Vec<f32>,
}

fn run<B: Backend>(s: &mut Subject<B>, c: &Case) -> Vec<f32> {
    let weight = s.operand(&c.weight);
    let src = s.operand(&c.src);
    let mut dst = s.target(if c.mode == Mode::InPlace { &c.src } else { &c.dst });
    let p = RmsNorm {
        src: (c.mode != Mode::InPlace).then_some(&src),
        weight: &weight,
        groups: c.groups,
        width: c.width,
        eps: c.eps,
        accumulate: c.mode == Mode::Accumulate,
    };
    s.backend.rms_norm(&mut s.stream, &mut dst, &p).expect("rms_norm");
    s.result(&dst, c.groups * c.width)
}

/// Every number of groups, width, way, and magnitude.
pub fn rms_norm_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(31);
    for width in [1, 2, 3, 7, 8, 15, 16, 17, 32, 64, 100, 128, 256, 576, 640, 2049] {
        for groups in [0, 1, 2, 3, 5, 8, 33, 100] {
            for mode in [Mode::InPlace, Mode::Overwrite, Mode::Accumulate] {
                for scale in [1.0, 1e-4, 1e4] {
                    let len = groups * width;
                    let mut c = Case {
                        groups,
                        width,
                        eps: if width % 2 == 0 { 1e-5 } else { 1e-6 },
                        mode,
                        src: rng.normals(len, scale),
                        dst: rng.normals(len, 1.0),
                        weight: rng.normals(width, 1.0),
                    };
                    // A row of zeroes must not become anything else.
                    c.src.iter_mut().skip(width).take(width).for_each(|x| *x = 0.0);
                    let want = run(&mut oracle(), &c);
                    for s in &mut *subjects {
                        let got = run(s, &c);
                        let case = (groups, width, mode, scale);
                        report.compare(s, &case, &got, &want, |i| {
                            let before =
                                if mode == Mode::Accumulate { c.dst[i].abs() } else { 0.0 };
                            6e-7 * f64::from(want[i].abs() + before)
                        });
                    }
                }
            }
        }
    }
    report.finish();
}
