//! The time left in seconds, against the seconds that really passed until the end of the thinking.
//!
//! At token j every source's tokens left become seconds by the speed of this thought so far ([`SpeedMeter`]), just as the live
//! line does it; the truth is `t_N - t_j`. All sources share the speed, so what differs is what they know of the length.
//! Tokens whose time was not recorded, or that came before a speed is claimed, are left out.

use super::{Baselines, DECILES, Gain, Measured, Source, best_of, decile};
use crate::bootstrap::{Bootstrap, Interval};
use crate::metrics::{Figures, MetricsError, ReadingTrace, measure, paired_difference};
use crate::reading::{HeadTrace, SpeedMeter, TokenTimes};
use serde::{Deserialize, Serialize};

/// What is compared: the calibrated reading and the baselines.
const SOURCES: [Source; 4] = [Source::Calibrated, Source::ConstantLength, Source::PositionMedian, Source::PositionMean];

/// One source's errors in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceSeconds {
    /// Whose.
    pub source: Source,
    /// Errors of the seconds left.
    pub remaining_secs: Figures,
}

/// How often the interval in seconds held the truth, how wide it was, and how far its middle was off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecondsDecile {
    /// The decile of *true* progress, 1 to 10; none for all tokens.
    pub decile: Option<usize>,
    /// Tokens measured.
    pub tokens: usize,
    /// Share of tokens whose interval held the truth.
    pub coverage: Option<Interval>,
    /// Mean width of the intervals in seconds.
    pub width_secs: Option<Interval>,
    /// Mean absolute error of the seconds left.
    pub mae_secs: Option<Interval>,
    /// That of the best baseline.
    pub baseline_mae_secs: Option<Interval>,
}

/// Everything that is measured in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecondsFigures {
    /// Thoughts whose times were recorded.
    pub traces: usize,
    /// Their mean length in seconds, from the first thinking token to the last.
    pub mean_thinking_secs: f64,
    /// The calibrated reading and the baselines.
    pub sources: Vec<SourceSeconds>,
    /// The calibrated reading against the best baseline.
    pub gain: Gain,
    /// All tokens.
    pub overall: SecondsDecile,
    /// By decile of true progress.
    pub deciles: Vec<SecondsDecile>,
}

/// What the clock says at one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Clock {
    /// The speed so far; it is claimed.
    speed: SpeedMeter,
    /// Seconds that really were left.
    secs_left: f64,
}

impl Clock {
    fn secs(&self, tokens: f64) -> f64 {
        self.speed.secs(tokens).unwrap_or(f64::NAN)
    }
}

/// Follows the recorded times of one thought.
pub(super) struct Stopwatch<'a> {
    times: &'a TokenTimes,
    end_secs: Option<f64>,
    meter: SpeedMeter,
    /// Tokens of the last step.
    step_tokens: usize,
}

impl<'a> Stopwatch<'a> {
    pub(super) fn new(trace: &'a HeadTrace) -> Self {
        let times = &trace.times;
        let end_secs = trace.thinking_tokens.checked_sub(1).and_then(|last| times.elapsed_secs.get(last)).copied();
        Self { times, end_secs, meter: SpeedMeter::default(), step_tokens: 0 }
    }

    /// The clock at the token of `position`, 1-based; positions come in order and none is left out.
    pub(super) fn at(&mut self, position: u32) -> Option<Clock> {
        let place = position as usize - 1;
        let now = *self.times.elapsed_secs.get(place)?;
        let step_secs = place.checked_sub(1).map_or(0.0, |before| now - self.times.elapsed_secs[before]);
        if step_secs > 0.0 {
            let tokens = std::mem::take(&mut self.step_tokens);
            let share = step_secs / tokens as f64;
            (place - tokens..place)
                .for_each(|token| self.meter.push(share, self.times.prompt_tokens + token, self.times.step_growth));
        }
        self.step_tokens += 1;
        self.meter.secs(1.0)?;
        Some(Clock { speed: self.meter, secs_left: self.end_secs? - now })
    }
}

/// The figures in seconds; `None` where no times were recorded.
pub(super) fn figures(
    thoughts: &[Measured],
    baselines: &Baselines,
    bootstrap: &Bootstrap,
) -> Result<Option<SecondsFigures>, MetricsError> {
    let timed: Vec<&Measured> = thoughts.iter().filter(|it| it.steps.iter().any(|step| step.clock.is_some())).collect();
    if timed.is_empty() {
        return Ok(None);
    }
    let series = SOURCES.map(|source| timed.iter().map(|it| seconds_left(it, source, baselines)).collect::<Vec<_>>());
    let sources = SOURCES.into_iter().zip(&series);
    let sources = sources
        .map(|(source, traces)| Ok(SourceSeconds { source, remaining_secs: measure(traces, bootstrap)? }))
        .collect::<Result<Vec<_>, MetricsError>>()?;
    let best_baseline = best_of(sources.iter().map(|it| (it.source, &it.remaining_secs)));
    let of_best = SOURCES.iter().position(|&source| source == best_baseline).unwrap_or(1);
    let difference = paired_difference(&series[0], &series[of_best], bootstrap)?;
    let outcomes: Vec<Outcome> = timed.iter().flat_map(|it| outcomes(it, best_baseline, baselines)).collect();
    let total: f64 = timed.iter().map(|it| thinking_secs(it)).sum();
    Ok(Some(SecondsFigures {
        traces: timed.len(),
        mean_thinking_secs: total / timed.len() as f64,
        sources,
        gain: Gain { best_baseline, difference },
        overall: SecondsDecile::of(None, &outcomes, bootstrap),
        deciles: (1..=DECILES).map(|decile| SecondsDecile::of(Some(decile), &outcomes, bootstrap)).collect(),
    }))
}

fn thinking_secs(thought: &Measured) -> f64 {
    let secs = &thought.trace.times.elapsed_secs[..thought.trace.thinking_tokens];
    secs.last().zip(secs.first()).map_or(0.0, |(last, first)| last - first)
}

/// What a source predicts, and what was true, at every token with a clock.
fn seconds_left(thought: &Measured, source: Source, baselines: &Baselines) -> ReadingTrace {
    let steps = || thought.steps.iter().filter_map(|step| Some((step, step.clock?)));
    let predict = |(step, clock): (&_, Clock)| clock.secs(baselines.predict(source, step).1);
    ReadingTrace {
        problem: thought.trace.problem as u64,
        first_position: steps().next().map_or(1, |(step, _)| step.position),
        predicted: steps().map(predict).collect(),
        target: steps().map(|(_, clock)| clock.secs_left).collect(),
    }
}

struct Outcome {
    problem: u64,
    decile: usize,
    held: bool,
    width_secs: f64,
    error_secs: f64,
    baseline_error_secs: f64,
}

fn outcomes(thought: &Measured, baseline: Source, baselines: &Baselines) -> Vec<Outcome> {
    let outcome = |step: &super::Step| {
        let clock = step.clock?;
        let left = clock.speed.remaining_secs(step.reading?.remaining_tokens?)?;
        let by_baseline = clock.secs(baselines.predict(baseline, step).1);
        Some(Outcome {
            problem: thought.trace.problem as u64,
            decile: decile(step.position, thought.length()),
            held: (f64::from(left.low)..=f64::from(left.high)).contains(&clock.secs_left),
            width_secs: f64::from(left.high) - f64::from(left.low),
            error_secs: (f64::from(left.value) - clock.secs_left).abs(),
            baseline_error_secs: (by_baseline - clock.secs_left).abs(),
        })
    };
    thought.steps.iter().filter_map(outcome).collect()
}

impl SecondsDecile {
    fn of(decile: Option<usize>, outcomes: &[Outcome], bootstrap: &Bootstrap) -> Self {
        let chosen: Vec<&Outcome> =
            outcomes.iter().filter(|it| decile.is_none_or(|decile| it.decile == decile)).collect();
        let mean = |value: fn(&Outcome) -> f64| {
            bootstrap.mean(&chosen.iter().map(|outcome| (outcome.problem, value(outcome))).collect::<Vec<_>>())
        };
        Self {
            decile,
            tokens: chosen.len(),
            coverage: mean(|outcome| f64::from(u8::from(outcome.held))),
            width_secs: mean(|outcome| outcome.width_secs),
            mae_secs: mean(|outcome| outcome.error_secs),
            baseline_mae_secs: mean(|outcome| outcome.baseline_error_secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::evaluate;
    use super::*;
    use crate::reading::calibration::calibrate;
    use crate::reading::synthetic::traces;

    const FEW: Bootstrap = Bootstrap { resamples: 20, coverage: 0.95, seed: 1 };

    /// Made-up thoughts whose tokens come every `step_secs`.
    fn timed(step_secs: f64) -> Vec<HeadTrace> {
        let mut traces = traces(20, 7);
        for trace in &mut traces {
            trace.times.elapsed_secs = (1..=trace.thinking_tokens).map(|j| 3.0 + step_secs * j as f64).collect();
        }
        traces
    }

    #[test]
    fn at_a_steady_speed_seconds_are_tokens_times_the_step() {
        let calibration = calibrate(&traces(30, 6)).expect("enough problems");
        let mut traces = timed(0.25);
        // Without the first four tokens, at which no speed is claimed, tokens and seconds are measured on the same.
        for trace in &mut traces {
            trace.values[..4].iter_mut().for_each(|values| values.theta = f32::NAN);
        }
        let report = evaluate(&traces, Some(&calibration), &calibration.lengths, &FEW).expect("traces to measure");
        let calibrated = report.calibrated.expect("calibrated");
        let seconds = calibrated.seconds.expect("timed");
        let value = |interval: Option<Interval>| interval.expect("measured").value;
        for (secs, tokens) in seconds.deciles.iter().zip(&calibrated.deciles) {
            assert_eq!((secs.decile, secs.tokens), (tokens.decile, tokens.tokens));
            assert!((value(secs.mae_secs) - 0.25 * value(tokens.mae_tokens)).abs() < 1e-3);
            assert!(value(secs.width_secs) > 0.25 * value(tokens.width_tokens), "the speed may change");
            assert!(value(secs.coverage) >= value(tokens.coverage));
        }
        assert_eq!(seconds.traces, 40);
        assert!((seconds.mean_thinking_secs - 0.25 * (report.mean_thinking_tokens - 1.0)).abs() < 1e-9);
        assert!(value(seconds.gain.difference.mae) < 0.0, "the made-up heads know more than the position");
    }

    #[test]
    fn tokens_of_one_step_share_its_time() {
        let mut traces = timed(0.1);
        // Three tokens a step, which takes three times as long.
        let steps = |tokens: usize| (0..tokens).map(|token| 0.3 * (token / 3) as f64);
        for trace in &mut traces {
            trace.times.elapsed_secs = steps(trace.thinking_tokens).collect();
        }
        for trace in &traces {
            let mut stopwatch = Stopwatch::new(trace);
            let clocks = (1..=trace.thinking_tokens as u32).filter_map(|position| stopwatch.at(position));
            let secs: Vec<f64> = clocks.map(|clock| clock.secs(10.0)).collect();
            assert!(secs.len() + 6 == trace.thinking_tokens, "from the third step on");
            assert!(secs.iter().all(|secs| (secs - 1.0).abs() < 1e-9), "{secs:?}");
        }
    }

    #[test]
    fn steps_that_grow_are_replayed_as_they_were_foreseen() {
        let growth = 0.02;
        let mut trace = timed(0.1).remove(0);
        let step = |token: usize| 0.1 * (1.0 + growth * (7 + token + 1) as f64);
        let mut now = 0.0;
        let elapsed = (0..trace.thinking_tokens).map(|token| {
            now += step(token);
            now
        });
        let elapsed_secs = elapsed.collect();
        trace.times = TokenTimes { elapsed_secs, prompt_tokens: 8, step_growth: growth };
        let mut stopwatch = Stopwatch::new(&trace);
        for position in 1..trace.thinking_tokens as u32 {
            let Some(clock) = stopwatch.at(position) else { continue };
            let left = trace.thinking_tokens - position as usize;
            assert!((clock.secs(left as f64) / clock.secs_left - 1.0).abs() < 1e-9, "{position}");
        }
    }

    #[test]
    fn without_times_there_are_no_seconds_and_untimed_thoughts_are_left_out() {
        let calibration = calibrate(&traces(30, 6)).expect("enough problems");
        let seconds = |traces: &[HeadTrace]| {
            let report = evaluate(traces, Some(&calibration), &calibration.lengths, &FEW).expect("traces to measure");
            report.calibrated.expect("calibrated").seconds
        };
        assert_eq!(seconds(&traces(20, 7)), None);
        let mut some = timed(0.1);
        some[1..].iter_mut().for_each(|trace| trace.times.elapsed_secs.clear());
        assert_eq!(seconds(&some).expect("one is timed").traces, 1);
    }
}
