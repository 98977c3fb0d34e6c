//! Linear quantile regression: the weights w for which `x . w` lies above a given share of the targets.
//!
//! Minimises the pinball loss with a small ridge,
//!
//! ```text
//! sum_i rho_q(y_i - x_i . w) + lambda/4 n |w|^2,     rho_q(e) = e (q - [e < 0])
//! ```
//!
//! (the first column, a constant, is not penalised) by majorisation (Hunter and Lange 2000): `|e| <= e^2/(2c) + c/2`
//! with `c = eps + |e|` of the round before makes every round a weighted least-squares problem. eps shrinks from round
//! to round, so that the first ones move far and the last ones find the quantile.

use super::features::FEATURES;
use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatRef, Par, Side};

/// One row of standardised columns.
pub type Row = [f64; FEATURES];

const ROUNDS: i32 = 24;
/// Rows that are multiplied at once; their products stay in the cache.
const BLOCK_ROWS: usize = 256;
const FIRST_SOFTENING: f64 = 1.0;
const SOFTENING_DECAY: f64 = 0.7;
const LAST_SOFTENING: f64 = 1e-3;

/// The weights of the `quantile` (in (0, 1)) of `targets` given `rows`, starting at `start`. `None` when the rows are
/// too few or too alike to solve for the weights.
pub fn fit_quantile(rows: &[Row], targets: &[f64], quantile: f64, ridge: f64, start: &Row) -> Option<Row> {
    let mut weights = *start;
    for round in 0..ROUNDS {
        let softening = LAST_SOFTENING + FIRST_SOFTENING * SOFTENING_DECAY.powi(round);
        weights = improve(rows, targets, quantile, ridge, softening, &weights)?;
    }
    weights.iter().all(|w| w.is_finite()).then_some(weights)
}

/// One round: the weighted least-squares problem that majorises the loss at `weights`.
fn improve(rows: &[Row], targets: &[f64], quantile: f64, ridge: f64, softening: f64, weights: &Row) -> Option<Row> {
    // X' [C X | C y + (q - 1/2)] with the rows X and C = diag(1 / 2c): the matrix and the right-hand side at once.
    let mut sums: Mat<f64> = Mat::zeros(FEATURES, FEATURES + 1);
    for (rows, targets) in rows.chunks(BLOCK_ROWS).zip(targets.chunks(BLOCK_ROWS)) {
        let share = |(row, target): (&Row, &f64)| 0.5 / (softening + (target - dot(row, weights)).abs());
        let share: Vec<f64> = rows.iter().zip(targets).map(share).collect();
        let right = Mat::from_fn(rows.len(), FEATURES + 1, |i, a| match a {
            FEATURES => share[i] * targets[i] + (quantile - 0.5),
            a => share[i] * rows[i][a],
        });
        let block = MatRef::from_row_major_slice(rows.as_flattened(), rows.len(), FEATURES);
        matmul(&mut sums, Accum::Add, block.transpose(), &right, 1.0, Par::Seq);
    }
    let penalty = 0.5 * ridge * rows.len() as f64;
    let left = Mat::from_fn(FEATURES, FEATURES, |a, b| {
        sums[(a.max(b), a.min(b))]
            + if a != b {
                0.0
            } else if a == 0 {
                1e-9
            } else {
                penalty
            }
    });
    let solution = left.llt(Side::Lower).ok()?.solve(Mat::from_fn(FEATURES, 1, |a, _| sums[(a, FEATURES)]));
    Some(std::array::from_fn(|a| solution[(a, 0)]))
}

/// The dot product of two rows.
pub fn dot(a: &Row, b: &Row) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
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

    #[test]
    fn no_rows_give_no_fit() {
        assert_eq!(fit_quantile(&[], &[], 0.5, 0.0, &[0.0; FEATURES]), None);
    }
}
