//! Calibration: how the two heads' values over time become time left with an interval, and through it progress.
//!
//! [`calibrate`] learns from finished thoughts of problems that the heads were *not* fitted on. Three linear quantile
//! regressions (3 %, 50 %, 93 %) of `y = ln(1 + remaining)` on the causal columns of [`features`](super::features) give
//! the low end, the median and the high end; the ends are then moved by the conformal [`Margins`] so that the interval
//! covers nine readings in ten on new problems. Progress follows from the median R of the remaining tokens,
//!
//! ```text
//! progress = j / (j + R)
//! ```
//!
//! which is itself a median, because it falls monotonically in R.

use super::conformal::{BINS, Margins, Score, margins};
use super::features::{FEATURES, FeatureFilter};
use super::heads::{HeadTrace, TooManyValues};
use super::quantile::{Row, dot, fit_quantile};
use super::verdict::StallMeter;
use super::{Estimate, PROGRESS_CEILING};
use crate::vector::ProgressVector;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Name of the calibration format.
pub const CALIBRATION_FORMAT: &str = "tpv-calibration";
/// Version of the calibration format; the columns' meaning belongs to it.
pub const CALIBRATION_VERSION: u32 = 1;
/// The share of readings whose interval holds the truth.
pub const COVERAGE: f64 = 0.9;
/// Fewer problems than this say nothing about new ones.
pub const LEAST_PROBLEMS: usize = 5;

const QUANTILES: [f64; 3] = [super::conformal::MISS_BELOW, 0.5, 1.0 - super::conformal::MISS_ABOVE];
const FOLDS: usize = 5;
/// More rows than this are thinned evenly: neighbours in a thought say nearly the same.
const MOST_ROWS: usize = 40_000;
/// Ridge strength per row times the number of problems; fewer problems, more ridge.
const RIDGE_PROBLEMS: f64 = 0.1;
/// The outer quantiles' ridge relative to the median's.
const OUTER_RIDGE: f64 = 0.2;
/// Predictions stay below this multiple of the longest calibrating thought.
const LONGEST_MULTIPLE: f64 = 4.0;
/// A pause without progress counts as a stall when it is this much longer than any calibrating thought's.
const STALL_MULTIPLE: f64 = 1.25;

/// Why there is no calibration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CalibrationError {
    /// Not enough different problems.
    #[error(
        "calibration needs finished thoughts of at least {LEAST_PROBLEMS} problems, got {got}; generate more problems"
    )]
    TooFewProblems {
        /// Problems with a finished thought.
        got: usize,
    },
    /// Too many values for the length.
    #[error(transparent)]
    Length(#[from] TooManyValues),
    /// The weights could not be solved for.
    #[error("the heads' values of the calibrating thoughts are too few or too alike to fit to")]
    Degenerate,
    /// Some other format or version, or damaged content.
    #[error("the vector's calibration cannot be read: {0}; calibrate it again")]
    Unreadable(String),
}

/// What [`calibrate`] learned; lies as JSON in [`ProgressVector::calibration`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// [`CALIBRATION_FORMAT`].
    pub format: String,
    /// [`CALIBRATION_VERSION`].
    pub version: u32,
    /// The share of readings whose interval holds the truth, 0.9.
    pub coverage: f64,
    /// Problems learned from.
    pub problems: usize,
    /// The lengths of those thoughts in tokens, ascending; also what the baselines know.
    pub lengths: Vec<u32>,
    /// Weights of the low end, the median and the high end of `ln(1 + remaining)`.
    pub weights: [Row; 3],
    /// The conformal margins.
    pub margins: Margins,
    /// Tokens without a new high of progress after which a thought counts as stuck.
    pub stall_tokens: u32,
}

/// Weights and margins are logarithms of tokens for features of about 1.
const MOST_WEIGHT: f64 = 1e9;
/// Tokens of the longest thought.
const MOST_TOKENS: u32 = 10_000_000;

impl Calibration {
    /// The calibration that a vector carries; `None` where it carries none.
    pub fn of_vector(vector: &ProgressVector) -> Result<Option<Self>, CalibrationError> {
        vector.calibration.as_ref().map(Self::from_json).transpose()
    }

    /// Reads and checks the JSON form.
    pub fn from_json(json: &serde_json::Value) -> Result<Self, CalibrationError> {
        let unreadable = |what: String| CalibrationError::Unreadable(what);
        let tag = (json["format"].as_str(), json["version"].as_u64());
        if tag != (Some(CALIBRATION_FORMAT), Some(u64::from(CALIBRATION_VERSION))) {
            return Err(unreadable(format!(
                "expected {CALIBRATION_FORMAT} version {CALIBRATION_VERSION}, got {} version {}",
                json["format"], json["version"]
            )));
        }
        let calibration: Self = serde_json::from_value(json.clone()).map_err(|error| unreadable(error.to_string()))?;
        calibration.check().map_err(|what| unreadable(what.into()))?;
        Ok(calibration)
    }

    /// The JSON form.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("numbers, strings and lists always have a JSON form")
    }

    fn check(&self) -> Result<(), &'static str> {
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        if !self.weights.iter().all(|weights| finite(weights)) {
            return Err("its weights are damaged");
        }
        let margins = [&self.margins.low, &self.margins.high];
        if margins.iter().any(|margins| margins.len() != BINS || !finite(margins)) {
            return Err("its margins are damaged");
        }
        let bounded = |values: &[f64]| values.iter().all(|value| value.abs() < MOST_WEIGHT);
        if !self.weights.iter().all(|weights| bounded(weights)) || !margins.iter().all(|margins| bounded(margins)) {
            return Err("its weights are too large to be true");
        }
        if !self.lengths.is_sorted() || self.lengths.last().is_some_and(|&length| length > MOST_TOKENS) {
            return Err("its lengths of thoughts are out of order or too large to be true");
        }
        if self.lengths.is_empty() { Err("it comes from no thoughts") } else { Ok(()) }
    }

    /// The greatest `ln(1 + remaining)` that is told apart.
    pub fn log_remaining_max(&self) -> f64 {
        log_remaining_max(self.lengths.last().copied().unwrap_or(0))
    }

    /// Tokens still to come after the one at `position`, from the columns there. `max` is [`Self::log_remaining_max`], worked
    /// out once for a thought.
    pub fn remaining(&self, position: u32, columns: &Row, max: f64) -> Estimate {
        let raw = Quantiles::at(&self.weights, columns, max);
        let (low, high) = self.margins.at(raw.progress(position));
        let tokens = |log: f64| tokens_of(log.clamp(0.0, max)) as f32;
        Estimate {
            value: tokens(raw.median),
            low: tokens((raw.low - low).min(raw.median)),
            high: tokens((raw.high + high).max(raw.median)),
        }
    }
}

/// Progress in [0, [`PROGRESS_CEILING`]] at `position` when `remaining` tokens are still to come.
pub fn progress_of(position: u32, remaining: f32) -> f32 {
    let position = position.max(1) as f32;
    (position / (position + remaining.max(0.0))).min(PROGRESS_CEILING)
}

/// `e^log - 1`: tokens from their logarithm. `exp_m1` would be exact below a billionth of a token too, at several times the time.
fn tokens_of(log: f64) -> f64 {
    log.exp() - 1.0
}

fn log_remaining_max(longest: u32) -> f64 {
    (LONGEST_MULTIPLE * f64::from(longest)).ln_1p()
}

/// The three quantiles of `ln(1 + remaining)` at one token, before the margins.
#[derive(Debug, Clone, Copy)]
struct Quantiles {
    low: f64,
    median: f64,
    high: f64,
}

impl Quantiles {
    fn at(weights: &[Row; 3], columns: &Row, max: f64) -> Self {
        let value = |k: usize| weights[k].iter().zip(columns).map(|(w, x)| w * x).sum::<f64>().clamp(0.0, max);
        let median = value(1);
        Self { low: value(0).min(median), median, high: value(2).max(median) }
    }

    fn progress(&self, position: u32) -> f64 {
        let position = f64::from(position.max(1));
        position / (position + tokens_of(self.median))
    }
}

/// The columns of one thought with what is to be predicted from them.
struct Rows {
    problem: usize,
    positions: Vec<u32>,
    columns: Vec<Row>,
    log_remaining: Vec<f64>,
}

impl Rows {
    fn of_trace(trace: &HeadTrace, log_remaining_max: f64) -> Self {
        let mut filter = FeatureFilter::new(log_remaining_max);
        let mut rows = Self { problem: trace.problem, positions: vec![], columns: vec![], log_remaining: vec![] };
        for (position, values) in trace.steps() {
            if let Some(columns) = filter.push(position, values.progress, values.log_remaining) {
                rows.positions.push(position);
                rows.columns.push(columns);
                rows.log_remaining.push(((trace.thinking_tokens - position as usize) as f64).ln_1p());
            }
        }
        rows
    }
}

/// Learns from finished thoughts (their lengths known, `</think>` included) of problems that neither the heads' fit nor
/// any test uses. Thoughts that were cut off must be left out, and counted, by the caller.
pub fn calibrate(traces: &[HeadTrace]) -> Result<Calibration, CalibrationError> {
    let traces: Vec<&HeadTrace> = traces.iter().filter(|trace| trace.thinking_tokens > 0).collect();
    let problems: BTreeSet<usize> = traces.iter().map(|trace| trace.problem).collect();
    if problems.len() < LEAST_PROBLEMS {
        return Err(CalibrationError::TooFewProblems { got: problems.len() });
    }
    for trace in &traces {
        trace.check()?;
    }
    let mut lengths: Vec<u32> = traces.iter().map(|trace| trace.thinking_tokens as u32).collect();
    lengths.sort_unstable();
    let max = log_remaining_max(lengths.last().copied().unwrap_or(0));
    let rows: Vec<Rows> = traces.iter().map(|trace| Rows::of_trace(trace, max)).collect();
    let (out_of_fold, weights) =
        rayon::join(|| out_of_fold(&rows, &problems, max), || fit(rows.iter(), problems.len()));
    let (scores, longest_stall) = out_of_fold?;
    let weights = weights?;
    Ok(Calibration {
        format: CALIBRATION_FORMAT.into(),
        version: CALIBRATION_VERSION,
        coverage: COVERAGE,
        problems: problems.len(),
        lengths,
        weights,
        margins: margins(&scores),
        stall_tokens: (STALL_MULTIPLE * f64::from(longest_stall)).ceil() as u32,
    })
}

/// The scores of every thought under a fit that did not see its problem, and the longest pause without progress.
fn out_of_fold(rows: &[Rows], problems: &BTreeSet<usize>, max: f64) -> Result<(Vec<Score>, u32), CalibrationError> {
    let folds: BTreeMap<usize, usize> = problems.iter().enumerate().map(|(rank, &id)| (id, rank % FOLDS)).collect();
    let of_fold = |fold: usize| -> Result<(Vec<Score>, u32), CalibrationError> {
        let (held_out, seen): (Vec<&Rows>, Vec<&Rows>) = rows.iter().partition(|rows| folds[&rows.problem] == fold);
        let weights = fit(seen.into_iter(), problems.len())?;
        let mut scores = Vec::new();
        let stalls = held_out.into_iter().map(|rows| score(rows, &weights, max, &mut scores));
        let longest = stalls.max().unwrap_or(1);
        Ok((scores, longest))
    };
    let folds: Vec<_> = (0..FOLDS).into_par_iter().map(of_fold).collect::<Result<_, _>>()?;
    let longest_stall = folds.iter().map(|(_, stall)| *stall).fold(1, u32::max);
    Ok((folds.into_iter().flat_map(|(scores, _)| scores).collect(), longest_stall))
}

/// Appends one thought's scores and returns its longest pause without progress in tokens.
fn score(rows: &Rows, weights: &[Row; 3], max: f64, scores: &mut Vec<Score>) -> u32 {
    let mut stall = StallMeter::default();
    let mut longest = 0;
    for (k, columns) in rows.columns.iter().enumerate() {
        let quantiles = Quantiles::at(weights, columns, max);
        let (progress, truth) = (quantiles.progress(rows.positions[k]), rows.log_remaining[k]);
        longest = longest.max(stall.push(rows.positions[k], progress.min(f64::from(PROGRESS_CEILING)) as f32));
        let (below, above) = (quantiles.low - truth, truth - quantiles.high);
        scores.push(Score { problem: rows.problem, progress, below, above });
    }
    longest
}

/// The weights of the three quantiles, for columns as they are.
fn fit<'a>(rows: impl Iterator<Item = &'a Rows>, problems: usize) -> Result<[Row; 3], CalibrationError> {
    let rows: Vec<&Rows> = rows.collect();
    let total: usize = rows.iter().map(|rows| rows.columns.len()).sum();
    let stride = total.div_ceil(MOST_ROWS).max(1);
    let mut columns: Vec<Row> = rows.iter().flat_map(|rows| &rows.columns).step_by(stride).copied().collect();
    let targets: Vec<f64> = rows.iter().flat_map(|rows| &rows.log_remaining).step_by(stride).copied().collect();
    let scaling = Scaling::of(&columns);
    columns.iter_mut().for_each(|row| *row = scaling.apply(row));
    let ridge = RIDGE_PROBLEMS / problems as f64;
    let solve = |quantile: f64, ridge: f64, start: &Row| {
        fit_quantile(&columns, &targets, quantile, ridge, start).ok_or(CalibrationError::Degenerate)
    };
    let median = solve(QUANTILES[1], ridge, &[0.0; FEATURES])?;
    let outer = |quantile: f64| solve(quantile, ridge * OUTER_RIDGE, &median);
    let (low, high) = rayon::join(|| outer(QUANTILES[0]), || outer(QUANTILES[2]));
    Ok([low?, median, high?].map(|weights| scaling.undo(&weights)))
}

/// Brings every column but the constant to mean 0 and spread 1.
struct Scaling {
    mean: Row,
    spread: Row,
}

impl Scaling {
    fn of(rows: &[Row]) -> Self {
        let n = rows.len().max(1) as f64;
        let mut scaling = Self { mean: [0.0; FEATURES], spread: [1.0; FEATURES] };
        let mut mean = [0.0; FEATURES];
        for row in rows {
            (0..FEATURES).for_each(|k| mean[k] += row[k]);
        }
        mean.iter_mut().for_each(|sum| *sum /= n);
        let mut variance = [0.0; FEATURES];
        for row in rows {
            (0..FEATURES).for_each(|k| variance[k] += (row[k] - mean[k]).powi(2));
        }
        for k in 1..FEATURES {
            scaling.mean[k] = mean[k];
            scaling.spread[k] = (variance[k] / n).sqrt() + 1e-9;
        }
        scaling
    }

    fn apply(&self, row: &Row) -> Row {
        std::array::from_fn(|k| (row[k] - self.mean[k]) / self.spread[k])
    }

    /// Weights for columns as they are from weights for scaled ones.
    fn undo(&self, weights: &Row) -> Row {
        let mut own: Row = std::array::from_fn(|k| weights[k] / self.spread[k]);
        own[0] -= dot(&own, &self.mean);
        own
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::ReadingFilter;
    use super::super::synthetic::traces;
    use super::*;
    use std::sync::Arc;

    /// The share of readings whose interval holds the truth, and the mean error of progress.
    fn coverage_and_error(calibration: &Calibration, traces: &[HeadTrace]) -> (f64, f64) {
        let (mut held, mut error, mut count) = (0.0, 0.0, 0.0);
        let shared = Arc::new(calibration.clone());
        for trace in traces {
            let mut filter = ReadingFilter::new(Some(Arc::clone(&shared)), None);
            for (position, values) in trace.steps() {
                let reading = filter.push(position, position, values);
                let left = reading.remaining_tokens.expect("finite values");
                let truth = (trace.thinking_tokens - position as usize) as f32;
                held += f64::from(u8::from((left.low..=left.high).contains(&truth)));
                let progress = reading.progress.expect("finite values");
                error += f64::from((progress - position as f32 / trace.thinking_tokens as f32).abs());
                count += 1.0;
            }
        }
        (held / count, error / count)
    }

    #[test]
    fn intervals_hold_what_they_promise_on_new_problems() {
        let calibration = calibrate(&traces(60, 3)).expect("enough problems");
        let (coverage, error) = coverage_and_error(&calibration, &traces(60, 4));
        // 120 thoughts whose readings depend on each other: two standard errors are about 0.04.
        assert!((0.86..=0.96).contains(&coverage), "coverage {coverage}");
        // The head alone is off by about 0.07 on average (normal noise of spread 0.089).
        assert!(error < 0.06, "mean error of progress {error}");
    }

    #[test]
    fn survives_json_bit_for_bit() {
        let calibration = calibrate(&traces(8, 5)).expect("enough problems");
        let text = calibration.to_json().to_string();
        let json = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(Calibration::from_json(&json), Ok(calibration));
    }

    #[test]
    fn foreign_and_damaged_calibrations_are_refused() {
        let good = calibrate(&traces(8, 5)).expect("enough problems").to_json();
        let refused = |change: fn(&mut serde_json::Value)| {
            let mut json = good.clone();
            change(&mut json);
            Calibration::from_json(&json).expect_err("refused").to_string()
        };
        assert!(refused(|json| json["version"] = 2.into()).contains("version 2"));
        assert!(refused(|json| json["format"] = "other".into()).contains("other"));
        assert!(refused(|json| json["weights"][1] = vec![0.5; 3].into()).contains("invalid length 3"));
        assert!(refused(|json| json["margins"]["low"] = vec![0.5; 3].into()).contains("margins"));
        assert!(refused(|json| json["lengths"] = serde_json::Value::Array(vec![])).contains("no thoughts"));
        assert!(refused(|json| json["lengths"] = vec![9, 5].into()).contains("out of order"));
        assert!(refused(|json| json["lengths"] = vec![5, u32::MAX].into()).contains("too large to be true"));
        assert!(refused(|json| json["weights"][1][0] = 1e308.into()).contains("too large to be true"));
        assert!(refused(|json| *json = serde_json::Value::Null).contains("calibrate it again"));
    }

    #[test]
    fn too_few_problems_too_many_values_and_no_second_head_are_errors() {
        assert_eq!(calibrate(&traces(4, 1)), Err(CalibrationError::TooFewProblems { got: 4 }));
        let mut long = traces(6, 1);
        long[3].thinking_tokens = 10;
        let got = long[3].values.len();
        let expected = TooManyValues { problem: 1, thinking_tokens: 10, got };
        assert_eq!(calibrate(&long), Err(CalibrationError::Length(expected)));
        let mut blind = traces(6, 1);
        blind.iter_mut().flat_map(|trace| &mut trace.values).for_each(|values| values.log_remaining = f32::NAN);
        assert_eq!(calibrate(&blind), Err(CalibrationError::Degenerate));
    }

    #[test]
    fn progress_follows_from_the_tokens_left() {
        assert_eq!(progress_of(30, 10.0), 0.75);
        assert_eq!(progress_of(30, 0.0), PROGRESS_CEILING);
        assert_eq!(progress_of(0, f32::MAX), 1.0 / f32::MAX);
    }
}
