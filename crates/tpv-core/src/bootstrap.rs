//! How sure a figure is: percentile bootstrap over problems, and exact tests for paired answers.
//!
//! Traces of one problem resemble each other, so what is drawn with replacement is the *problem* with all its traces, never
//! a single trace or token. A resample is a list of weights: how many times each problem was drawn. The same seed and number of
//! problems give the same resamples, so two predictors are compared on equal ones.
//!
//! With few problems percentiles are too narrow, since a resample varies less than a sample and nothing is added for what
//! few problems do not tell of their spread. Below 20 the ends are taken at percentiles further out, those at which a
//! normal figure would have Student's interval (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, the
//! expanded percentile interval). That helps much from six on, and not with three.

use crate::seed;
use rand_pcg::rand_core::Rng;
use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF, Normal, StudentsT};

/// With fewer groups than this the ends lie at percentiles further out.
const FEW_GROUPS: usize = 20;

/// A figure with its bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The figure on the data themselves.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether the number lies in the interval, ends included.
    pub fn contains(&self, number: f64) -> bool {
        (self.low..=self.high).contains(&number)
    }
}

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: usize,
    /// Share of the resampled figures that the interval holds.
    pub coverage: f64,
    /// Determines the resamples.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 1000 resamples, 95 %, seed 42.
    fn default() -> Self {
        Self { resamples: 1000, coverage: 0.95, seed: 42 }
    }
}

impl Bootstrap {
    /// The interval of a statistic of weighted groups, where every weight is 1 on the data themselves. Resamples on which the
    /// statistic is undefined (NaN) are left out; none when it is undefined on the data or there are no groups.
    pub fn interval(&self, groups: usize, mut statistic: impl FnMut(&[u32]) -> f64) -> Option<Interval> {
        let value = statistic(&vec![1; groups]);
        if groups == 0 || value.is_nan() {
            return None;
        }
        let mut weights = vec![0; groups];
        let mut generator = seed::generator(self.seed);
        let figure = |_| {
            draw_weights(&mut weights, &mut generator);
            statistic(&weights)
        };
        self.interval_of(value, (0..self.resamples).map(figure).collect(), groups)
    }

    /// The weights of all resamples, the same that [`Bootstrap::interval`] draws.
    pub(crate) fn resamples(&self, groups: usize) -> Vec<Vec<u32>> {
        let mut generator = seed::generator(self.seed);
        let draw = |_| {
            let mut weights = vec![0; groups];
            draw_weights(&mut weights, &mut generator);
            weights
        };
        (0..self.resamples).map(draw).collect()
    }

    /// The interval of a figure from its values on the resamples of so many groups; none when it is undefined on the data.
    pub(crate) fn interval_of(&self, value: f64, mut figures: Vec<f64>, groups: usize) -> Option<Interval> {
        if value.is_nan() {
            return None;
        }
        figures.retain(|figure| !figure.is_nan());
        figures.sort_by(f64::total_cmp);
        let tail = self.tail(groups);
        let end = |share| quantile(&figures, share).unwrap_or(value);
        Some(Interval { value, low: end(tail), high: end(1.0 - tail) })
    }

    /// The share of the resamples beyond either end.
    fn tail(&self, groups: usize) -> f64 {
        let tail = (1.0 - self.coverage.clamp(0.0, 1.0)) / 2.0;
        let free = groups.saturating_sub(1) as f64;
        match StudentsT::new(0.0, 1.0, free) {
            Ok(students) if groups < FEW_GROUPS && tail > 0.0 && tail < 0.5 => {
                Normal::standard().cdf(students.inverse_cdf(tail) * (groups as f64 / free).sqrt())
            }
            _ => tail,
        }
    }

    /// The mean of values that belong to problems, `(problem, value)`; of differences, a paired comparison.
    pub fn mean(&self, values: &[(u64, f64)]) -> Option<Interval> {
        let parts: Vec<_> = values.iter().map(|&(problem, value)| (problem, value, 1.0)).collect();
        self.ratio(&parts)
    }

    /// The ratio of two sums over values that belong to problems, `(problem, numerator, denominator)`: for instance
    /// thinking tokens with and without a push.
    pub fn ratio(&self, values: &[(u64, f64, f64)]) -> Option<Interval> {
        let groups = Groups::of(values.iter().map(|value| value.0));
        let mut sums = vec![(0.0, 0.0); groups.count];
        for (&group, &(_, numerator, denominator)) in groups.of_item.iter().zip(values) {
            sums[group].0 += numerator;
            sums[group].1 += denominator;
        }
        self.interval(groups.count, |weights| {
            let weighted =
                weights.iter().zip(&sums).map(|(&weight, sum)| (f64::from(weight) * sum.0, f64::from(weight) * sum.1));
            let (numerator, denominator) =
                weighted.fold((0.0, 0.0), |total, part| (total.0 + part.0, total.1 + part.1));
            numerator / denominator
        })
    }

    /// The ratio of two sums over values that belong to problems and to draws of something else, such as random directions:
    /// `(problem, draw, numerator, denominator)`. Both are resampled, so the interval is one for other problems and other draws.
    pub fn ratio_over_draws(&self, values: &[(u64, u64, f64, f64)]) -> Option<Interval> {
        let problems = Groups::of(values.iter().map(|value| value.0));
        let draws = Groups::of(values.iter().map(|value| value.1));
        let ratio = |of_problem: &[u32], of_draw: &[u32]| {
            let places = problems.of_item.iter().zip(&draws.of_item);
            let (numerator, denominator) =
                places.zip(values).fold((0.0, 0.0), |total, ((&problem, &draw), &(_, _, numerator, denominator))| {
                    let weight = f64::from(of_problem[problem]) * f64::from(of_draw[draw]);
                    (total.0 + weight * numerator, total.1 + weight * denominator)
                });
            numerator / denominator
        };
        let (mut of_problem, mut of_draw) = (vec![1; problems.count], vec![1; draws.count]);
        let value = ratio(&of_problem, &of_draw);
        let mut generator = seed::generator(self.seed);
        let figure = |_| {
            draw_weights(&mut of_problem, &mut generator);
            draw_weights(&mut of_draw, &mut generator);
            ratio(&of_problem, &of_draw)
        };
        let groups = if draws.count > 1 { problems.count.min(draws.count) } else { problems.count };
        self.interval_of(value, (0..self.resamples).map(figure).collect(), groups)
    }
}

/// Draws as many groups as there are, with replacement.
fn draw_weights(weights: &mut [u32], generator: &mut impl Rng) {
    weights.fill(0);
    for _ in 0..weights.len() {
        let group = (u128::from(generator.next_u64()) * weights.len() as u128) >> 64;
        weights[group as usize] += 1;
    }
}

/// The quantile of sorted figures, interpolated linearly between neighbours; none when there are no figures.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// The median of figures in any order, between the two middle ones where their number is even; none when there are none.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    quantile(&figures, 0.5)
}

/// Items sorted into groups, numbered from 0 in the order of their ids.
pub(crate) struct Groups {
    pub(crate) count: usize,
    /// The group's number for every item.
    pub(crate) of_item: Vec<usize>,
}

impl Groups {
    pub(crate) fn of(ids: impl Iterator<Item = u64>) -> Self {
        let ids: Vec<u64> = ids.collect();
        let mut distinct = ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let of_item = ids.iter().map(|id| distinct.partition_point(|other| other < id)).collect();
        Self { count: distinct.len(), of_item }
    }
}

/// Whether two methods answered the same question correctly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairedOutcome {
    /// The problem, the unit of resampling.
    pub problem: u64,
    /// The first method's answer is correct.
    pub first: bool,
    /// The second method's answer is correct.
    pub second: bool,
}

/// Two accuracies on the same questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AccuracyComparison {
    /// The first method's accuracy.
    pub first: Interval,
    /// The second method's accuracy.
    pub second: Interval,
    /// Second less first.
    pub difference: Interval,
    /// Problems that the first answered correctly more often than the second.
    pub only_first: u64,
    /// Problems that the second answered correctly more often than the first.
    pub only_second: u64,
    /// Two-sided exact p-value of McNemar's test over problems: samples of one problem are not independent, so a problem
    /// counts once, for the method that answered it correctly more often. With one sample each it is the usual test.
    pub mcnemar_p: f64,
}

/// Compares two methods on the same questions; none when there are no questions.
pub fn compare_accuracy(outcomes: &[PairedOutcome], bootstrap: &Bootstrap) -> Option<AccuracyComparison> {
    let mean_of = |value: &dyn Fn(&PairedOutcome) -> f64| {
        let values: Vec<_> = outcomes.iter().map(|outcome| (outcome.problem, value(outcome))).collect();
        bootstrap.mean(&values)
    };
    let as_number = |correct: bool| f64::from(u8::from(correct));
    let groups = Groups::of(outcomes.iter().map(|outcome| outcome.problem));
    let mut ahead = vec![0i64; groups.count];
    for (&group, outcome) in groups.of_item.iter().zip(outcomes) {
        ahead[group] += i64::from(outcome.first) - i64::from(outcome.second);
    }
    let only_first = ahead.iter().filter(|&&ahead| ahead > 0).count() as u64;
    let only_second = ahead.iter().filter(|&&ahead| ahead < 0).count() as u64;
    // Resamples of problems that are all alike are all alike, however few they are: chance hides as much as an exact bound says.
    let most_hidden = share_bounds(0, groups.count as u64, 0.975).1;
    let accuracy = |of: &dyn Fn(&PairedOutcome) -> bool| {
        let interval = mean_of(&|outcome| as_number(of(outcome)))?;
        Some(match interval.value {
            1.0 => Interval { low: 1.0 - most_hidden, ..interval },
            0.0 => Interval { high: most_hidden, ..interval },
            _ => interval,
        })
    };
    let difference = mean_of(&|outcome| as_number(outcome.second) - as_number(outcome.first))?;
    let all_alike = only_first == 0 && only_second == 0;
    Some(AccuracyComparison {
        first: accuracy(&|outcome| outcome.first)?,
        second: accuracy(&|outcome| outcome.second)?,
        difference: if all_alike {
            Interval { low: -most_hidden, high: most_hidden, ..difference }
        } else {
            difference
        },
        only_first,
        only_second,
        mcnemar_p: mcnemar_exact(only_first, only_second),
    })
}

/// One-sided exact bounds (Clopper and Pearson, 1934) on a share of which `count` of `all` were seen: the lower and the upper
/// one, each right in at least `level` of all cases.
///
/// ```
/// use tpv_core::bootstrap::share_bounds;
/// let (low, high) = share_bounds(0, 60, 0.95);
/// assert_eq!(low, 0.0);
/// assert!((high - (1.0 - 0.05f64.powf(1.0 / 60.0))).abs() < 1e-9); // nearly the rule of three, 3 / 60
/// ```
pub fn share_bounds(count: u64, all: u64, level: f64) -> (f64, f64) {
    let (k, rest) = (count as f64, all.saturating_sub(count) as f64);
    let end = |a: f64, b: f64, at: f64| Beta::new(a, b).map_or(f64::NAN, |beta| beta.inverse_cdf(at));
    let low = if count == 0 { 0.0 } else { end(k, rest + 1.0, 1.0 - level) };
    let high = if count >= all { 1.0 } else { end(k + 1.0, rest, level) };
    (low, high)
}

/// The two-sided exact p-value of McNemar's test: of the `only_first + only_second` questions on which two methods differ,
/// how unlikely so uneven a division is when either outcome has probability 1/2.
///
/// ```
/// use tpv_core::bootstrap::mcnemar_exact;
/// assert_eq!(mcnemar_exact(0, 5), 2.0 / 32.0);
/// assert_eq!(mcnemar_exact(3, 3), 1.0);
/// ```
pub fn mcnemar_exact(only_first: u64, only_second: u64) -> f64 {
    let (count, fewer) = (only_first + only_second, only_first.min(only_second));
    if only_first == only_second {
        return 1.0;
    }
    // P(X = k) from P(X = k - 1), in logs because 2^-count may underflow.
    let mut log_term = -(count as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for k in 1..=fewer {
        log_term += ((count - k + 1) as f64 / k as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_equals_the_binomial_test() {
        // scipy.stats.binomtest(k, n, 0.5).pvalue
        for (only_first, only_second, p) in [
            (10, 25, 0.016_673_847_800_120_715),
            (1, 7, 0.070_312_5),
            (400, 480, 0.007_707_305_043_339_153),
            (0, 0, 1.0),
        ] {
            assert!((mcnemar_exact(only_first, only_second) - p).abs() < 1e-10, "{only_first} and {only_second}");
            assert_eq!(mcnemar_exact(only_first, only_second), mcnemar_exact(only_second, only_first));
        }
        assert!(mcnemar_exact(0, 3000) < 1e-300);
    }

    #[test]
    fn quantiles_interpolate() {
        let sorted = [1.0, 2.0, 4.0];
        assert_eq!(quantile(&sorted, 0.0), Some(1.0));
        assert_eq!(quantile(&sorted, 0.75), Some(3.0));
        assert_eq!(quantile(&sorted, 1.0), Some(4.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_interval_of_a_mean_has_the_textbook_width() {
        // 400 problems with values 0..399 / 400: the standard error of the mean is 1 / sqrt(12 * 400).
        let values: Vec<_> = (0..400).map(|i| (i, i as f64 / 400.0)).collect();
        let bootstrap = Bootstrap { resamples: 4000, ..Bootstrap::default() };
        let interval = bootstrap.mean(&values).unwrap();
        let half_width = 1.96 / (12.0f64 * 400.0).sqrt();
        assert!(((interval.high - interval.low) / (2.0 * half_width) - 1.0).abs() < 0.06);
        assert!(interval.contains(interval.value));
        assert_eq!(bootstrap.mean(&values), Some(interval), "a seed determines the interval");
        let other = Bootstrap { seed: 1, ..bootstrap };
        assert_ne!(other.mean(&values), Some(interval));
    }

    #[test]
    fn problems_are_resampled_not_values() {
        // Two problems with 500 equal values each: the mean of a resample can only be 0, 1/2 or 1.
        let values: Vec<_> = (0..1000).map(|i| (i % 2, (i % 2) as f64)).collect();
        let interval = Bootstrap::default().mean(&values).unwrap();
        assert_eq!((interval.low, interval.value, interval.high), (0.0, 0.5, 1.0));
    }

    #[test]
    fn ratios_are_of_sums() {
        let interval = Bootstrap::default().ratio(&[(0, 10.0, 20.0), (1, 50.0, 100.0)]).unwrap();
        assert_eq!((interval.low, interval.value, interval.high), (0.5, 0.5, 0.5));
        assert_eq!(Bootstrap::default().ratio(&[(0, 0.0, 0.0)]), None);
        assert_eq!(Bootstrap::default().mean(&[]), None);
    }

    #[test]
    fn few_groups_have_wider_intervals() {
        let tail = |groups| Bootstrap::default().tail(groups);
        // SciPy: norm.cdf(sqrt(n / (n - 1)) * t.ppf(0.025, n - 1)).
        for (groups, expected) in [(2, 2.4e-72), (6, 0.002_428), (10, 0.008_56), (19, 0.015_4)] {
            assert!((tail(groups) - expected).abs() < 0.02 * expected + 1e-70, "{groups}: {}", tail(groups));
        }
        assert!([0, 1, 20, 300].iter().all(|&groups| (tail(groups) - 0.025).abs() < 1e-12));
    }

    #[test]
    fn draws_count_beside_problems() {
        // Draws that differ, on problems that do not: all that is unsure is which draws there were.
        let values: Vec<_> =
            (0..50).flat_map(|problem| [0.0, 1.0, 2.0].map(|shift| (problem, shift as u64, shift, 1.0))).collect();
        let over_draws = Bootstrap::default().ratio_over_draws(&values).unwrap();
        assert_eq!((over_draws.low, over_draws.value, over_draws.high), (0.0, 1.0, 2.0));
        let by_problem: Vec<_> = values.iter().map(|&(problem, _, a, b)| (problem, a, b)).collect();
        let by_problem = Bootstrap::default().ratio(&by_problem).unwrap();
        assert_eq!((by_problem.low, by_problem.high), (1.0, 1.0));
        assert_eq!(Bootstrap::default().ratio_over_draws(&[]), None);
    }

    #[test]
    fn accuracies_are_compared_in_pairs() {
        let outcome = |problem, first, second| PairedOutcome { problem, first, second };
        let outcomes: Vec<_> = (0..60).map(|i| outcome(i, i % 2 == 0, i % 2 == 0 || i % 3 == 0)).collect();
        let comparison = compare_accuracy(&outcomes, &Bootstrap::default()).unwrap();
        assert_eq!((comparison.only_first, comparison.only_second), (0, 10));
        assert_eq!(comparison.first.value, 0.5);
        assert!((comparison.difference.value - 10.0 / 60.0).abs() < 1e-12);
        assert!(comparison.difference.low > 0.0 && comparison.difference.high < 0.3);
        assert_eq!(comparison.mcnemar_p, mcnemar_exact(0, 10));
        // The same samples four times over prove no more: problems count, not samples.
        let repeated: Vec<_> = (0..4).flat_map(|_| outcomes.clone()).collect();
        assert_eq!(compare_accuracy(&repeated, &Bootstrap::default()).unwrap().mcnemar_p, comparison.mcnemar_p);
        let undecided = [outcome(0, true, false), outcome(0, false, true)];
        assert_eq!(compare_accuracy(&undecided, &Bootstrap::default()).unwrap().mcnemar_p, 1.0);
        assert_eq!(compare_accuracy(&[], &Bootstrap::default()), None);
    }

    #[test]
    fn what_is_all_alike_is_not_certain() {
        let outcome = |problem, first, second| PairedOutcome { problem, first, second };
        let all_right: Vec<_> = (0..60).map(|problem| outcome(problem, true, true)).collect();
        let comparison = compare_accuracy(&all_right, &Bootstrap::default()).unwrap();
        // One-sided at 2.5 %: 1 - 0.025^(1 / 60).
        let hidden = 1.0 - 0.025f64.powf(1.0 / 60.0);
        assert!((comparison.second.low - (1.0 - hidden)).abs() < 1e-9 && comparison.second.high == 1.0);
        assert!(
            (comparison.difference.low + hidden).abs() < 1e-9 && (comparison.difference.high - hidden).abs() < 1e-9
        );
        let (low, high) = share_bounds(3, 3, 0.95);
        assert!((low - 0.05f64.powf(1.0 / 3.0)).abs() < 1e-9 && high == 1.0);
    }
}
