//! A backend under test, guarded buffers, and the comparison with the oracle.

use std::fmt::Debug;

use ferrum_kernels::reference::Reference;
use ferrum_kernels::{Backend, DType, StepBatch, StepCapacity, StepInput};

use crate::common::WeightBytes;

/// Every buffer is longer than the operation needs by this, as the contract allows.
const GUARD: usize = 37;
/// What lies behind results, and must stay.
const SENTINEL: f32 = 1.25e30;

/// A backend under test with its stream.
pub struct Subject<B: Backend> {
    pub label: String,
    pub backend: B,
    pub stream: B::Stream,
}

/// The oracle.
pub fn oracle() -> Subject<Reference> {
    Subject::new("oracle".into(), Reference::new())
}

impl<B: Backend> Subject<B> {
    pub fn new(label: String, backend: B) -> Self {
        let stream = backend.stream().expect("a stream");
        Subject { label, backend, stream }
    }

    fn floats(&mut self, values: &[f32], guard: f32) -> B::Buffer {
        let mut all = values.to_vec();
        all.resize(values.len() + GUARD, guard);
        let mut buffer = self.backend.alloc(DType::F32, all.len()).expect("memory");
        self.backend.upload_f32(&mut self.stream, &all, &mut buffer).expect("fits");
        buffer
    }

    /// An operand; behind it lies what would be seen in any result.
    pub fn operand(&mut self, values: &[f32]) -> B::Buffer {
        self.floats(values, f32::NAN)
    }

    /// An operand of exactly this length, for those whose length means something.
    pub fn exact(&mut self, values: &[f32]) -> B::Buffer {
        let mut buffer = self.backend.alloc(DType::F32, values.len()).expect("memory");
        self.backend.upload_f32(&mut self.stream, values, &mut buffer).expect("fits");
        buffer
    }

    /// Where a result goes, with what was there before.
    pub fn target(&mut self, values: &[f32]) -> B::Buffer {
        self.floats(values, SENTINEL)
    }

    /// A result of `len` values; what lies behind it must be as before.
    pub fn result(&mut self, buffer: &B::Buffer, len: usize) -> Vec<f32> {
        let mut all = vec![0.0; len + GUARD];
        self.backend.download_f32(&mut self.stream, buffer, &mut all).expect("fits");
        assert!(all[len..].iter().all(|&v| v == SENTINEL), "{} wrote past the end", self.label);
        all.truncate(len);
        all
    }

    /// Indices; behind them lies what no operation may accept.
    pub fn indices(&mut self, values: &[i32]) -> B::Buffer {
        let mut all = values.to_vec();
        all.resize(values.len() + GUARD, i32::MIN);
        let mut buffer = self.backend.alloc(DType::I32, all.len()).expect("memory");
        self.backend.upload_i32(&mut self.stream, &all, &mut buffer).expect("fits");
        buffer
    }

    pub fn pack(&mut self, w: &WeightBytes) -> B::Weight {
        self.backend.pack(&mut self.stream, &w.source()).expect("packed")
    }

    /// A stack of `experts` matrices that share out the rows.
    pub fn pack_stack(&mut self, w: &WeightBytes, experts: usize) -> B::Weight {
        let source = w.source().stacked(experts).expect("equal shares");
        self.backend.pack(&mut self.stream, &source).expect("packed")
    }

    /// A step on the device, checked as an engine would.
    pub fn batch(
        &mut self,
        step: &StepInput,
        cap: &StepCapacity,
        blocks: usize,
    ) -> StepBatch<B::Buffer> {
        step.validate(cap, blocks, usize::MAX).expect("a good step");
        let mut batch = StepBatch::new(&self.backend, cap).expect("memory");
        batch.upload(&self.backend, &mut self.stream, step).expect("fits");
        batch
    }
}

/// Failures of a suite, gathered so that one run shows them all.
pub struct Report {
    failures: Vec<String>,
    cases: usize,
    /// Largest error, of its bound.
    largest: f64,
}

impl Report {
    pub fn new() -> Self {
        Report { failures: Vec::new(), cases: 0, largest: 0.0 }
    }

    /// Compares each value with the oracle's; `bound` gives the largest error allowed.
    pub fn compare<B: Backend>(
        &mut self,
        subject: &Subject<B>,
        case: &impl Debug,
        got: &[f32],
        want: &[f32],
        bound: impl Fn(usize) -> f64,
    ) {
        self.cases += 1;
        assert_eq!(got.len(), want.len());
        let error = |i: usize| (f64::from(got[i]) - f64::from(want[i])).abs();
        // A result that is no number is within no bound.
        let within = |i: usize| error(i) <= bound(i);
        let wrong: Vec<usize> = (0..got.len()).filter(|&i| !within(i)).collect();
        let share = |i: usize| if error(i) == 0.0 { 0.0 } else { error(i) / bound(i) };
        self.largest = (0..got.len()).map(share).fold(self.largest, f64::max);
        let Some(&first) = wrong.first() else { return };
        let excess = |&i: &usize| if error(i).is_nan() { f64::MAX } else { share(i) };
        let worst = wrong.iter().copied().max_by(|a, b| excess(a).total_cmp(&excess(b)));
        let worst = worst.unwrap_or(first);
        self.failures.push(format!(
            "{}: {case:?}: {} of {} values; first [{first}] {} not {}; worst [{worst}] {} not {}, \
             error {:.3e}, bound {:.3e}",
            subject.label,
            wrong.len(),
            got.len(),
            got[first],
            want[first],
            got[worst],
            want[worst],
            error(worst),
            bound(worst),
        ));
    }

    /// Notes a failure that is no wrong value.
    pub fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// Panics with what failed.
    pub fn finish(self) {
        println!("{} cases, largest error {:.3} of its bound", self.cases, self.largest);
        let shown = self.failures.len().min(12);
        assert!(
            self.failures.is_empty(),
            "{} of {} cases failed:\n{}",
            self.failures.len(),
            self.cases,
            self.failures[..shown].join("\n")
        );
    }
}
