//! Tests of the elementary functions against `f64`.

use super::*;

/// A lane function over a slice, for any instruction set.
macro_rules! apply {
    ($isa:expr, $f:ident, $x:expr) => {{
        struct Apply<'a>(&'a mut [f32]);
        impl Kernel for Apply<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self) {
                for x in self.0.as_chunks_mut::<LANES>().0 {
                    $f(S::load(x)).store(x);
                }
            }
        }
        $isa.dispatch(Apply($x))
    }};
}

fn inputs() -> Vec<f32> {
    (-40_000..40_000).map(|i| i as f32 * 0.0025 + 1e-4).collect()
}

/// Name, the function over a slice, the same in double precision, absolute error allowed.
type Function = (&'static str, fn(&mut [f32], Isa), fn(f64) -> f64, f64);

const FUNCTIONS: [Function; 4] = [
    (
        "exp",
        |x, isa| apply!(isa, exp, x),
        |x| x.clamp(f64::from(-87.3f32), f64::from(88.3f32)).exp(),
        0.0,
    ),
    ("tanh", |x, isa| apply!(isa, tanh, x), f64::tanh, 2e-7),
    ("silu", |x, isa| apply!(isa, silu, x), |x| x / (1.0 + (-x).exp()), 1e-30),
    (
        "gelu_tanh",
        |x, isa| apply!(isa, gelu_tanh, x),
        |x| {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / 2.0 * (1.0 + z.tanh())
        },
        // Far below zero the reference itself cancels.
        1e-15,
    ),
];

#[test]
fn close_to_double_precision() {
    for isa in Isa::available() {
        for (name, f, exact, absolute) in FUNCTIONS {
            let x = inputs();
            let mut y = x.clone();
            f(&mut y, isa);
            for (&x, &y) in x.iter().zip(&y) {
                let want = exact(f64::from(x));
                // Rounding of the argument of exp grows with it: x/2 ulp.
                let relative = if name == "exp" { 2e-7 } else { 6e-6 };
                let error = (f64::from(y) - want).abs();
                assert!(
                    error <= relative * want.abs() + absolute,
                    "{isa} {name}({x}) = {y}, not {want}"
                );
            }
        }
    }
}

#[test]
fn instruction_sets_agree_to_a_few_ulp() {
    for (name, f, _, absolute) in FUNCTIONS {
        let x = inputs();
        let mut want = x.clone();
        f(&mut want, Isa::Portable);
        for isa in Isa::available() {
            let mut y = x.clone();
            f(&mut y, isa);
            for ((&x, &y), &want) in x.iter().zip(&y).zip(&want) {
                let error = (y - want).abs();
                assert!(
                    error <= 6e-6 * want.abs() + absolute as f32,
                    "{isa} {name}({x}): {y}, {want}"
                );
            }
        }
    }
}

#[test]
fn special_values() {
    for isa in Isa::available() {
        let inf = f32::INFINITY;
        let mut x = [0.0, -0.0, inf, -inf, f32::NAN, 1000.0, -1000.0, 1.0];
        apply!(isa, exp, &mut x);
        assert_eq!(x[0], 1.0, "{isa}");
        assert_eq!(x[1], 1.0, "{isa}");
        assert!(x[2] > 1e38 && x[2].is_finite() && x[5] == x[2], "{isa}: {x:?}");
        assert!(x[3] < 2e-38 && x[6] == x[3], "{isa}: {x:?}");
        assert!(x[4].is_nan(), "{isa}: {x:?}");
        for (_, f, _, _) in FUNCTIONS {
            let mut x = [f32::NAN; 8];
            f(&mut x, isa);
            assert!(x.iter().all(|x| x.is_nan()), "{isa}");
        }
    }
}

#[test]
fn a_gate_does_not_depend_on_its_place() {
    for isa in Isa::available() {
        for activation in Activation::ALL {
            let x: Vec<f32> = (0..37).map(|i| (i as f32 * 0.71).sin() * 9.0).collect();
            let up: Vec<f32> = (0..37).map(|i| (i as f32 * 1.3).cos()).collect();
            let mut all = x.clone();
            gate(isa, activation, &mut all, &up);
            for start in 0..37 {
                let mut part = x[start..].to_vec();
                gate(isa, activation, &mut part, &up[start..]);
                assert_eq!(part, all[start..], "{isa} {activation:?} from {start}");
            }
            let mut all = x.clone();
            activate_all(isa, activation, &mut all);
            for start in 0..37 {
                let mut part = x[start..].to_vec();
                activate_all(isa, activation, &mut part);
                assert_eq!(part, all[start..], "{isa} {activation:?} alone, from {start}");
            }
        }
    }
}
