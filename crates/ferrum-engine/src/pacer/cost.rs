//! A linear model of step times, learnt as they are measured.

/// Quantities that a step's time depends on, the constant one included.
pub(super) const FEATURES: usize = 5;

/// What an observation keeps of its weight with each one that follows: the last 50 count.
const MEMORY: f64 = 0.98;
/// How strongly weights stay where they are, relative to what the observations say of the constant
/// part: what a run of alike steps says nothing about does not move. So little, because a step that
/// takes a hundred times as long as those before it must still count.
const INERTIA: f64 = 1e-5;
/// How much of a change of speed is followed at once.
const FOLLOW: f64 = 0.25;
/// A step counts as at most this many times slower or faster than expected.
const SURPRISE: f64 = 3.0;

type Vector = [f64; FEATURES];

/// `seconds = slowdown · weights · features`, with no weight below 0.
///
/// Least squares of the relative error, with a forgetting factor (recursive least squares; e.g.
/// Ljung, System Identification, 1999, section 11.2), in the form of decayed normal equations that
/// are solved anew each time: five unknowns cost nothing, and a proximal term keeps the weights
/// where the observations leave them open. Relative errors keep a step that was held up by
/// something else from counting for much; but they would also make it slow to see that the machine
/// has become slower. So the recent ratio of seconds to expectation is a factor of its own, and the
/// weights learn what it leaves unexplained.
#[derive(Debug, Clone, Default)]
pub(super) struct CostModel {
    weights: Vector,
    /// Logarithm of the recent slowdown.
    slowdown: f64,
    /// Decayed sum of `x xᵀ / seconds²`.
    gram: [Vector; FEATURES],
    /// Decayed sum of `x / seconds`.
    target: Vector,
}

impl CostModel {
    /// Cost of a unit of each quantity in seconds.
    pub(super) fn weights(&self) -> Vector {
        self.weights.map(|w| w * self.slowdown.exp())
    }

    pub(super) fn predict(&self, x: &Vector) -> f64 {
        self.slowdown.exp() * self.expected(x)
    }

    fn expected(&self, x: &Vector) -> f64 {
        self.weights.iter().zip(x).map(|(w, x)| w * x).sum()
    }

    /// Learns that `x` took `seconds`, which are above 0.
    pub(super) fn observe(&mut self, x: &Vector, seconds: f64) {
        let expected = self.expected(x);
        if expected > 0.0 {
            let surprise = (seconds / expected).clamp(1.0 / SURPRISE, SURPRISE).ln();
            self.slowdown += FOLLOW * (surprise - self.slowdown);
        }
        let seconds = seconds / self.slowdown.exp();
        for i in 0..FEATURES {
            for j in 0..FEATURES {
                self.gram[i][j] = MEMORY * self.gram[i][j] + x[i] * x[j] / (seconds * seconds);
            }
            self.target[i] = MEMORY * self.target[i] + x[i] / seconds;
        }
        let solved = self.solve();
        if solved.iter().all(|w| w.is_finite()) {
            self.weights = solved;
        }
    }

    /// The weights of least error, without those that would be below 0.
    fn solve(&self) -> Vector {
        let inertia = INERTIA * self.gram[0][0];
        let mut used = [true; FEATURES];
        loop {
            let mut a = self.gram;
            let mut b = self.target;
            for i in 0..FEATURES {
                a[i][i] += inertia;
                b[i] += inertia * self.weights[i];
                if !used[i] {
                    // Its equation becomes w = 0.
                    (a[i], b[i]) = ([0.0; FEATURES], 0.0);
                    a[i][i] = 1.0;
                }
            }
            let solved = eliminate(a, b);
            let negative = (0..FEATURES).filter(|&i| used[i] && solved[i] < 0.0);
            match negative.min_by(|&i, &j| solved[i].total_cmp(&solved[j])) {
                Some(worst) => used[worst] = false,
                None => return solved.map(|w| w.max(0.0)),
            }
        }
    }
}

/// Solves `a · x = b` by Gaussian elimination. Without pivots: but for rows that say `x = 0`, `a`
/// is symmetric and positive definite.
fn eliminate(mut a: [Vector; FEATURES], mut b: Vector) -> Vector {
    for k in 0..FEATURES {
        for i in k + 1..FEATURES {
            let (factor, row) = (a[i][k] / a[k][k], a[k]);
            a[i].iter_mut().zip(row).for_each(|(value, above)| *value -= factor * above);
            b[i] -= factor * b[k];
        }
    }
    for k in (0..FEATURES).rev() {
        let known: f64 = (k + 1..FEATURES).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k][k];
    }
    b
}
