//! Conformal intervals: how far quantiles must be moved so that they hold what they promise on problems not seen.
//!
//! The quantiles of each calibrating thought come from a fit that never saw its problem (folds by problem), so that the
//! scores `low - y` and `y - high` are those of new problems. Per bin of the predicted progress the score's upper
//! quantile becomes the distance by which that end is moved (conformalised quantile regression, Romano et al. 2019).
//!
//! Readings of one problem depend on each other: only problems are exchangeable. Hence folds are made of problems, and a
//! bin that few problems reach leans on the pooled distance, `(n d_bin + 10 d_pooled) / (n + 10)` with n problems in it.
//! The claim is an average over tokens and problems, not a promise for each thought. The usual finite-sample factor
//! `1 + 1/n` is left out: the folds' fits know fewer problems than the final one, which errs on the wide side already, and
//! with the factor intervals held 92 to 95 % where 90 % were asked for.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Bins of predicted progress.
pub const BINS: usize = 10;
/// Share of the readings that may lie below the interval. Smaller than the share above: thoughts that end sooner than
/// expected all do so in their last tenth, and a nominal 5 % there left the last decile under 80 %.
pub const MISS_BELOW: f64 = 0.03;
/// Share of the readings that may lie above the interval.
pub const MISS_ABOVE: f64 = 0.07;

/// How many problems the pooled distance counts for in every bin.
const POOLED_PROBLEMS: f64 = 10.0;
/// A bin with fewer readings takes the pooled distance.
const LEAST_READINGS: usize = 30;

/// How one out-of-fold reading missed, positive where the truth lies outside.
#[derive(Debug, Clone, Copy)]
pub struct Score {
    /// The problem that the reading belongs to.
    pub problem: usize,
    /// The progress that the median predicts, in `[0, 1]`.
    pub progress: f64,
    /// `low - y` in ln(1 + tokens).
    pub below: f64,
    /// `y - high` in ln(1 + tokens).
    pub above: f64,
}

/// How far the ends of an interval move outwards, in ln(1 + tokens), at the middle of each bin of predicted progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Margins {
    /// Subtracted from the low quantile, [BINS].
    pub low: Vec<f64>,
    /// Added to the high quantile, [BINS].
    pub high: Vec<f64>,
}

impl Margins {
    /// The margins (low, high) at a predicted progress, linear between the middles of the bins.
    pub fn at(&self, progress: f64) -> (f64, f64) {
        let place = (progress * BINS as f64 - 0.5).clamp(0.0, (BINS - 1) as f64);
        let (bin, share) = ((place as usize).min(BINS - 2), place - (place as usize).min(BINS - 2) as f64);
        let between = |margins: &[f64]| margins[bin] + share * (margins[bin + 1] - margins[bin]);
        (between(&self.low), between(&self.high))
    }
}

/// The margins with which about the shares [`MISS_BELOW`] and [`MISS_ABOVE`] of new problems' readings fall outside.
pub fn margins(scores: &[Score]) -> Margins {
    let mut bins: Vec<Vec<Score>> = vec![Vec::new(); BINS];
    for score in scores {
        bins[((score.progress * BINS as f64) as usize).min(BINS - 1)].push(*score);
    }
    let side = |miss: f64, value: fn(&Score) -> f64| {
        let level = 1.0 - miss;
        let pooled = upper_quantile(scores.iter().map(value).collect(), level);
        bins.iter().map(|bin| binned(bin, pooled, level, value)).collect()
    };
    Margins { low: side(MISS_BELOW, |s| s.below), high: side(MISS_ABOVE, |s| s.above) }
}

fn binned(bin: &[Score], pooled: f64, level: f64, value: fn(&Score) -> f64) -> f64 {
    if bin.len() < LEAST_READINGS {
        return pooled;
    }
    let problems = count_problems(bin) as f64;
    let own = upper_quantile(bin.iter().map(value).collect(), level);
    (problems * own + POOLED_PROBLEMS * pooled) / (problems + POOLED_PROBLEMS)
}

fn count_problems(scores: &[Score]) -> usize {
    scores.iter().map(|score| score.problem).collect::<BTreeSet<_>>().len()
}

/// The smallest value that at least the share `level` of the values does not exceed; the largest for a level above 1.
/// 0 without values.
fn upper_quantile(mut values: Vec<f64>, level: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (level * values.len() as f64).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(problem: usize, progress: f64, value: f64) -> Score {
        Score { problem, progress, below: value, above: -value }
    }

    #[test]
    fn upper_quantile_by_hand() {
        let values = || vec![5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(upper_quantile(values(), 0.8), 4.0);
        assert_eq!(upper_quantile(values(), 0.81), 5.0);
        assert_eq!(upper_quantile(values(), 1.2), 5.0);
        assert_eq!(upper_quantile(values(), 0.0), 1.0);
        assert_eq!(upper_quantile(Vec::new(), 0.9), 0.0);
    }

    #[test]
    fn as_many_scores_as_promised_lie_above_the_margin() {
        let scores: Vec<Score> =
            (1..=100).map(|k| Score { above: f64::from(k), ..score(k as usize, 0.5, 0.0) }).collect();
        let margin = margins(&scores).high[5];
        assert_eq!(scores.iter().filter(|score| score.above > margin).count(), 7);
    }

    #[test]
    fn a_bin_without_readings_takes_the_pooled_margin_and_a_full_one_mostly_its_own() {
        let mut scores: Vec<Score> = (0..1000).map(|k| score(k, 0.15, 1.0)).collect();
        scores.extend((0..990).map(|k| score(k, 0.95, 3.0)));
        let margins = margins(&scores);
        assert_eq!(margins.low[5], 3.0, "pooled");
        assert!((margins.low[1] - (1000.0 + 10.0 * 3.0) / 1010.0).abs() < 1e-12);
    }

    #[test]
    fn margins_are_linear_between_the_middles() {
        let margins = Margins { low: (0..10).map(f64::from).collect(), high: vec![2.0; 10] };
        assert_eq!(margins.at(0.0), (0.0, 2.0));
        assert!((margins.at(0.5).0 - 4.5).abs() < 1e-12);
        assert_eq!(margins.at(1.0).0, 9.0);
    }
}
