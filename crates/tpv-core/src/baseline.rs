//! What a reading has to beat: predictions from the mean, from the typical length, and from the position alone.
//!
//! Position is not progress, but it is a strong hint: traces of one data set are similarly long. The baselines here are fitted on
//! the tokens of training traces, all tokens weighing the same, as theta is:
//!
//! | [`Predictors`] | ridge regression with intercept on |
//! |---|---|
//! | `Mean` | nothing: the mean target |
//! | `Position` | `j / scale` |
//! | `RadialPosition` | `exp(-((x - c_k) / w)^2 / 2)`, `x = ln(1 + j)`, 16 centres `c_k` evenly from `ln 2` to the longest training trace, `w` their distance |
//! | `RadialPositionAndReading` | the same and the reading itself |
//!
//! A position beyond the longest training trace is treated as the last one. A reading that was fitted on the same training
//! traces looks better there than on new ones, so `RadialPositionAndReading` leans on it a little too much.

use crate::bootstrap::quantile;
use crate::fit::{FitError, Ridge};
use crate::gram::{GramAccumulator, Parallelism};
use crate::metrics::ReadingTrace;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What a baseline may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predictors {
    /// Nothing.
    Mean,
    /// The position, linearly.
    Position,
    /// The position, through radial basis functions of its logarithm.
    RadialPosition,
    /// The position through radial basis functions, and the reading (`predicted` of the trace).
    RadialPositionAndReading,
}

/// Number of radial basis functions.
const CENTRES: usize = 16;
/// Keeps radial functions that few training tokens reach from taking wild weights.
const EPSILON: f64 = 1e-3;

/// A fitted baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    predictors: Predictors,
    /// The greatest position among the training tokens.
    last_position: u32,
    weights: Vec<f64>,
    intercept: f64,
}

impl Baseline {
    /// Fits on the targets of training traces; their `predicted` is the reading and must be there for every token.
    pub fn fit(predictors: Predictors, traces: &[ReadingTrace]) -> Result<Self, FitError> {
        let last_position = traces.iter().flat_map(|trace| trace.positions().last()).max().ok_or(FitError::NoRows)?;
        let unfitted = Self { predictors, last_position, weights: Vec::new(), intercept: 0.0 };
        unfitted.fitted(traces.iter().map(|trace| {
            let tokens = trace.positions().zip(&trace.predicted);
            let features = tokens.flat_map(|(position, &reading)| unfitted.features(position, reading));
            (features.collect(), Cow::Borrowed(&trace.target[..]))
        }))
    }

    /// Fits `RadialPosition` on thoughts of which the lengths are all that is known. Of more than some four million tokens
    /// every second, every third and so on is taken, so that any lengths are done in seconds.
    pub fn of_lengths(lengths: &[u32]) -> Result<Self, FitError> {
        const MOST_TOKENS: u64 = 1 << 22;
        let last_position = lengths.iter().copied().max().filter(|&length| length > 0).ok_or(FitError::NoRows)?;
        let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let step = tokens.div_ceil(MOST_TOKENS) as usize;
        let predictors = Predictors::RadialPosition;
        let unfitted = Self { predictors, last_position, weights: Vec::new(), intercept: 0.0 };
        unfitted.fitted(lengths.iter().map(|&length| {
            let positions = (1..=length).step_by(step);
            let target = positions.clone().map(|j| f64::from(j) / f64::from(length)).collect();
            (positions.flat_map(|position| unfitted.features(position, 0.0)).collect(), target)
        }))
    }

    /// The same with the weights of a regression of targets on features, both given trace by trace.
    fn fitted<'a>(&self, traces: impl Iterator<Item = (Vec<f32>, Cow<'a, [f64]>)>) -> Result<Self, FitError> {
        let mut sums = GramAccumulator::new(self.features(1, 0.0).len(), &["target"], Parallelism::Sequential)?;
        for (features, target) in traces {
            sums.add_rows(&features, &[&target])?;
        }
        let fit = Ridge { epsilon: EPSILON, intercept: true }.solve(sums.sums(), Parallelism::Sequential)?;
        let head = fit.heads.into_iter().next().expect("there is one target");
        Ok(Self { weights: head.weights, intercept: head.intercept, ..self.clone() })
    }

    /// What it may look at.
    pub fn predictors(&self) -> Predictors {
        self.predictors
    }

    /// The prediction at a 1-based position, given the reading there (ignored by all but `RadialPositionAndReading`).
    pub fn predict(&self, position: u32, reading: f64) -> f64 {
        let features = self.features(position, reading);
        features.iter().zip(&self.weights).map(|(&feature, weight)| f64::from(feature) * weight).sum::<f64>()
            + self.intercept
    }

    /// The trace with the baseline's predictions in place of the readings.
    pub fn apply(&self, trace: &ReadingTrace) -> ReadingTrace {
        let tokens = trace.positions().zip(&trace.predicted);
        let predicted = tokens.map(|(position, &reading)| self.predict(position, reading)).collect();
        ReadingTrace { predicted, ..trace.clone() }
    }

    fn features(&self, position: u32, reading: f64) -> Vec<f32> {
        let position = position.min(self.last_position);
        match self.predictors {
            // A constant column has no spread, so the intercept takes all and the weight is 0.
            Predictors::Mean => vec![0.0],
            Predictors::Position => vec![(f64::from(position) / f64::from(self.last_position)) as f32],
            Predictors::RadialPosition => self.radial(position).collect(),
            Predictors::RadialPositionAndReading => self.radial(position).chain([reading as f32]).collect(),
        }
    }

    fn radial(&self, position: u32) -> impl Iterator<Item = f32> {
        let (first, last) = (1f64.ln_1p(), f64::from(self.last_position).ln_1p());
        let distance = ((last - first) / (CENTRES - 1) as f64).max(f64::MIN_POSITIVE);
        let place = (f64::from(position).ln_1p() - first) / distance;
        (0..CENTRES).map(move |centre| (-0.5 * (place - centre as f64).powi(2)).exp() as f32)
    }
}

/// Every thought as long as the median training thought.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConstantLength {
    /// The assumed number of thinking tokens.
    pub tokens: f64,
}

impl ConstantLength {
    /// The median of the training lengths; none when there are no lengths.
    pub fn fit(lengths: &[u32]) -> Option<Self> {
        let mut sorted: Vec<f64> = lengths.iter().map(|&length| f64::from(length)).collect();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, 0.5).map(|tokens| Self { tokens })
    }

    /// `j / length`, at most 1.
    pub fn progress(&self, position: u32) -> f64 {
        (f64::from(position) / self.tokens).min(1.0)
    }

    /// Tokens still to come after token j, at least 0.
    pub fn remaining(&self, position: u32) -> f64 {
        (self.tokens - f64::from(position)).max(0.0)
    }
}
