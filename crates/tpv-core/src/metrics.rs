//! How good a reading is: MSE, MAE, R^2 and rank correlation, over all tokens and per trace, with intervals by problem.
//!
//! *Pooled* figures take all tokens of all traces together, so long traces weigh more. *Per-trace* figures are computed
//! within each trace and averaged, so each trace weighs the same. Intervals come from [`Bootstrap`], which resamples problems;
//! the pooled rank correlation is ranked anew in every resample (ranks with average ties of the weighted rows).

mod ranks;

use self::ranks::{Ranks, sorted_order};
use crate::bootstrap::{Bootstrap, Groups, Interval};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What was predicted at each token of one trace, and what was true.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingTrace {
    /// The problem that the trace belongs to, the unit of resampling.
    pub problem: u64,
    /// The number j of the first token here, 1-based within the thinking.
    pub first_position: u32,
    /// One per token.
    pub predicted: Vec<f64>,
    /// One per token.
    pub target: Vec<f64>,
}

impl ReadingTrace {
    /// The number j of every token here.
    pub fn positions(&self) -> impl Iterator<Item = u32> {
        self.first_position..self.first_position + self.target.len() as u32
    }
}

/// Why traces cannot be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// Nothing to measure.
    #[error("there are no traces with tokens to measure")]
    Empty,
    /// Predictions and targets differ in number.
    #[error("trace {trace} (problem {problem}) has {predicted} predictions for {target} targets")]
    Length {
        /// 0-based place among the traces.
        trace: usize,
        /// Its problem.
        problem: u64,
        /// Number of predictions.
        predicted: usize,
        /// Number of targets.
        target: usize,
    },
    /// A NaN or an infinite number.
    #[error("trace {trace} (problem {problem}) has a number that is not finite")]
    NotFinite {
        /// 0-based place among the traces.
        trace: usize,
        /// Its problem.
        problem: u64,
    },
    /// Two predictors were not shown the same traces.
    #[error("the two predictors were not measured on the same traces")]
    Unpaired,
}

/// The figures of one predictor, or the differences between two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Problems measured.
    pub problems: usize,
    /// Traces measured.
    pub traces: usize,
    /// Tokens measured.
    pub rows: usize,
    /// Pooled mean squared error.
    pub mse: Option<Interval>,
    /// Pooled mean absolute error.
    pub mae: Option<Interval>,
    /// Pooled `1 - SSE / SST` around the mean of the measured targets; none when they are constant.
    pub r2: Option<Interval>,
    /// Pooled rank correlation; none when predictions or targets are constant.
    pub spearman: Option<Interval>,
    /// Resamples that its interval is of: fewer than the others' where a million rows would be walked a thousand times.
    #[serde(default)]
    pub spearman_resamples: usize,
    /// Mean over traces of the mean squared error.
    pub trace_mse: Option<Interval>,
    /// Mean over traces of the mean absolute error.
    pub trace_mae: Option<Interval>,
    /// Mean over traces of the rank correlation; traces where it is undefined are left out.
    pub trace_spearman: Option<Interval>,
}

/// Measures one predictor.
///
/// ```
/// use tpv_core::bootstrap::Bootstrap;
/// use tpv_core::metrics::{ReadingTrace, measure};
/// let trace = ReadingTrace { problem: 0, first_position: 1, predicted: vec![0.3, 0.8], target: vec![0.5, 1.0] };
/// let figures = measure(&[trace], &Bootstrap::default())?;
/// assert!((figures.mse.map_or(0.0, |mse| mse.value) - 0.04).abs() < 1e-12);
/// # Ok::<(), tpv_core::metrics::MetricsError>(())
/// ```
pub fn measure(traces: &[ReadingTrace], bootstrap: &Bootstrap) -> Result<Figures, MetricsError> {
    let pool = Pool::new(traces)?;
    let sums = |weights: &[u32]| pool.figures_of_sums(weights);
    Ok(pool.figures(bootstrap, sums, |weights, scratch| pool.ranks.correlation(weights, scratch)))
}

/// The figures of `first` less those of `second`, which predicted the same traces; on equal resamples.
pub fn paired_difference(
    first: &[ReadingTrace],
    second: &[ReadingTrace],
    bootstrap: &Bootstrap,
) -> Result<Figures, MetricsError> {
    let same = |a: &ReadingTrace, b: &ReadingTrace| a.problem == b.problem && a.target == b.target;
    if first.len() != second.len() || !first.iter().zip(second).all(|(a, b)| same(a, b)) {
        return Err(MetricsError::Unpaired);
    }
    let (first, second) = (Pool::new(first)?, Pool::new(second)?);
    let sums = |weights: &[u32]| {
        let (first, second) = (first.figures_of_sums(weights), second.figures_of_sums(weights));
        std::array::from_fn(|figure| first[figure] - second[figure])
    };
    Ok(first.figures(bootstrap, sums, |weights, scratch| {
        first.ranks.correlation(weights, scratch) - second.ranks.correlation(weights, scratch)
    }))
}

/// Mean squared error; NaN for no values. Both slices have one value per item.
pub fn mse(predicted: &[f64], target: &[f64]) -> f64 {
    mean(predicted.iter().zip(target).map(|(p, t)| (p - t).powi(2)))
}

/// Mean absolute error; NaN for no values.
pub fn mae(predicted: &[f64], target: &[f64]) -> f64 {
    mean(predicted.iter().zip(target).map(|(p, t)| (p - t).abs()))
}

/// `1 - SSE / SST` around the mean of the target; none when the target is constant.
pub fn r2(predicted: &[f64], target: &[f64]) -> Option<f64> {
    let centre = mean(target.iter().copied());
    let spread = mean(target.iter().map(|t| (t - centre).powi(2)));
    (spread > 0.0).then(|| 1.0 - mse(predicted, target) / spread)
}

/// Linear correlation; none when either side is constant.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mean_a, mean_b) = (mean(a.iter().copied()), mean(b.iter().copied()));
    let product = |x: &[f64], mean_x: f64, y: &[f64], mean_y: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean_x) * (y - mean_y)).sum()
    };
    let spread = (product(a, mean_a, a, mean_a) * product(b, mean_b, b, mean_b)).sqrt();
    (spread > 0.0).then(|| product(a, mean_a, b, mean_b) / spread)
}

/// Rank correlation with average ranks for ties; none when either side is constant.
///
/// ```
/// use tpv_core::metrics::spearman;
/// assert_eq!(spearman(&[1.0, 2.0, 3.0], &[1.0, 10.0, 100.0]), Some(1.0));
/// assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
/// ```
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&average_ranks(a), &average_ranks(b))
}

/// Ranks from 1; equal values share the average of their ranks. The values are finite.
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let order = sorted_order(values);
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a as usize] == values[b as usize]) {
        let rank = before as f64 + (tied.len() + 1) as f64 / 2.0;
        tied.iter().for_each(|&row| ranks[row as usize] = rank);
        before += tied.len();
    }
    ranks
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// The figures that follow from sums: MSE, MAE, R^2, and the means over traces of MSE, MAE and rank correlation.
type FiguresOfSums = [f64; 6];

/// All that the figures need of one problem, but for the ranks.
#[derive(Debug, Clone, Copy, Default)]
struct ProblemSums {
    rows: f64,
    squared_error: f64,
    absolute_error: f64,
    /// Of the targets less the mean of all, so that nothing cancels.
    target: f64,
    target_squared: f64,
    traces: f64,
    trace_mse: f64,
    trace_mae: f64,
    ranked_traces: f64,
    trace_spearman: f64,
}

impl ProblemSums {
    fn add(&mut self, trace: &ReadingTrace, centre: f64) {
        let (mse, mae) = (mse(&trace.predicted, &trace.target), mae(&trace.predicted, &trace.target));
        let rows = trace.target.len() as f64;
        self.rows += rows;
        self.squared_error += mse * rows;
        self.absolute_error += mae * rows;
        self.target += trace.target.iter().map(|t| t - centre).sum::<f64>();
        self.target_squared += trace.target.iter().map(|t| (t - centre).powi(2)).sum::<f64>();
        self.traces += 1.0;
        self.trace_mse += mse;
        self.trace_mae += mae;
        if let Some(correlation) = spearman(&trace.predicted, &trace.target) {
            self.ranked_traces += 1.0;
            self.trace_spearman += correlation;
        }
    }

    /// The sums of the problems, each as often as its weight says.
    fn weighted(problems: &[Self], weights: &[u32]) -> Self {
        let mut sums = Self::default();
        for (problem, &weight) in problems.iter().zip(weights) {
            let weight = f64::from(weight);
            sums.rows += weight * problem.rows;
            sums.squared_error += weight * problem.squared_error;
            sums.absolute_error += weight * problem.absolute_error;
            sums.target += weight * problem.target;
            sums.target_squared += weight * problem.target_squared;
            sums.traces += weight * problem.traces;
            sums.trace_mse += weight * problem.trace_mse;
            sums.trace_mae += weight * problem.trace_mae;
            sums.ranked_traces += weight * problem.ranked_traces;
            sums.trace_spearman += weight * problem.trace_spearman;
        }
        sums
    }
}

/// Traces prepared for many resamples.
struct Pool {
    problems: Vec<ProblemSums>,
    traces: usize,
    rows: usize,
    ranks: Ranks,
}

/// Row visits that all resamples of the pooled rank correlation together may cost, as long as enough of them are left.
const RANK_VISITS: usize = 100_000_000;
const LEAST_RANK_RESAMPLES: usize = 400;

impl Pool {
    fn new(traces: &[ReadingTrace]) -> Result<Self, MetricsError> {
        traces.iter().enumerate().try_for_each(|(number, trace)| check(number, trace))?;
        let traces: Vec<&ReadingTrace> = traces.iter().filter(|trace| !trace.target.is_empty()).collect();
        if traces.is_empty() {
            return Err(MetricsError::Empty);
        }
        let flat = |values: fn(&ReadingTrace) -> &[f64]| -> Vec<f64> {
            traces.iter().flat_map(|trace| values(trace)).copied().collect()
        };
        let (predicted, target) = (flat(|trace| &trace.predicted), flat(|trace| &trace.target));
        let groups = Groups::of(traces.iter().map(|trace| trace.problem));
        let centre = mean(target.iter().copied());
        let mut problems = vec![ProblemSums::default(); groups.count];
        groups.of_item.iter().zip(&traces).for_each(|(&group, trace)| problems[group].add(trace, centre));
        let of_trace = groups.of_item.iter().zip(&traces);
        let problem_of_row: Vec<u32> =
            of_trace.flat_map(|(&group, trace)| std::iter::repeat_n(group as u32, trace.target.len())).collect();
        let ranks = Ranks::new(&predicted, &target, &problem_of_row, groups.count);
        Ok(Self { problems, traces: traces.len(), rows: target.len(), ranks })
    }

    /// All figures with their intervals. Resamples are drawn once for all of them; their order, and so every interval, is the
    /// same on any number of threads.
    fn figures(
        &self,
        bootstrap: &Bootstrap,
        of_sums: impl Fn(&[u32]) -> FiguresOfSums,
        of_ranks: impl Fn(&[u32], &mut Vec<f64>) -> f64 + Sync,
    ) -> Figures {
        let (resamples, once) = (bootstrap.resamples(self.problems.len()), vec![1; self.problems.len()]);
        let by_sums: Vec<FiguresOfSums> = resamples.iter().map(|weights| of_sums(weights)).collect();
        let ranked = &resamples[..resamples.len().min((RANK_VISITS / self.ranks.visits()).max(LEAST_RANK_RESAMPLES))];
        let by_ranks: Vec<f64> = ranked
            .par_iter()
            .with_min_len(16)
            .map_init(Vec::new, |scratch, weights| of_ranks(weights, scratch))
            .collect();
        let value = of_sums(&once);
        let interval = |figure: usize| {
            let figures = by_sums.iter().map(|figures| figures[figure]).collect();
            bootstrap.interval_of(value[figure], figures, self.problems.len())
        };
        Figures {
            problems: self.problems.len(),
            traces: self.traces,
            rows: self.rows,
            mse: interval(0),
            mae: interval(1),
            r2: interval(2),
            spearman_resamples: ranked.len(),
            spearman: bootstrap.interval_of(of_ranks(&once, &mut Vec::new()), by_ranks, self.problems.len()),
            trace_mse: interval(3),
            trace_mae: interval(4),
            trace_spearman: interval(5),
        }
    }

    /// The figures of the weighted problems; NaN where one is undefined.
    fn figures_of_sums(&self, weights: &[u32]) -> FiguresOfSums {
        let sums = ProblemSums::weighted(&self.problems, weights);
        let spread = sums.target_squared - sums.target.powi(2) / sums.rows;
        let is_spread = spread > 1e-12 * sums.target_squared;
        [
            sums.squared_error / sums.rows,
            sums.absolute_error / sums.rows,
            if is_spread { 1.0 - sums.squared_error / spread } else { f64::NAN },
            sums.trace_mse / sums.traces,
            sums.trace_mae / sums.traces,
            sums.trace_spearman / sums.ranked_traces,
        ]
    }
}

fn check(number: usize, trace: &ReadingTrace) -> Result<(), MetricsError> {
    let (predicted, target) = (trace.predicted.len(), trace.target.len());
    if predicted != target {
        return Err(MetricsError::Length { trace: number, problem: trace.problem, predicted, target });
    }
    if !trace.predicted.iter().chain(&trace.target).all(|value| value.is_finite()) {
        return Err(MetricsError::NotFinite { trace: number, problem: trace.problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(problem: u64, length: usize, seed: usize) -> ReadingTrace {
        // Rounded so that there are ties within and between traces.
        let target: Vec<f64> = (1..=length).map(|j| j as f64 / length as f64).collect();
        let noise = |j: usize| ((j * 7919 + seed * 104_729) % 101) as f64 / 101.0 - 0.5;
        let predicted =
            target.iter().enumerate().map(|(j, t)| ((0.6 * t + 0.4 * noise(j)) * 20.0).round() / 20.0).collect();
        ReadingTrace { problem, first_position: 1, predicted, target }
    }

    fn traces() -> Vec<ReadingTrace> {
        [(9, 20, 1), (4, 35, 2), (9, 12, 3), (4, 1, 4), (7, 50, 5), (7, 20, 6)].map(|(p, n, s)| trace(p, n, s)).into()
    }

    /// Every weighted figure is that of the rows written out as often as their problem was drawn.
    #[test]
    fn weighted_figures_equal_those_of_repeated_rows() {
        let traces = traces();
        let pool = Pool::new(&traces).unwrap();
        for weights in [[1, 1, 1], [0, 3, 0], [2, 0, 1], [1, 1, 5]] {
            let repeated = traces.iter().flat_map(|trace| {
                let drawn = weights[[4, 7, 9].iter().position(|&problem| problem == trace.problem).unwrap()];
                std::iter::repeat_n(trace, drawn as usize)
            });
            let repeated: Vec<&ReadingTrace> = repeated.collect();
            let predicted: Vec<f64> = repeated.iter().flat_map(|trace| trace.predicted.clone()).collect();
            let target: Vec<f64> = repeated.iter().flat_map(|trace| trace.target.clone()).collect();
            let per_trace = |figure: fn(&[f64], &[f64]) -> Option<f64>| {
                let figures: Vec<f64> = repeated.iter().filter_map(|t| figure(&t.predicted, &t.target)).collect();
                mean(figures.into_iter())
            };
            let of_sums = [
                mse(&predicted, &target),
                mae(&predicted, &target),
                r2(&predicted, &target).unwrap(),
                per_trace(|p, t| Some(mse(p, t))),
                per_trace(|p, t| Some(mae(p, t))),
                per_trace(spearman),
            ];
            let values =
                pool.figures_of_sums(&weights).into_iter().chain([pool.ranks.correlation(&weights, &mut vec![])]);
            let expected = of_sums.into_iter().chain([spearman(&predicted, &target).unwrap()]);
            for (figure, (value, expected)) in values.zip(expected).enumerate() {
                assert!((value - expected).abs() < 1e-12, "{figure} with {weights:?}: {value}, expected {expected}");
            }
        }
    }

    #[test]
    fn intervals_hold_their_figures() {
        let many: Vec<ReadingTrace> = (0..40).map(|n| trace(n, 10 + (n as usize * 13) % 40, n as usize)).collect();
        let figures = measure(&many, &Bootstrap::default()).unwrap();
        assert_eq!((figures.problems, figures.traces), (40, 40));
        let all = [figures.mse, figures.mae, figures.r2, figures.spearman, figures.trace_mse, figures.trace_spearman];
        for interval in all.map(Option::unwrap) {
            assert!(interval.low < interval.value && interval.value < interval.high, "{interval:?}");
        }
        assert_eq!(measure(&many, &Bootstrap::default()).unwrap(), figures);
    }

    #[test]
    fn a_paired_difference_is_narrower_than_the_figures() {
        let first: Vec<ReadingTrace> = (0..30).map(|n| trace(n, 30, n as usize)).collect();
        let worse =
            |t: &ReadingTrace| ReadingTrace { predicted: t.predicted.iter().map(|p| p + 0.3).collect(), ..t.clone() };
        let second: Vec<ReadingTrace> = first.iter().map(worse).collect();
        let bootstrap = Bootstrap::default();
        let difference = paired_difference(&first, &second, &bootstrap).unwrap();
        let (a, b) = (measure(&first, &bootstrap).unwrap(), measure(&second, &bootstrap).unwrap());
        let (mse, alone) = (difference.mse.unwrap(), b.mse.unwrap());
        assert!((mse.value - (a.mse.unwrap().value - alone.value)).abs() < 1e-12);
        assert!((mse.high - mse.low) < (alone.high - alone.low));
        let rank = difference.spearman.unwrap();
        assert!(rank.low == 0.0 && rank.high == 0.0, "a constant moves no rank: {rank:?}");
        assert_eq!(paired_difference(&first, &second[1..], &bootstrap), Err(MetricsError::Unpaired));
    }

    #[test]
    fn undefined_figures_are_none() {
        let constant =
            ReadingTrace { problem: 0, first_position: 1, predicted: vec![0.5; 4], target: vec![0.2, 0.4, 0.6, 0.8] };
        let figures = measure(&[constant], &Bootstrap::default()).unwrap();
        assert!(figures.mse.is_some() && figures.r2.is_some());
        assert_eq!((figures.spearman, figures.trace_spearman), (None, None));
        let single = ReadingTrace { problem: 0, first_position: 1, predicted: vec![0.9], target: vec![1.0] };
        assert_eq!(measure(&[single], &Bootstrap::default()).unwrap().r2, None);
    }

    #[test]
    fn bad_traces_are_refused_by_name() {
        let good = trace(3, 5, 0);
        let short = ReadingTrace { predicted: vec![0.0], ..good.clone() };
        let broken = ReadingTrace { predicted: vec![f64::NAN; 5], ..good.clone() };
        let empty = ReadingTrace { predicted: vec![], target: vec![], ..good.clone() };
        let measured = |traces: &[ReadingTrace]| measure(traces, &Bootstrap::default()).map(|figures| figures.traces);
        let length = MetricsError::Length { trace: 1, problem: 3, predicted: 1, target: 5 };
        assert_eq!(measured(&[good.clone(), short]), Err(length));
        assert_eq!(measured(&[broken]), Err(MetricsError::NotFinite { trace: 0, problem: 3 }));
        assert_eq!(measured(std::slice::from_ref(&empty)), Err(MetricsError::Empty));
        assert_eq!(measured(&[empty, good]), Ok(1));
    }
}
