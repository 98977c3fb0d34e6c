//! Linear quantile regression: the weights w for which `x . w` lies above a given share of the targets.
//!
//! Minimises the pinball loss with a small ridge,
//!
//! ```text
//! sum_i rho_q(y_i - x_i . w) + lambda/4 n |w|^2,     rho_q(e) = |e| / 2 + (q - 1/2) e
//! ```
//!
//! (the first column, a constant, is not penalised) where `|e|` is rounded off within `eps` of zero:
//! `e^2 / (2 eps) + eps/2`, the mean of `|e - u|` over u in [-eps, eps]. The rounded loss has a gradient everywhere and
//! constant curvature within the band, so Newton's method with an exact line search finds its minimum in a few steps. Only
//! rows inside the band enter the curvature. eps shrinks from level to level, and all levels but the last look at every
//! eighth row alone: they only bring the last one near.

use super::features::FEATURES;
use crate::registers::empty_upper_halves;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatRef, Par, Side};

/// One row of standardised columns.
pub type Row = [f64; FEATURES];

/// Half the width of the band, from level to level.
const LEVELS: [f64; 4] = [1.0, 0.3, 0.1, 0.05];
/// That of the last level. For targets that are logarithms of tokens: 2 %.
const LAST_LEVEL: f64 = 0.02;
/// Rows that the levels before the last skip on to the next one; with fewer than so many for each column, none are skipped.
const THINNING: usize = 8;
const LEAST_ROWS: usize = 100 * FEATURES;
/// Newton steps of a level: the first ones need not arrive.
const STEPS: usize = 6;
const LAST_STEPS: usize = 60;
/// A level has arrived when the next step is expected to lower the mean loss by less.
const TOLERANCE: f64 = 1e-9;
/// Rows that are multiplied at once.
const BLOCK_ROWS: usize = 256;

/// The weights of the `quantile` (in (0, 1)) of `targets` given `rows`, starting at `start`. `None` when the rows are
/// too few or too alike to solve for the weights.
pub fn fit_quantile(rows: &[Row], targets: &[f64], quantile: f64, ridge: f64, start: &Row) -> Option<Row> {
    let stride = if rows.len() >= THINNING * LEAST_ROWS { THINNING } else { 1 };
    let some_rows: Vec<Row> = rows.iter().step_by(stride).copied().collect();
    let some_targets: Vec<f64> = targets.iter().step_by(stride).copied().collect();
    let near = Problem::new(&some_rows, &some_targets, quantile, ridge)?;
    let all = Problem::new(rows, targets, quantile, ridge)?;
    let start = LEVELS.iter().try_fold(*start, |weights, &band| near.minimise(band, &weights, STEPS))?;
    let weights = all.minimise(LAST_LEVEL, &start, LAST_STEPS)?;
    weights.iter().all(|w| w.is_finite()).then_some(weights)
}

/// What is minimised.
struct Problem<'a> {
    rows: &'a [Row],
    targets: &'a [f64],
    quantile: f64,
    /// Curvature of the ridge, `lambda n / 2`.
    penalty: f64,
    /// The slope of the loss on the side of zero where most errors lie.
    usual_slope: f64,
    /// The gradient if all errors lay there: `-usual_slope X' 1`.
    usual_gradient: Row,
}

impl<'a> Problem<'a> {
    /// `None` without rows.
    fn new(rows: &'a [Row], targets: &'a [f64], quantile: f64, ridge: f64) -> Option<Self> {
        let usual_slope = if quantile < 0.5 { quantile } else { quantile - 1.0 };
        let mut usual_gradient = [0.0; FEATURES];
        rows.iter().for_each(|row| add_multiple(&mut usual_gradient, -usual_slope, row));
        let penalty = 0.5 * ridge * rows.len() as f64;
        (!rows.is_empty()).then_some(Self { rows, targets, quantile, penalty, usual_slope, usual_gradient })
    }

    /// Newton's method on the loss that is rounded off within `band` of zero; `None` when a step cannot be solved for.
    fn minimise(&self, band: f64, start: &Row, steps: usize) -> Option<Row> {
        let mut weights = *start;
        let mut errors: Vec<f64> =
            self.rows.iter().zip(self.targets).map(|(row, target)| target - dot(row, &weights)).collect();
        for _ in 0..steps {
            let (gradient, curvature) = self.derivatives(band, &errors, &weights);
            let step = curvature.llt(Side::Lower).ok()?.solve(Mat::from_fn(FEATURES, 1, |a, _| -gradient[a]));
            empty_upper_halves();
            let step: Row = std::array::from_fn(|a| step[(a, 0)]);
            let slope = dot(&gradient, &step);
            if -slope <= TOLERANCE * self.rows.len() as f64 {
                break;
            }
            let moves: Vec<f64> = self.rows.iter().map(|row| dot(row, &step)).collect();
            let (mut inner, mut length) = (weights, step);
            (inner[0], length[0]) = (0.0, 0.0);
            let (inner, length) = (dot(&inner, &length), dot(&length, &length));
            let slope_at = |t: f64| {
                let of_errors: f64 = errors.iter().zip(&moves).map(|(e, m)| m * self.slope(e - t * m, band)).sum();
                self.penalty * (inner + t * length) - of_errors
            };
            let t = root(slope, slope_at);
            add_multiple(&mut weights, t, &step);
            errors.iter_mut().zip(&moves).for_each(|(error, m)| *error -= t * m);
        }
        Some(weights)
    }

    /// The derivative of the rounded loss at an error.
    fn slope(&self, error: f64, band: f64) -> f64 {
        0.5 * (error / band).clamp(-1.0, 1.0) + (self.quantile - 0.5)
    }

    /// Gradient and, in its lower triangle, curvature at `weights`, where the errors are `errors`.
    fn derivatives(&self, band: f64, errors: &[f64], weights: &Row) -> (Row, Mat<f64>) {
        let mut gradient = self.usual_gradient;
        let mut curvature: Mat<f64> = Mat::zeros(FEATURES, FEATURES);
        let mut inside: Vec<Row> = Vec::with_capacity(BLOCK_ROWS);
        for (row, &error) in self.rows.iter().zip(errors) {
            let slope = self.slope(error, band);
            if slope != self.usual_slope {
                add_multiple(&mut gradient, self.usual_slope - slope, row);
            }
            if error.abs() < band {
                inside.push(*row);
                if inside.len() == BLOCK_ROWS {
                    add_squares(&mut curvature, &inside, 0.5 / band);
                    inside.clear();
                }
            }
        }
        add_squares(&mut curvature, &inside, 0.5 / band);
        // The constant has no ridge; where no row is inside, its step must still be finite.
        curvature[(0, 0)] += 1e-6 * self.rows.len() as f64;
        for a in 1..FEATURES {
            gradient[a] += self.penalty * weights[a];
            curvature[(a, a)] += self.penalty;
        }
        (gradient, curvature)
    }
}

/// Adds `factor X' X` to the lower triangle of `squares`.
fn add_squares(squares: &mut Mat<f64>, rows: &[Row], factor: f64) {
    let rows = MatRef::from_row_major_slice(rows.as_flattened(), rows.len(), FEATURES);
    let (whole, lower) = (BlockStructure::Rectangular, BlockStructure::TriangularLower);
    triangular::matmul(squares, lower, Accum::Add, rows.transpose(), whole, rows, whole, factor, Par::Seq);
    empty_upper_halves();
}

/// Where a rising function, negative at 0, is nearly zero: within a hundredth of its value there.
fn root(at_zero: f64, value: impl Fn(f64) -> f64) -> f64 {
    let near = 0.01 * at_zero.abs();
    let (mut low, mut high) = ((0.0, at_zero), (1.0, value(1.0)));
    while high.1 < -near && high.0 < 64.0 {
        low = high;
        high = (2.0 * high.0, value(2.0 * high.0));
    }
    // Regula falsi; an end that stays counts half (the Illinois rule), so that the other one comes near, too.
    for _ in 0..40 {
        if high.1 <= near {
            break;
        }
        let t = low.0 + (high.0 - low.0) * low.1 / (low.1 - high.1);
        let found = (t, value(t));
        if found.1.abs() <= near {
            return t;
        }
        if found.1 < 0.0 {
            low = found;
            high.1 *= 0.5;
        } else {
            high = found;
            low.1 *= 0.5;
        }
    }
    high.0
}

fn add_multiple(sum: &mut Row, factor: f64, row: &Row) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
}

/// The dot product of two rows.
pub fn dot(a: &Row, b: &Row) -> f64 {
    // Four sums at a time, which the compiler turns into vector instructions.
    let mut sums = [0.0; 4];
    let (a, b) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a.zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows with a constant and one varying column; the rest is zero and held by the ridge.
    fn rows(n: usize) -> Vec<Row> {
        (0..n)
            .map(|k| {
                let mut row = [0.0; FEATURES];
                row[0] = 1.0;
                row[1] = (k % 7) as f64 - 3.0;
                row
            })
            .collect()
    }

    #[test]
    fn a_constant_fit_is_the_empirical_quantile() {
        let rows: Vec<Row> = rows(1001)
            .into_iter()
            .map(|mut row| {
                row[1] = 0.0;
                row
            })
            .collect();
        let targets: Vec<f64> = (0..1001).map(|k| f64::from(k * 389 % 1001) / 125.0).collect(); // 0 ..= 8
        for quantile in [0.05, 0.5, 0.93] {
            let weights = fit_quantile(&rows, &targets, quantile, 1e-6, &[0.0; FEATURES]).expect("solvable");
            // Half a percent of the targets lie between the two.
            assert!((weights[0] - 8.0 * quantile).abs() < 0.005 * 8.0, "{quantile}: {}", weights[0]);
        }
    }

    #[test]
    fn the_share_below_is_the_quantile_on_a_slope_with_growing_spread() {
        let rows = rows(7 * 400);
        let spread = |k: usize| ((k * 7919) % 1000) as f64 / 1000.0;
        let targets: Vec<f64> =
            rows.iter().enumerate().map(|(k, row)| 2.0 * row[1] + spread(k) * (4.0 + row[1])).collect();
        for quantile in [0.1, 0.5, 0.9] {
            let weights = fit_quantile(&rows, &targets, quantile, 1e-9, &[0.0; FEATURES]).expect("solvable");
            // The true quantile is 2 x + q (4 + x).
            assert!((weights[1] - (2.0 + quantile)).abs() < 0.03, "{quantile}: slope {}", weights[1]);
            assert!((weights[0] - 4.0 * quantile).abs() < 0.05, "{quantile}: constant {}", weights[0]);
        }
    }

    /// The loss as it is defined, not rounded off, per row.
    fn loss(rows: &[Row], targets: &[f64], quantile: f64, ridge: f64, weights: &Row) -> f64 {
        let pinball = |(row, target): (&Row, &f64)| {
            let error = target - row.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
            error * (quantile - f64::from(u8::from(error < 0.0)))
        };
        let squares: f64 = weights[1..].iter().map(|w| w * w).sum();
        rows.iter().zip(targets).map(pinball).sum::<f64>() / rows.len() as f64 + 0.25 * ridge * squares
    }

    /// Correlated columns, skewed noise that grows; from a bad start, on few rows and on so many that they are thinned.
    #[test]
    fn no_step_lowers_the_loss_as_it_is_defined() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for count in [2_000, 20_000] {
            let mut rows = Vec::new();
            let mut targets = Vec::new();
            for _ in 0..count {
                let common = uniform() - 0.5;
                let row: Row =
                    std::array::from_fn(|k| if k == 0 { 1.0 } else { 2.0 * common + 3.0 * (uniform() - 0.5) });
                targets.push(3.0 + row[1] - row[5] + (1.5 + common) * -uniform().ln());
                rows.push(row);
            }
            for quantile in [0.03, 0.5, 0.93] {
                let ridge = 1e-4;
                let weights = fit_quantile(&rows, &targets, quantile, ridge, &[2.0; FEATURES]).expect("solvable");
                let best = loss(&rows, &targets, quantile, ridge, &weights);
                for k in 0..FEATURES {
                    for step in [-0.1, -0.02, 0.02, 0.1] {
                        let mut other = weights;
                        other[k] += step;
                        let other = loss(&rows, &targets, quantile, ridge, &other);
                        assert!(best < other + 1e-4, "{count} rows, {quantile}, column {k} {step:+}: {best}, {other}");
                    }
                }
                let below = rows.iter().zip(&targets).filter(|(row, target)| dot(row, &weights) > **target).count();
                assert!((below as f64 / f64::from(count) - quantile).abs() < 0.005, "{quantile}: {below} of {count}");
            }
        }
    }

    #[test]
    fn a_root_is_found_whether_near_or_far() {
        for (at, steep) in [(0.001, 1.0), (0.3, 200.0), (1.0, 1.0), (20.0, 0.01)] {
            let value = |t: f64| (steep * (t - at)).tanh();
            let t = root(value(0.0), value);
            assert!(value(t).abs() <= 0.0101 * value(0.0).abs(), "{at}: {t}");
        }
    }

    #[test]
    fn no_rows_give_no_fit() {
        assert_eq!(fit_quantile(&[], &[], 0.5, 0.0, &[0.0; FEATURES]), None);
    }
}
