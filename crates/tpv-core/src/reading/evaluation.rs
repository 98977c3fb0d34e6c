//! How good the readings are: every reading against what needs no state at all, and whether intervals keep their word.
//!
//! | [`Source`] | progress at position j | tokens left |
//! |---|---|---|
//! | `Theta` | `theta . h`, clamped | `j / progress - j` |
//! | `ThetaSmoothed` | the paper's display: exponential average of weight 0.1 | `j / progress - j` |
//! | `Head` | the progress head (with intercept), clamped | the other head, `e^r - 1` |
//! | `HeadSmoothed` | its exponential average of weight 0.1 | the other head's, `e^r - 1` |
//! | `HeadMonotone` | the highest of these averages so far | `j / progress - j` |
//! | `Calibrated` | what a [`ProgressReader`](super::ProgressReader) shows | the same |
//! | `ConstantLength` | every thought is as long as the median known one | the same |
//! | `PositionMedian` | ... as the median of the known ones that are at least j long | the same |
//! | `PositionMean` | the mean of j / N at position j, by radial functions of ln j | `j / progress - j` |
//!
//! The last three know lengths of other problems and the position, nothing else. *Best of both* is whichever of them has
//! the lowest pooled mean absolute error on the very traces that are measured: chosen with hindsight, in its own favour.
//! Tokens at which some head's value is missing are left out for every source.

pub mod seconds;

use self::seconds::{Clock, SecondsFigures, Stopwatch};
use super::calibration::Calibration;
use super::heads::{HeadTrace, HeadValues, TooManyValues};
use super::reader::{PAPER_EMA_WEIGHT, ReadingFilter};
use super::{Reading, Verdict};
use crate::baseline::{Baseline, ConstantLength};
use crate::bootstrap::{Bootstrap, Interval};
use crate::fit::FitError;
use crate::metrics::{Figures, MetricsError, ReadingTrace, measure, paired_difference};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Version of [`ReadingReport`]'s JSON form.
pub const REPORT_VERSION: u32 = 1;

const DECILES: usize = 10;
/// A progress from which a length is inferred by division is at least this.
const LEAST_PROGRESS: f64 = 0.01;
/// e^20 tokens: beyond any thought.
const GREATEST_LOG_REMAINING: f64 = 20.0;

/// Where a progress comes from; see the table of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `theta . h`.
    Theta,
    /// Its exponential average.
    ThetaSmoothed,
    /// The progress head.
    Head,
    /// Its exponential average.
    HeadSmoothed,
    /// The running maximum of the average.
    HeadMonotone,
    /// The calibrated reader.
    Calibrated,
    /// Baseline: one length for all.
    ConstantLength,
    /// Baseline: the median of the lengths that are still possible.
    PositionMedian,
    /// Baseline: the mean progress at a position.
    PositionMean,
}

impl Source {
    /// All of them, readings before baselines.
    pub const ALL: [Self; 9] = [
        Self::Theta,
        Self::ThetaSmoothed,
        Self::Head,
        Self::HeadSmoothed,
        Self::HeadMonotone,
        Self::Calibrated,
        Self::ConstantLength,
        Self::PositionMedian,
        Self::PositionMean,
    ];

    /// Whether it looks at no state.
    pub fn is_baseline(self) -> bool {
        matches!(self, Self::ConstantLength | Self::PositionMedian | Self::PositionMean)
    }
}

/// Why nothing could be measured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvaluationError {
    /// The traces don't fit together.
    #[error(transparent)]
    Trace(#[from] TooManyValues),
    /// The baselines have nothing to learn from.
    #[error("the baselines need the lengths of other problems' thoughts, and there are none")]
    NoLengths,
    /// The position baseline could not be fitted.
    #[error(transparent)]
    Baseline(#[from] FitError),
    /// The figures could not be computed.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// One source's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceFigures {
    /// Whose.
    pub source: Source,
    /// Errors of progress, in shares of the thought (0 to 1).
    pub progress: Figures,
    /// Errors of the remaining thinking tokens, in tokens.
    pub remaining_tokens: Figures,
}

/// The calibrated reading less the best baseline, on equal resamples; negative errors mean that the reading is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The baseline with the lowest pooled mean absolute error on these traces.
    pub best_baseline: Source,
    /// Differences of the figures.
    pub difference: Figures,
}

/// How often intervals of the remaining tokens held the truth, and how wide they were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntervalFigures {
    /// The decile of *true* progress, 1 to 10; none for all tokens.
    pub decile: Option<usize>,
    /// Tokens measured.
    pub tokens: usize,
    /// Share of tokens whose interval held the truth.
    pub coverage: Option<Interval>,
    /// Share whose truth lay below the interval.
    pub missed_below: f64,
    /// Mean width of the intervals in tokens.
    pub width_tokens: Option<Interval>,
    /// Mean absolute error of the remaining tokens.
    pub mae_tokens: Option<Interval>,
}

/// How the verdicts did on finished thoughts, none of which was stuck for good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VerdictFigures {
    /// Share of thoughts called stuck at some token: false alarms.
    pub false_alarms: f64,
    /// Share of thoughts that were called nearly done at their end.
    pub nearly_done_at_end: f64,
    /// Mean true progress of the tokens called nearly done; none if there are none.
    pub progress_when_nearly_done: Option<f64>,
}

/// What was measured with a calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibratedFigures {
    /// Problems that the calibration learned from.
    pub calibration_problems: usize,
    /// The coverage that the intervals claim.
    pub claimed_coverage: f64,
    /// Progress against the best baseline.
    pub progress_gain: Gain,
    /// Remaining tokens against the best baseline.
    pub remaining_gain: Gain,
    /// All tokens.
    pub overall: IntervalFigures,
    /// The mean over thoughts of each thought's own coverage.
    pub coverage_per_trace: Option<Interval>,
    /// By decile of true progress.
    pub deciles: Vec<IntervalFigures>,
    /// The time left in seconds; none where the times of the tokens were not recorded.
    #[serde(default)]
    pub seconds: Option<SecondsFigures>,
    /// The verdicts.
    pub verdicts: VerdictFigures,
}

/// Everything that `evaluate reading` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadingReport {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Problems measured.
    pub problems: usize,
    /// Thoughts measured.
    pub traces: usize,
    /// Tokens measured.
    pub tokens: usize,
    /// Mean length of the thoughts in tokens.
    pub mean_thinking_tokens: f64,
    /// How the intervals around figures were made.
    pub bootstrap: Bootstrap,
    /// Every source.
    pub sources: Vec<SourceFigures>,
    /// What only a calibrated reading has.
    pub calibrated: Option<CalibratedFigures>,
}

/// Measures every source on finished thoughts of problems that neither the heads nor the calibration have seen.
/// `known_lengths` are the thinking lengths, in tokens, that the baselines learn from.
pub fn evaluate(
    traces: &[HeadTrace],
    calibration: Option<&Calibration>,
    known_lengths: &[u32],
    bootstrap: &Bootstrap,
) -> Result<ReadingReport, EvaluationError> {
    traces.iter().try_for_each(HeadTrace::check)?;
    let baselines = Baselines::fit(known_lengths)?;
    let shared = calibration.cloned().map(Arc::new);
    let mut thoughts: Vec<Measured> = traces.par_iter().map(|trace| Measured::new(trace, shared.as_ref())).collect();
    thoughts.retain(|thought| !thought.steps.is_empty());
    let wanted = Source::ALL.into_par_iter().filter(|&source| source != Source::Calibrated || calibration.is_some());
    let series: Vec<Series> = wanted.map(|source| baselines.series(source, &thoughts)).collect();
    let sources = series.par_iter().map(|series| series.figures(bootstrap)).collect::<Result<Vec<_>, _>>()?;
    let calibrated =
        calibration.map(|known| calibrated_figures(known, &thoughts, &baselines, (&series, &sources), bootstrap));
    let lengths: f64 = thoughts.iter().map(Measured::length).sum();
    Ok(ReadingReport {
        version: REPORT_VERSION,
        problems: sources[0].progress.problems,
        traces: sources[0].progress.traces,
        tokens: sources[0].progress.rows,
        mean_thinking_tokens: lengths / thoughts.len() as f64,
        bootstrap: *bootstrap,
        sources,
        calibrated: calibrated.transpose()?,
    })
}

/// One token with everything that a source may want to know there.
struct Step {
    position: u32,
    values: HeadValues,
    /// Exponential averages of the values so far.
    smoothed: HeadValues,
    /// The highest smoothed progress so far.
    highest: f32,
    reading: Option<Reading>,
    /// Speed and time, where they were recorded.
    clock: Option<Clock>,
}

/// One thought and its tokens at which every head has a value.
struct Measured<'a> {
    trace: &'a HeadTrace,
    steps: Vec<Step>,
}

impl<'a> Measured<'a> {
    fn new(trace: &'a HeadTrace, calibration: Option<&Arc<Calibration>>) -> Self {
        let mut filter = calibration.map(|calibration| ReadingFilter::new(Some(Arc::clone(calibration)), None));
        let (mut steps, mut smoothed, mut highest) = (Vec::new(), None, 0f32);
        let mut stopwatch = Stopwatch::new(trace);
        for (position, values) in trace.steps() {
            let clock = stopwatch.at(position);
            if !is_present(&values) {
                continue;
            }
            let average = smoothed.map_or(values, |average| smooth(average, values));
            smoothed = Some(average);
            highest = highest.max(average.progress);
            // Verdicts on loops need the tokens; made-up ones that never repeat stand for them.
            let reading = filter.as_mut().map(|filter| filter.push(position, position, values));
            steps.push(Step { position, values, smoothed: average, highest, reading, clock });
        }
        Self { trace, steps }
    }

    /// What `predict` gives at every token, with what is true.
    fn series(&self, predict: impl Fn(&Step) -> f64, target: impl Fn(f64) -> f64) -> ReadingTrace {
        ReadingTrace {
            problem: self.trace.problem as u64,
            first_position: self.steps[0].position,
            predicted: self.steps.iter().map(predict).collect(),
            target: self.steps.iter().map(|step| target(f64::from(step.position))).collect(),
        }
    }

    fn length(&self) -> f64 {
        self.trace.thinking_tokens as f64
    }
}

fn is_present(values: &HeadValues) -> bool {
    [values.theta, values.progress, values.log_remaining].into_iter().all(f32::is_finite)
}

fn smooth(average: HeadValues, values: HeadValues) -> HeadValues {
    let step = |average: f32, value: f32| average + PAPER_EMA_WEIGHT * (value - average);
    HeadValues {
        theta: step(average.theta, values.theta),
        progress: step(average.progress, values.progress),
        log_remaining: step(average.log_remaining, values.log_remaining),
    }
}

/// The predictors that see no state.
struct Baselines {
    constant: ConstantLength,
    /// Ascending.
    lengths: Vec<u32>,
    mean: Baseline,
}

impl Baselines {
    fn fit(known_lengths: &[u32]) -> Result<Self, EvaluationError> {
        let mut lengths: Vec<u32> = known_lengths.iter().copied().filter(|&length| length > 0).collect();
        lengths.sort_unstable();
        let constant = ConstantLength::fit(&lengths).ok_or(EvaluationError::NoLengths)?;
        let mean = Baseline::of_lengths(&lengths)?;
        Ok(Self { constant, lengths, mean })
    }

    /// The median of the lengths of at least `position` tokens; `position` itself where there are none.
    fn median_length(&self, position: u32) -> f64 {
        let possible = &self.lengths[self.lengths.partition_point(|&length| length < position)..];
        let middle = |place: usize| possible.get(place).map_or(f64::from(position), |&length| f64::from(length));
        (middle(possible.len().saturating_sub(1) / 2) + middle(possible.len() / 2)) / 2.0
    }

    /// Progress and tokens left according to one source.
    fn predict(&self, source: Source, step: &Step) -> (f64, f64) {
        let (j, highest) = (f64::from(step.position), f64::from(step.highest));
        match source {
            Source::Theta => by_division(j, f64::from(step.values.theta)),
            Source::ThetaSmoothed => by_division(j, f64::from(step.smoothed.theta)),
            Source::Head => by_heads(&step.values),
            Source::HeadSmoothed => by_heads(&step.smoothed),
            Source::HeadMonotone => by_division(j, highest),
            Source::Calibrated => by_reading(step.reading.as_ref()),
            Source::ConstantLength => by_length(j, self.constant.tokens),
            Source::PositionMedian => by_length(j, self.median_length(step.position)),
            Source::PositionMean => by_division(j, self.mean.predict(step.position, 0.0)),
        }
    }

    fn series(&self, source: Source, thoughts: &[Measured]) -> Series {
        let progress = |m: &Measured| m.series(|step| self.predict(source, step).0, |j| j / m.length());
        let remaining = |m: &Measured| m.series(|step| self.predict(source, step).1, |j| m.length() - j);
        Series {
            source,
            progress: thoughts.iter().map(progress).collect(),
            remaining: thoughts.iter().map(remaining).collect(),
        }
    }
}

fn by_division(position: f64, progress: f64) -> (f64, f64) {
    let progress = progress.clamp(0.0, 1.0);
    (progress, position / progress.max(LEAST_PROGRESS) - position)
}

fn by_length(position: f64, length: f64) -> (f64, f64) {
    ((position / length).min(1.0), (length - position).max(0.0))
}

fn by_heads(values: &HeadValues) -> (f64, f64) {
    let log_remaining = f64::from(values.log_remaining).clamp(0.0, GREATEST_LOG_REMAINING);
    (f64::from(values.progress).clamp(0.0, 1.0), log_remaining.exp_m1())
}

fn by_reading(reading: Option<&Reading>) -> (f64, f64) {
    let progress = reading.and_then(|reading| reading.progress);
    let remaining = reading.and_then(|reading| reading.remaining_tokens);
    (progress.map_or(f64::NAN, f64::from), remaining.map_or(f64::NAN, |estimate| f64::from(estimate.value)))
}

/// What one source predicted, and what was true, for every thought.
struct Series {
    source: Source,
    progress: Vec<ReadingTrace>,
    remaining: Vec<ReadingTrace>,
}

impl Series {
    fn figures(&self, bootstrap: &Bootstrap) -> Result<SourceFigures, MetricsError> {
        let (progress, remaining_tokens) = (measure(&self.progress, bootstrap)?, measure(&self.remaining, bootstrap)?);
        Ok(SourceFigures { source: self.source, progress, remaining_tokens })
    }
}

/// Everything that only a calibrated reading has, from all sources' series and figures.
fn calibrated_figures(
    calibration: &Calibration,
    thoughts: &[Measured],
    baselines: &Baselines,
    (series, sources): (&[Series], &[SourceFigures]),
    bootstrap: &Bootstrap,
) -> Result<CalibratedFigures, MetricsError> {
    let outcomes: Vec<Outcome> = thoughts.iter().flat_map(outcomes).collect();
    let deciles = (1..=DECILES).map(|decile| IntervalFigures::of(Some(decile), &outcomes, bootstrap)).collect();
    Ok(CalibratedFigures {
        calibration_problems: calibration.problems,
        claimed_coverage: calibration.coverage,
        progress_gain: gain(series, sources, |s| &s.progress, |f| &f.progress, bootstrap)?,
        remaining_gain: gain(series, sources, |s| &s.remaining, |f| &f.remaining_tokens, bootstrap)?,
        overall: IntervalFigures::of(None, &outcomes, bootstrap),
        coverage_per_trace: coverage_per_trace(thoughts, bootstrap),
        deciles,
        seconds: seconds::figures(thoughts, baselines, bootstrap)?,
        verdicts: verdict_figures(thoughts),
    })
}

fn gain(
    series: &[Series],
    sources: &[SourceFigures],
    traces: impl Fn(&Series) -> &Vec<ReadingTrace>,
    figures: impl Fn(&SourceFigures) -> &Figures,
    bootstrap: &Bootstrap,
) -> Result<Gain, MetricsError> {
    let best_baseline = best_of(sources.iter().map(|it| (it.source, figures(it))));
    let of =
        |source: Source| series.iter().find(|series| series.source == source).map_or(&[][..], |series| traces(series));
    Ok(Gain { best_baseline, difference: paired_difference(of(Source::Calibrated), of(best_baseline), bootstrap)? })
}

/// The baseline with the lowest pooled mean absolute error.
fn best_of<'a>(figures: impl Iterator<Item = (Source, &'a Figures)>) -> Source {
    let error = |figures: &Figures| figures.mae.map_or(f64::INFINITY, |mae| mae.value);
    let baselines = figures.filter(|(source, _)| source.is_baseline());
    baselines.min_by(|a, b| error(a.1).total_cmp(&error(b.1))).map_or(Source::ConstantLength, |best| best.0)
}

/// The decile of true progress at a position, 1 to 10.
fn decile(position: u32, length: f64) -> usize {
    (DECILES as f64 * f64::from(position) / length).ceil() as usize
}

/// How the interval at one token did.
struct Outcome {
    problem: u64,
    /// Of true progress, 1 to 10.
    decile: usize,
    held: bool,
    below: bool,
    width_tokens: f64,
    error_tokens: f64,
}

fn outcomes(thought: &Measured) -> Vec<Outcome> {
    let (problem, length) = (thought.trace.problem as u64, thought.length());
    let outcome = |step: &Step| {
        let left = step.reading?.remaining_tokens?;
        let truth = length - f64::from(step.position);
        Some(Outcome {
            problem,
            decile: decile(step.position, length),
            held: (f64::from(left.low)..=f64::from(left.high)).contains(&truth),
            below: truth < f64::from(left.low),
            width_tokens: f64::from(left.high) - f64::from(left.low),
            error_tokens: (f64::from(left.value) - truth).abs(),
        })
    };
    thought.steps.iter().filter_map(outcome).collect()
}

impl IntervalFigures {
    fn of(decile: Option<usize>, outcomes: &[Outcome], bootstrap: &Bootstrap) -> Self {
        let chosen: Vec<&Outcome> =
            outcomes.iter().filter(|o| decile.is_none_or(|decile| o.decile == decile)).collect();
        let mean = |value: fn(&Outcome) -> f64| {
            bootstrap.mean(&chosen.iter().map(|outcome| (outcome.problem, value(outcome))).collect::<Vec<_>>())
        };
        let below = chosen.iter().filter(|outcome| outcome.below).count();
        Self {
            decile,
            tokens: chosen.len(),
            coverage: mean(|outcome| f64::from(u8::from(outcome.held))),
            missed_below: below as f64 / chosen.len().max(1) as f64,
            width_tokens: mean(|outcome| outcome.width_tokens),
            mae_tokens: mean(|outcome| outcome.error_tokens),
        }
    }
}

fn coverage_per_trace(thoughts: &[Measured], bootstrap: &Bootstrap) -> Option<Interval> {
    let share = |thought: &Measured| {
        let outcomes = outcomes(thought);
        let held = outcomes.iter().filter(|outcome| outcome.held).count();
        (thought.trace.problem as u64, held as f64 / outcomes.len() as f64)
    };
    bootstrap.mean(&thoughts.iter().map(share).collect::<Vec<_>>())
}

fn verdict_figures(thoughts: &[Measured]) -> VerdictFigures {
    let verdict = |step: &Step| step.reading.map_or(Verdict::Unknown, |reading| reading.verdict);
    let share = |of: &dyn Fn(&Measured) -> bool| {
        thoughts.iter().filter(|thought| of(thought)).count() as f64 / thoughts.len() as f64
    };
    let near: Vec<f64> = thoughts
        .iter()
        .flat_map(|thought| thought.steps.iter().map(move |step| (step, thought.length())))
        .filter(|(step, _)| verdict(step) == Verdict::NearlyDone)
        .map(|(step, length)| f64::from(step.position) / length)
        .collect();
    VerdictFigures {
        false_alarms: share(&|thought| thought.steps.iter().any(|step| verdict(step) == Verdict::Stuck)),
        nearly_done_at_end: share(&|thought| thought.steps.last().map(verdict) == Some(Verdict::NearlyDone)),
        progress_when_nearly_done: (!near.is_empty()).then(|| near.iter().sum::<f64>() / near.len() as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::calibration::calibrate;
    use super::super::synthetic::traces;
    use super::*;

    const FEW: Bootstrap = Bootstrap { resamples: 50, coverage: 0.95, seed: 1 };

    fn report() -> ReadingReport {
        let calibration = calibrate(&traces(30, 6)).expect("enough problems");
        evaluate(&traces(30, 7), Some(&calibration), &calibration.lengths, &FEW).expect("traces to measure")
    }

    fn figures(report: &ReadingReport, source: Source) -> &SourceFigures {
        report.sources.iter().find(|figures| figures.source == source).expect("measured")
    }

    #[test]
    fn figures_of_one_source_are_those_of_its_definition() {
        let traces = traces(3, 2);
        let report = evaluate(&traces, None, &[100, 140, 120], &FEW).expect("traces to measure");
        let (mut progress, mut remaining, mut tokens) = (0.0, 0.0, 0.0);
        for trace in &traces {
            let n = trace.thinking_tokens as f64;
            for (j, _) in trace.steps() {
                let j = f64::from(j);
                progress += ((j / 120.0).min(1.0) - j / n).abs();
                remaining += ((120.0 - j).max(0.0) - (n - j)).abs();
                tokens += 1.0;
            }
        }
        let constant = figures(&report, Source::ConstantLength);
        let mae = |figures: &Figures| figures.mae.expect("measured").value;
        assert!((mae(&constant.progress) - progress / tokens).abs() < 1e-12);
        assert!((mae(&constant.remaining_tokens) - remaining / tokens).abs() < 1e-9);
        assert_eq!((report.problems, report.traces, report.tokens), (3, 6, tokens as usize));
        assert!(report.calibrated.is_none());
        assert!(report.sources.iter().all(|figures| figures.source != Source::Calibrated));
    }

    #[test]
    fn the_median_length_is_that_of_the_lengths_still_possible() {
        let baselines = Baselines::fit(&[40, 10, 30, 20]).expect("lengths");
        let medians = [1, 10, 11, 21, 31, 40, 41].map(|position| baselines.median_length(position));
        assert_eq!(medians, [25.0, 25.0, 30.0, 35.0, 40.0, 40.0, 41.0]);
    }

    #[test]
    fn deciles_add_up_to_the_whole() {
        let calibrated = report().calibrated.expect("calibrated");
        let (all, deciles) = (&calibrated.overall, &calibrated.deciles);
        assert_eq!(deciles.iter().map(|figures| figures.tokens).sum::<usize>(), all.tokens);
        let value = |interval: Option<Interval>| interval.map_or(0.0, |interval| interval.value);
        for of in
            [|f: &IntervalFigures| f.coverage, |f: &IntervalFigures| f.width_tokens, |f: &IntervalFigures| f.mae_tokens]
        {
            let sum: f64 = deciles.iter().map(|decile| decile.tokens as f64 * value(of(decile))).sum();
            assert!((sum / all.tokens as f64 - value(of(all))).abs() < 1e-6 * value(of(all)));
        }
    }

    #[test]
    fn the_gain_is_the_difference_from_the_best_baseline() {
        let report = report();
        let gain = &report.calibrated.as_ref().expect("calibrated").progress_gain;
        let mae = |source| figures(&report, source).progress.mae.expect("measured").value;
        let best = Source::ALL.into_iter().filter(|source| source.is_baseline()).map(mae).fold(f64::INFINITY, f64::min);
        assert_eq!(mae(gain.best_baseline), best);
        assert!((gain.difference.mae.expect("paired").value - (mae(Source::Calibrated) - best)).abs() < 1e-12);
        assert!(best > 2.0 * mae(Source::Calibrated), "the made-up heads know more than the position");
    }

    #[test]
    fn tokens_without_values_are_left_out_everywhere() {
        let mut traces = traces(4, 8);
        let whole: usize = traces.iter().map(|trace| trace.values.len()).sum();
        traces[0].values[0].theta = f32::NAN;
        traces[1].values.iter_mut().for_each(|values| values.progress = f32::INFINITY);
        let lost = 1 + traces[1].values.len();
        let report = evaluate(&traces, None, &[100], &FEW).expect("traces to measure");
        assert_eq!((report.tokens, report.traces), (whole - lost, traces.len() - 1));
    }

    #[test]
    fn nothing_to_measure_or_to_learn_from_is_an_error() {
        assert_eq!(evaluate(&[], None, &[100], &FEW), Err(EvaluationError::Metrics(MetricsError::Empty)));
        assert_eq!(evaluate(&traces(2, 1), None, &[], &FEW), Err(EvaluationError::NoLengths));
    }

    #[test]
    fn survives_json() {
        let report = report();
        let text = serde_json::to_string(&report).expect("numbers and names");
        assert_eq!(serde_json::from_str::<ReadingReport>(&text).expect("valid"), report);
    }
}
