//! Weights whose columns are in another order than the values of an input: the same results, to the bit,
//! as with the values brought into that order beforehand.

use ferrum_kernels::params::{Activation, Embed, GatedLinear, Linear, LinearOutput};
use ferrum_kernels::{Backend, DType, Format, PackedWeight, WeightSource};

use crate::common::{Pattern, Rng, WeightBytes};
use crate::harness::{Report, Subject, oracle};
use crate::linear::{self, F32_ERROR, Inputs, Output, noise};

const COLS: usize = 256;

/// An order of columns, or none.
type Order = Option<Vec<u32>>;

fn order(rng: &mut Rng) -> Order {
    let mut columns: Vec<u32> = (0..COLS as u32).collect();
    rng.shuffle(&mut columns);
    Some(columns)
}

fn pack<B: Backend>(s: &mut Subject<B>, w: &WeightBytes, order: &Order) -> B::Weight {
    let source = WeightSource::new(w.format, w.rows, w.cols, &w.data).expect("whole rows");
    let source = source.ordered(order.as_deref()).expect("an order");
    s.backend.pack(&mut s.stream, &source).expect("packed")
}

/// The rows of an input in an order.
fn arranged(x: &[f32], order: &Order) -> Vec<f32> {
    let Some(columns) = order else { return x.to_vec() };
    let row = |x: &[f32]| -> Vec<f32> { columns.iter().map(|&c| x[c as usize]).collect() };
    x.chunks_exact(COLS).flat_map(row).collect()
}

/// Three outputs of one input: those of one order side by side, and of others.
pub fn outputs_of_several_orders<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(31);
    for format in [Format::Q4_Z, Format::Q4_0, Format::Q8_0, Format::F16, Format::F32] {
        let [a, b] = [order(&mut rng), order(&mut rng)];
        let orders =
            [[a.clone(), a.clone(), a.clone()], [a.clone(), b.clone(), None], [None, b, a]];
        for (orders, rows) in orders.iter().zip([1, 9, 33]) {
            let x = Inputs::Normal.make(&mut rng, rows * COLS);
            let outputs = [24, 17, 8].map(|n| Output {
                weight: WeightBytes::new(&mut rng, format, n, COLS, Pattern::Random),
                bias: Some(rng.normals(n, 1.0)),
                before: rng.normals(rows * n, 1.0),
                accumulate: n == 17,
            });
            let mut o = oracle();
            let pairs = outputs.iter().zip(orders);
            let packed: Vec<_> =
                pairs.clone().map(|(out, order)| pack(&mut o, &out.weight, order)).collect();
            let want = linear::run(&mut o, rows, &x, &outputs, &packed);
            for s in &mut *subjects {
                let packed: Vec<_> =
                    pairs.clone().map(|(out, order)| pack(s, &out.weight, order)).collect();
                let got = linear::run(s, rows, &x, &outputs, &packed);
                for (i, (out, order)) in pairs.clone().enumerate() {
                    let (case, x) = ((format, rows, i), arranged(&x, order));
                    let noise = noise(&out.weight, &x);
                    let rest = |at: usize| F32_ERROR * f64::from(out.before[at].abs() + 4.0);
                    report.compare(s, &case, &got[i], &want[i], |at| noise[at].bound + rest(at));
                    let plain = s.pack(&out.weight);
                    let same = linear::run(s, rows, &x, std::slice::from_ref(out), &[plain]);
                    report.compare(s, &case, &got[i], &same[0], |_| 0.0);
                }
            }
        }
    }
    report.finish();
}

/// A gate and an up-projection of one order, of two, and one of them without: as their products by
/// themselves, which [`outputs_of_several_orders`] has checked.
pub fn gates_of_several_orders<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut report = Report::new();
    let mut rng = Rng::new(32);
    let (a, b) = (order(&mut rng), order(&mut rng));
    for (of_gate, of_up) in [(&a, &a), (&a, &b), (&a, &None), (&None, &b)] {
        for (rows, formats) in [(1, [Format::Q4_Z; 2]), (33, [Format::Q4_0, Format::F16])] {
            let n = 40;
            let x = Inputs::Normal.make(&mut rng, rows * COLS);
            let [gate, up] =
                formats.map(|f| WeightBytes::new(&mut rng, f, n, COLS, Pattern::Random));
            for s in &mut *subjects {
                let (gate, up) = (pack(s, &gate, of_gate), pack(s, &up, of_up));
                let input = s.operand(&x);
                let mut dst = s.target(&vec![f32::NAN; rows * n]);
                let activation = Activation::Relu;
                let p = GatedLinear { input: &input, rows, gate: &gate, up: &up, activation };
                s.backend.gated_linear(&mut s.stream, &mut dst, &p).expect("gated_linear");
                let got = s.result(&dst, rows * n);
                let (mut gates, mut ups) =
                    (s.target(&vec![0.0; rows * n]), s.target(&vec![0.0; rows * n]));
                let outputs = &mut [(&gate, &mut gates), (&up, &mut ups)].map(|(weight, dst)| {
                    LinearOutput { weight, bias: None, dst, accumulate: false }
                });
                let p = Linear { input: &input, rows, outputs };
                s.backend.linear(&mut s.stream, p).expect("linear");
                let (gates, ups) = (s.result(&gates, rows * n), s.result(&ups, rows * n));
                let want: Vec<f32> = gates.iter().zip(&ups).map(|(g, u)| g.max(0.0) * u).collect();
                let case = (rows, formats, of_gate.is_some(), of_up.is_some());
                // Products that were rounded before they are multiplied.
                report.compare(s, &case, &got, &want, |i| 1e-6 * f64::from(want[i]).abs());
            }
        }
    }
    report.finish();
}

/// What is no order of the columns, and where none is honoured.
pub fn wrong_orders_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    let mut rng = Rng::new(33);
    let w = WeightBytes::new(&mut rng, Format::Q4_Z, 8, COLS, Pattern::Random);
    let right = order(&mut rng).expect("an order");
    let changed = |at: usize, column: u32| {
        let mut columns = right.clone();
        columns[at] = column;
        columns
    };
    let wrong = [right[1..].to_vec(), changed(3, right[4]), changed(0, COLS as u32), vec![]];
    for s in subjects {
        let source = WeightSource::new(w.format, w.rows, w.cols, &w.data).expect("whole rows");
        for columns in &wrong {
            assert!(source.ordered(Some(columns)).is_err());
            let source = WeightSource { columns: Some(columns), ..source };
            assert!(s.backend.pack(&mut s.stream, &source).is_err(), "{}", s.label);
        }
        let stack = WeightSource { columns: Some(&right), experts: 2, ..source };
        assert!(s.backend.pack(&mut s.stream, &stack).is_err(), "{}: a stack", s.label);

        let table = pack(s, &w, &Some(right.clone()));
        let tokens = s.indices(&[3]);
        let mut dst = s.backend.alloc(DType::F32, COLS).expect("memory");
        let p = Embed { table: &table, tokens: &tokens, rows: 1, scale: 1.0, accumulate: false };
        let done = s.backend.embed(&mut s.stream, &mut dst, &p).is_ok();
        // The oracle has brought the columns in order.
        assert_eq!(done, table.columns().is_none(), "{}: embed", s.label);
        let bytes = s.backend.packed_bytes(w.format, w.rows, w.cols);
        let of_columns = table.columns().map_or(0, size_of_val);
        assert_eq!(table.resident_bytes(), bytes + of_columns, "{}", s.label);
    }
}
