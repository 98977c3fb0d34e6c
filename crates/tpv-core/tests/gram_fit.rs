//! Gram sums against sums formed entry by entry, and ridge fits against NumPy and closed forms.

use proptest::prelude::*;
use serde::Deserialize;
use tpv_core::fit::{FitError, Ridge, SolveMethod, covariance_direction, linear_figures};
use tpv_core::gram::{
    GramAccumulator, GramError, GramSums, LOG_REMAINING, PROGRESS, Parallelism, log_remaining_labels, progress_labels,
};

const SEQUENTIAL: Parallelism = Parallelism::Sequential;

/// Numbers in about -1 .. 1 that look random and need no generator.
fn noise(index: usize) -> f64 {
    ((index as f64 * 12.9898).sin() * 43758.5453).rem_euclid(2.0) - 1.0
}

fn states(rows: usize, width: usize) -> Vec<f32> {
    (0..rows * width).map(|i| (noise(i) + 0.3) as f32).collect()
}

fn labels(rows: usize) -> [Vec<f64>; 2] {
    [(0..rows).map(|i| noise(7 * i + 3)).collect(), (0..rows).map(|i| 5.0 + noise(11 * i)).collect()]
}

fn sums_of(rows: &[f32], width: usize, targets: &[Vec<f64>; 2]) -> GramSums {
    let mut sums = GramAccumulator::new(width, &["a", "b"], SEQUENTIAL).expect("the width is positive");
    sums.add_rows(rows, &[&targets[0], &targets[1]]).expect("the rows are finite");
    sums.finish()
}

/// All numbers of the sums in one list.
fn flat(sums: &GramSums) -> Vec<f64> {
    let parts = sums.to_parts();
    let mut all = [parts.gram_lower, parts.column_sums].concat();
    parts.targets.iter().for_each(|t| all.extend(t.cross.iter().chain([&t.sum, &t.sum_of_squares])));
    all
}

fn assert_close(a: &[f64], b: &[f64], relative: f64) {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0f64, |max, value| max.max(value.abs()));
    for (place, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= relative * scale, "at {place}: {x} and {y}");
    }
}

#[test]
fn sums_are_what_their_definition_says() {
    let (rows, width) = (23, 5);
    let (h, y) = (states(rows, width), labels(rows));
    let sums = sums_of(&h, width, &y);
    let state = |row: usize, column: usize| f64::from(h[row * width + column]);
    let over_rows = |f: &dyn Fn(usize) -> f64| (0..rows).map(f).sum::<f64>();
    for i in 0..width {
        for j in 0..width {
            assert!((sums.gram(i, j) - over_rows(&|row| state(row, i) * state(row, j))).abs() < 1e-12);
        }
        assert!((sums.column_sums()[i] - over_rows(&|row| state(row, i))).abs() < 1e-12);
        assert!((sums.target("b").unwrap().cross[i] - over_rows(&|row| state(row, i) * y[1][row])).abs() < 1e-11);
    }
    assert!((sums.target("b").unwrap().sum - over_rows(&|row| y[1][row])).abs() < 1e-11);
    assert!((sums.target("a").unwrap().sum_of_squares - over_rows(&|row| y[0][row].powi(2))).abs() < 1e-12);
    assert_eq!(sums.rows(), 23);
}

/// Widths that are a multiple of 512 have gaps between their columns.
#[test]
fn wide_sums_are_what_their_definition_says() {
    let (rows, width) = (700, 512);
    let (h, y) = (states(rows, width), labels(rows));
    let sums = sums_of(&h, width, &y);
    for (i, j) in [(0, 0), (511, 0), (511, 511), (300, 17), (256, 255)] {
        let expected: f64 = h.chunks(width).map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
        assert!((sums.gram(i, j) - expected).abs() < 1e-10, "{i}, {j}");
    }
    let expected: f64 = h.chunks(width).zip(&y[1]).map(|(row, label)| f64::from(row[77]) * label).sum();
    assert!((sums.target("b").unwrap().cross[77] - expected).abs() < 1e-9);
    let mut parts = sums_of(&h[..300 * width], width, &[y[0][..300].to_vec(), y[1][..300].to_vec()]);
    parts.merge(&sums_of(&h[300 * width..], width, &[y[0][300..].to_vec(), y[1][300..].to_vec()])).unwrap();
    assert_close(&flat(&parts), &flat(&sums), 1e-12);
    assert_eq!(flat(&GramSums::from_parts(sums.to_parts()).unwrap()), flat(&sums));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any order, any chunking, any sharding, any number of threads.
    #[test]
    fn sums_do_not_depend_on_how_the_rows_come(
        count in 1usize..1500, width in 1usize..40, chunk in 1usize..700, shift: usize, threaded: bool
    ) {
        let (h, y) = (states(count, width), labels(count));
        let parallelism = if threaded { Parallelism::All } else { SEQUENTIAL };
        let order: Vec<usize> = (0..count).map(|i| (i + shift % count) % count).rev().collect();
        let mut shards = vec![GramAccumulator::new(width, &["a", "b"], parallelism).unwrap(); 2];
        for (number, part) in order.chunks(chunk).enumerate() {
            let rows: Vec<f32> = part.iter().flat_map(|&i| &h[i * width..(i + 1) * width]).copied().collect();
            let targets = y.each_ref().map(|y| part.iter().map(|&i| y[i]).collect::<Vec<_>>());
            shards[number % 2].add_rows(&rows, &[&targets[0], &targets[1]]).unwrap();
        }
        let mut merged = shards.remove(0).finish();
        merged.merge(&shards.remove(0).finish()).unwrap();
        let whole = sums_of(&h, width, &y);
        prop_assert_eq!(merged.rows(), whole.rows());
        assert_close(&flat(&merged), &flat(&whole), 1e-10);
    }

    #[test]
    fn parts_and_back_is_the_same(count in 0usize..40, width in 1usize..9) {
        let parts = sums_of(&states(count, width), width, &labels(count)).to_parts();
        let again = GramSums::from_parts(parts.clone()).unwrap().to_parts();
        prop_assert_eq!(parts, again);
    }
}

#[test]
fn resuming_goes_on_from_where_it_was() {
    let (h, y) = (states(30, 4), labels(30));
    let first = sums_of(&h[..40], 4, &[y[0][..10].to_vec(), y[1][..10].to_vec()]);
    let mut rest = GramAccumulator::resume(first, SEQUENTIAL);
    rest.add_rows(&h[40..], &[&y[0][10..], &y[1][10..]]).unwrap();
    assert_eq!(rest.sums().rows(), 30);
    assert_close(&flat(rest.sums()), &flat(&sums_of(&h, 4, &y)), 1e-12);
}

#[test]
fn bad_rows_are_refused_whole() {
    let mut sums = GramAccumulator::new(2, &["y"], SEQUENTIAL).unwrap();
    let bad_state = sums.add_rows(&[0.0, 1.0, 2.0, f32::NAN], &[&[0.0, 1.0]]);
    assert_eq!(bad_state, Err(GramError::NonFiniteState { row: 1, column: 1 }));
    let bad_label = sums.add_rows(&[0.0; 4], &[&[0.0, f64::INFINITY]]);
    assert_eq!(bad_label, Err(GramError::NonFiniteTarget { target: "y".into(), row: 1 }));
    assert_eq!(sums.add_rows(&[0.0; 3], &[&[0.0]]), Err(GramError::RaggedRows { values: 3, width: 2 }));
    assert_eq!(sums.add_rows(&[0.0; 2], &[]), Err(GramError::TargetCount { expected: 1, got: 0 }));
    assert!(matches!(sums.add_rows(&[0.0; 4], &[&[0.0]]), Err(GramError::TargetLength { expected: 2, got: 1, .. })));
    assert_eq!(sums.finish().rows(), 0);
    assert_eq!(GramSums::new(0, &["y"]).unwrap_err(), GramError::NoWidth);
    assert_eq!(GramSums::new(1, &["y", "y"]).unwrap_err(), GramError::DuplicateTarget("y".into()));
}

#[test]
fn foreign_sums_are_refused() {
    let good = sums_of(&states(9, 3), 3, &labels(9));
    let mut other = GramSums::new(4, &["a", "b"]).unwrap();
    assert!(matches!(other.merge(&good), Err(GramError::Mismatch(_))));
    let mut renamed = GramSums::new(3, &["a", "c"]).unwrap();
    assert!(matches!(renamed.merge(&good), Err(GramError::Mismatch(_))));
    let parts = good.to_parts();
    let broken = |change: &dyn Fn(&mut tpv_core::gram::GramParts)| {
        let mut parts = parts.clone();
        change(&mut parts);
        GramSums::from_parts(parts).is_err()
    };
    assert!(broken(&|p| p.width = 0));
    assert!(broken(&|p| p.width = usize::MAX));
    assert!(broken(&|p| p.rows = 0));
    assert!(broken(&|p| p.gram_lower.truncate(5)));
    assert!(broken(&|p| p.gram_lower[0] = f64::NAN));
    assert!(broken(&|p| p.gram_lower[3] = -1.0)); // the second entry of the diagonal
    assert!(broken(&|p| p.targets[1].cross.push(0.0)));
    assert!(broken(&|p| p.targets[1].name = "a".into()));
    assert!(broken(&|p| p.targets[0].sum_of_squares = -1.0));
    assert!(!broken(&|_| ()));
}

#[test]
fn labels_follow_the_paper() {
    assert_eq!(progress_labels(4), [0.25, 0.5, 0.75, 1.0]);
    assert_close(&log_remaining_labels(3), &[3f64.ln(), 2f64.ln(), 0.0], 1e-15);
    assert!(progress_labels(0).is_empty() && log_remaining_labels(0).is_empty());
    assert_ne!(PROGRESS, LOG_REMAINING);
}

/// One fit made by `golden/ridge.py`.
#[derive(Deserialize)]
struct GoldenFit {
    width: usize,
    epsilon: f64,
    intercept: bool,
    /// Row after row.
    states: Vec<f32>,
    targets: Vec<Vec<f64>>,
    /// One per target.
    weights: Vec<Vec<f64>>,
    intercepts: Vec<f64>,
    train_mse: Vec<f64>,
    train_r2: Vec<f64>,
}

#[test]
fn fit_equals_numpy() {
    let golden: Vec<GoldenFit> = serde_json::from_str(include_str!("golden/ridge.json")).unwrap();
    assert!(golden.len() >= 4);
    for case in golden {
        let names = ["a", "b"];
        let mut sums = GramAccumulator::new(case.width, &names, SEQUENTIAL).unwrap();
        sums.add_rows(&case.states, &[&case.targets[0], &case.targets[1]]).unwrap();
        let ridge = Ridge { epsilon: case.epsilon, intercept: case.intercept };
        let fit = ridge.solve(sums.sums(), SEQUENTIAL).unwrap();
        assert_eq!(fit.report.method, SolveMethod::Cholesky);
        for (number, name) in names.iter().enumerate() {
            let head = fit.head(name).unwrap();
            assert_close(&head.weights, &case.weights[number], 1e-9);
            assert!((head.intercept - case.intercepts[number]).abs() < 1e-9);
            assert!((head.train.mse - case.train_mse[number]).abs() < 1e-9);
            assert!((head.train.r2.unwrap() - case.train_r2[number]).abs() < 1e-9);
        }
    }
}

#[test]
fn singular_sums_give_the_solution_of_minimum_norm() {
    // The second column repeats the first: y = 4 h_1 is 2 h_1 + 2 h_2 at least norm.
    let column = [0.5f32, -1.0, 2.0, 3.5, -0.25];
    let rows: Vec<f32> = column.iter().flat_map(|&value| [value, value]).collect();
    let y: Vec<f64> = column.iter().map(|&value| 4.0 * f64::from(value)).collect();
    let mut sums = GramAccumulator::new(2, &["y"], SEQUENTIAL).unwrap();
    sums.add_rows(&rows, &[&y]).unwrap();
    for (epsilon, intercept) in [(1e-14, false), (0.0, false), (0.0, true)] {
        let fit = Ridge { epsilon, intercept }.solve(sums.sums(), SEQUENTIAL).unwrap();
        assert_eq!((fit.report.method, fit.report.rank), (SolveMethod::MinimumNorm, 1));
        assert!(fit.report.remark().unwrap().contains("1 of 2 directions"));
        assert_close(&fit.heads[0].weights, &[2.0, 2.0], 1e-9);
        assert!(fit.heads[0].train.mse < 1e-12);
    }
    let firm = Ridge { epsilon: 1e-3, intercept: false }.solve(sums.sums(), SEQUENTIAL).unwrap();
    assert_eq!(firm.report.method, SolveMethod::Cholesky);
    assert_eq!(firm.report.remark(), None);
}

#[test]
fn fewer_rows_than_columns_interpolates_at_least_norm() {
    // Minimum norm means theta = H^T c for some c: it lies in the span of the rows.
    let (rows, width) = (6, 15);
    let (h, y) = (states(rows, width), labels(rows));
    let barely = Ridge { epsilon: 1e-14, intercept: false };
    let fit = barely.solve(&sums_of(&h, width, &y), SEQUENTIAL).unwrap();
    assert_eq!((fit.report.method, fit.report.rank), (SolveMethod::MinimumNorm, rows));
    let head = fit.head("a").unwrap();
    for (row, label) in h.chunks(width).zip(&y[0]) {
        assert!((head.predict(row) - label).abs() < 1e-8);
    }
    let basis = orthonormal_rows(&h, width);
    let mut outside = head.weights.clone();
    for direction in &basis {
        let along: f64 = direction.iter().zip(&head.weights).map(|(d, w)| d * w).sum();
        outside.iter_mut().zip(direction).for_each(|(value, d)| *value -= along * d);
    }
    assert!(outside.iter().all(|value| value.abs() < 1e-9), "{outside:?}");
}

fn orthonormal_rows(h: &[f32], width: usize) -> Vec<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in h.chunks(width) {
        let mut direction: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        for earlier in &basis {
            let along: f64 = earlier.iter().zip(&direction).map(|(e, d)| e * d).sum();
            direction.iter_mut().zip(earlier).for_each(|(d, e)| *d -= along * e);
        }
        let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        basis.push(direction.iter().map(|d| d / norm).collect());
    }
    basis
}

#[test]
fn columns_of_very_different_size_are_no_reason_to_give_up() {
    // Unscaled, the condition is 1e20; scaled, it is small.
    let rows: Vec<f32> = states(200, 2).chunks(2).flat_map(|pair| [pair[0] * 1e5, pair[1] * 1e-5]).collect();
    let y: Vec<f64> = rows.chunks(2).map(|h| 2e-5 * f64::from(h[0]) + 3e5 * f64::from(h[1])).collect();
    let mut sums = GramAccumulator::new(2, &["y"], SEQUENTIAL).unwrap();
    sums.add_rows(&rows, &[&y]).unwrap();
    let fit = Ridge { epsilon: 0.0, intercept: false }.solve(sums.sums(), SEQUENTIAL).unwrap();
    assert_eq!(fit.report.method, SolveMethod::Cholesky);
    assert!((fit.heads[0].weights[0] / 2e-5 - 1.0).abs() < 1e-9);
    assert!((fit.heads[0].weights[1] / 3e5 - 1.0).abs() < 1e-9);
}

#[test]
fn figures_from_sums_equal_figures_from_rows() {
    let (rows, width) = (50, 4);
    let (h, y) = (states(rows, width), labels(rows));
    let sums = sums_of(&h, width, &y);
    let (weights, intercept) = ([0.2, -1.0, 0.5, 0.1], 0.7);
    let figures = linear_figures(&sums, "b", &weights, intercept).unwrap();
    let predict = |h: &[f32]| h.iter().zip(&weights).map(|(&h, w)| f64::from(h) * w).sum::<f64>() + intercept;
    let error: f64 = h.chunks(width).zip(&y[1]).map(|(h, y)| (predict(h) - y).powi(2)).sum();
    let mean = y[1].iter().sum::<f64>() / rows as f64;
    let spread: f64 = y[1].iter().map(|y| (y - mean).powi(2)).sum();
    assert!((figures.mse - error / rows as f64).abs() < 1e-10);
    assert!((figures.r2.unwrap() - (1.0 - error / spread)).abs() < 1e-9);
    let covariance = covariance_direction(&sums, "b").unwrap();
    for (column, value) in covariance.iter().enumerate() {
        let mean_state = h.chunks(width).map(|h| f64::from(h[column])).sum::<f64>() / rows as f64;
        let pairs = h.chunks(width).zip(&y[1]);
        let exact = pairs.map(|(h, y)| (f64::from(h[column]) - mean_state) * (y - mean)).sum::<f64>() / rows as f64;
        assert!((value - exact).abs() < 1e-12);
    }
}

#[test]
fn a_constant_target_has_no_r2() {
    let mut sums = GramAccumulator::new(1, &["y"], SEQUENTIAL).unwrap();
    sums.add_rows(&[1.0, 2.0, 3.0], &[&[0.1, 0.1, 0.1]]).unwrap();
    assert_eq!(linear_figures(sums.sums(), "y", &[0.0], 0.1).unwrap().r2, None);
}

#[test]
fn fits_without_sense_are_refused() {
    let empty = GramSums::new(2, &["y"]).unwrap();
    assert_eq!(Ridge::default().solve(&empty, SEQUENTIAL).unwrap_err(), FitError::NoRows);
    assert_eq!(covariance_direction(&empty, "y").unwrap_err(), FitError::NoRows);
    let sums = sums_of(&states(5, 2), 2, &labels(5));
    let negative = Ridge { epsilon: -1.0, intercept: false };
    assert_eq!(negative.solve(&sums, SEQUENTIAL).unwrap_err(), FitError::Epsilon(-1.0));
    assert_eq!(linear_figures(&sums, "a", &[1.0], 0.0).unwrap_err(), FitError::Width { expected: 2, got: 1 });
    assert!(matches!(covariance_direction(&sums, "c"), Err(FitError::Sums(GramError::UnknownTarget { .. }))));
}
