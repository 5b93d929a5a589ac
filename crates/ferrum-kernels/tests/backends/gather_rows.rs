//! `gather_rows`: values are copied, so they are the same to the bit.

use ferrum_kernels::Backend;
use ferrum_kernels::params::GatherRows;

use crate::common::Rng;
use crate::harness::{Report, Subject};

/// Every number of rows and width; rows that repeat.
pub fn gather_rows_of_every_shape<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(51);
    for width in [1, 3, 8, 100, 576] {
        for height in [1, 2, 7, 33] {
            for count in [0, 1, 2, 5, 40] {
                let values = rng.normals(height * width, 1.0);
                let rows: Vec<i32> = (0..count).map(|_| rng.below(height) as i32).collect();
                let want: Vec<f32> = (rows.iter())
                    .flat_map(|&r| &values[r as usize * width..][..width])
                    .copied()
                    .collect();
                for s in &mut *subjects {
                    let src = s.operand(&values);
                    let ids = s.indices(&rows);
                    let mut dst = s.target(&vec![0.0; count * width]);
                    let p = GatherRows { src: &src, rows: &ids, count, width };
                    s.backend.gather_rows(&mut s.stream, &mut dst, &p).expect("gather_rows");
                    let got = s.result(&dst, count * width);
                    report.compare(s, &(width, height, count), &got, &want, |_| 0.0);
                }
            }
        }
    }
    report.finish();
}
