//! Figures of readings as tables.

use crate::table::{figure, table};
use tpv_core::bootstrap::Interval;
use tpv_core::reading::evaluation::{CalibratedFigures, Gain, IntervalFigures, ReadingReport, Source, SourceFigures};

/// What `train` shows: the calibrated reading against the baselines, and its coverage.
pub fn summary(report: &ReadingReport) -> String {
    let shown = |it: &&SourceFigures| it.source == Source::Calibrated || it.source.is_baseline();
    let rows = report
        .sources
        .iter()
        .filter(shown)
        .map(|it| vec![name(it.source).into(), figure(it.progress.mae, 3), figure(it.remaining_tokens.mae, 1)]);
    let rows = table(&["readings of held-out problems", "MAE progress", "MAE tokens left"], rows);
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
    table(&["", "MSE progress", "MAE progress", "Spearman", "MAE tokens left"], rows)
}

/// Coverage, width and error by decile of true progress.
pub fn deciles(calibrated: &CalibratedFigures) -> String {
    let row = |it: &IntervalFigures| {
        let name = it.decile.map_or("all".into(), |decile| format!("{}-{} %", decile * 10 - 10, decile * 10));
        let percent = it.coverage.map(|share| Interval {
            value: 100.0 * share.value,
            low: 100.0 * share.low,
            high: 100.0 * share.high,
        });
        vec![name, it.tokens.to_string(), figure(percent, 1), figure(it.width_tokens, 0), figure(it.mae_tokens, 1)]
    };
    let rows = calibrated.deciles.iter().chain([&calibrated.overall]).map(row);
    table(&["true progress", "tokens", "covered, %", "interval width", "MAE tokens left"], rows)
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
