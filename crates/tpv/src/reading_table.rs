//! Figures of readings as tables.

use crate::console::Console;
use crate::table::{figure, table};
use tpv_core::bootstrap::Interval;
use tpv_core::metrics::Figures;
use tpv_core::reading::evaluation::seconds::{SecondsDecile, SecondsFigures};
use tpv_core::reading::evaluation::{CalibratedFigures, Gain, IntervalFigures, ReadingReport, Source};

/// With fewer problems than this, intervals by problem were measured to hold the truth in clearly less than 95 of 100 cases.
const FEW_PROBLEMS: usize = 60;

/// What to know of intervals by problem where there are few.
pub fn warn_of_few_problems(problems: usize, console: &Console) {
    if problems == 1 {
        console.notice("all these figures are of one problem: their intervals say nothing");
    } else if problems < FEW_PROBLEMS {
        console.notice(format!(
            "all these figures are of {problems} problems: intervals of so few hold the truth less often than they say (docs/READING.md)"
        ));
    }
}

/// What to know of intervals of the pooled rank correlation where rows are so many that they are of fewer resamples.
pub fn tell_of_fewer_resamples(figures: Option<&Figures>, asked: usize, console: &Console) {
    if let Some(figures) = figures.filter(|it| it.spearman.is_some() && it.spearman_resamples < asked) {
        let Figures { rows, spearman_resamples, .. } = figures;
        console.notice(format!(
            "with {rows} tokens the intervals of Spearman are of {spearman_resamples} resamples, all others of {asked}"
        ));
    }
}

/// The calibrated reading and the baselines, each with its mean absolute errors of progress and of tokens left.
pub fn summary_rows(report: &ReadingReport) -> impl Iterator<Item = Vec<String>> {
    let shown = report.sources.iter().filter(|it| it.source == Source::Calibrated || it.source.is_baseline());
    shown.map(|it| vec![name(it.source).into(), figure(it.progress.mae, 3), figure(it.remaining_tokens.mae, 1)])
}

/// What `train` shows: the calibrated reading against the baselines, and its coverage.
pub fn summary(report: &ReadingReport) -> String {
    let rows = table(&["readings of held-out problems", "MAE progress", "MAE tokens left"], summary_rows(report));
    match &report.calibrated {
        Some(calibrated) => format!("{rows}\n{}", coverage_sentence(calibrated)),
        None => rows,
    }
}

/// Every source with all its figures.
pub fn sources(report: &ReadingReport) -> String {
    let rows = report.sources.iter().map(|it| {
        let of = &it.progress;
        vec![
            name(it.source).into(),
            figure(of.mse, 4),
            figure(of.mae, 3),
            figure(of.spearman, 3),
            figure(it.remaining_tokens.mae, 1),
        ]
    });
    table(&["all tokens pooled", "MSE progress", "MAE progress", "Spearman", "MAE tokens left"], rows)
}

/// The same figures as means over thoughts, in which a long thought counts as much as a short one.
pub fn per_thought(report: &ReadingReport) -> String {
    let rows = report.sources.iter().map(|it| {
        let (of, left) = (&it.progress, &it.remaining_tokens);
        let figures = [figure(of.trace_mse, 4), figure(of.trace_mae, 3), figure(of.trace_spearman, 3)];
        [vec![name(it.source).into()], figures.into(), vec![figure(left.trace_mae, 1)]].concat()
    });
    table(&["mean over thoughts", "MSE progress", "MAE progress", "Spearman", "MAE tokens left"], rows)
}

/// Coverage, width and error by decile of true progress.
pub fn deciles(calibrated: &CalibratedFigures) -> String {
    let row = |it: &IntervalFigures| {
        let coverage = figure(it.coverage.map(percent), 1);
        vec![span(it.decile), it.tokens.to_string(), coverage, figure(it.width_tokens, 0), figure(it.mae_tokens, 1)]
    };
    let rows = calibrated.deciles.iter().chain([&calibrated.overall]).map(row);
    table(&["true progress", "tokens", "covered, %", "interval width", "MAE tokens left"], rows)
}

/// The time left in seconds: the sources' errors, then coverage, width and error by decile of true progress.
pub fn seconds(seconds: &SecondsFigures) -> String {
    let scale = SecondsScale::of(seconds.mean_thinking_secs);
    let sources = seconds.sources.iter().map(|it| vec![name(it.source).into(), scale.figure(it.remaining_secs.mae)]);
    let mae = format!("MAE of the time left, {}", scale.unit);
    let sources = table(&["", &mae], sources);
    let row = |it: &SecondsDecile| {
        let [width, mae, baseline] = [it.width_secs, it.mae_secs, it.baseline_mae_secs].map(|it| scale.figure(it));
        vec![span(it.decile), figure(it.coverage.map(percent), 1), width, mae, baseline]
    };
    let headings = ["true progress", "covered, %", "interval width", "MAE", "MAE of the best baseline"];
    let deciles = table(&headings, seconds.deciles.iter().chain([&seconds.overall]).map(row));
    format!(
        "{sources}\n{deciles}\ntime left in {} at the measured speed, for {} thoughts with recorded times, {} {} long on average; \
         MAE less that of the best baseline ({}): {}",
        scale.unit,
        seconds.traces,
        (scale.per_sec * seconds.mean_thinking_secs).round(),
        scale.unit,
        name(seconds.gain.best_baseline),
        scale.figure(seconds.gain.difference.mae)
    )
}

/// The unit that suits how long thoughts take.
struct SecondsScale {
    unit: &'static str,
    per_sec: f64,
}

impl SecondsScale {
    fn of(mean_secs: f64) -> Self {
        if mean_secs < 5.0 { Self { unit: "ms", per_sec: 1000.0 } } else { Self { unit: "s", per_sec: 1.0 } }
    }

    fn figure(&self, secs: Option<Interval>) -> String {
        figure(secs.map(|it| scaled(it, self.per_sec)), usize::from(self.per_sec < 2.0))
    }
}

fn percent(share: Interval) -> Interval {
    scaled(share, 100.0)
}

fn scaled(it: Interval, by: f64) -> Interval {
    Interval { value: by * it.value, low: by * it.low, high: by * it.high }
}

/// What a decile of true progress is called.
fn span(decile: Option<usize>) -> String {
    decile.map_or("all".into(), |decile| format!("{}-{} %", decile * 10 - 10, decile * 10))
}

/// How often the intervals held what they claim.
pub fn coverage_sentence(calibrated: &CalibratedFigures) -> String {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let covered = calibrated.overall.coverage.map_or_else(
        || "an unknown share".into(),
        |it| format!("{} % ({} to {})", percent(it.value), percent(it.low), percent(it.high)),
    );
    format!("the intervals of the tokens left claim {} % and covered {covered}", percent(calibrated.claimed_coverage))
}

/// What a source is called in tables.
pub fn name(source: Source) -> &'static str {
    match source {
        Source::Theta => "theta",
        Source::ThetaSmoothed => "theta, EMA 0.1 (the paper's display)",
        Source::Head => "head with intercept",
        Source::HeadSmoothed => "head, EMA 0.1",
        Source::HeadMonotone => "head, EMA 0.1, monotone",
        Source::Calibrated => "calibrated reading",
        Source::ConstantLength => "constant length",
        Source::PositionMedian => "position only (median length)",
        Source::PositionMean => "position only (mean progress)",
    }
}

/// The calibrated reading less the best baseline.
pub fn gains(calibrated: &CalibratedFigures) -> String {
    let part = |what: &str, gain: &Gain, digits| {
        format!("{what}: {} ({})", figure(gain.difference.mae, digits), name(gain.best_baseline))
    };
    format!(
        "MAE of the calibrated reading less that of the best baseline: {}; {}\n\
         stuck was said in {:.1} % of these finished thoughts; 95 % bootstrap intervals by problem",
        part("progress", &calibrated.progress_gain, 3),
        part("tokens left", &calibrated.remaining_gain, 1),
        100.0 * calibrated.verdicts.false_alarms
    )
}
