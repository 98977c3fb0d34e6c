//! Pictures of what a head read along held-out thoughts.

use super::page::Section;
use super::plot::{Mark, Plot, Point, Series};
use serde::{Deserialize, Serialize};

/// What a head read along one held-out thought; a line of `test_readings.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadingLine {
    /// The problem.
    pub problem: u64,
    /// Progress as read at positions 1, 2, ...
    pub predicted: Vec<f32>,
    /// What it should have been.
    pub target: Vec<f32>,
}

/// Traces that are drawn one after the other; more would be a blur.
const SHOWN: usize = 8;

/// The sections of held-out readings: against the truth in time order, as trajectories, and calibration.
pub fn sections(traces: &[ReadingLine]) -> Vec<Section> {
    if traces.is_empty() {
        return Vec::new();
    }
    vec![in_time_order(traces), trajectories(traces), calibration(traces)]
}

fn in_time_order(traces: &[ReadingLine]) -> Section {
    let shown = &traces[..traces.len().min(SHOWN)];
    let mut token = 0.0;
    let (mut read, mut truth) = (Vec::new(), Vec::new());
    for trace in shown {
        for (&predicted, &target) in trace.predicted.iter().zip(&trace.target) {
            token += 1.0;
            read.push(Point::new(token, f64::from(predicted)));
            truth.push(Point::new(token, f64::from(target)));
        }
    }
    let series = vec![
        Series { name: "theta . h".into(), mark: Mark::Points, points: read, colour: 0 },
        Series { name: "truth, j / N".into(), mark: Mark::Line, points: truth, colour: 1 },
    ];
    Section {
        name: "predictions",
        text: format!(
            "The first {} held-out thoughts one after the other, each token in its place in time; raw readings, not smoothed.",
            shown.len()
        ),
        plot: Plot {
            title: "Does the reading follow the truth?".into(),
            x_label: "thinking token".into(),
            y_label: "progress".into(),
            series,
        },
    }
}

fn trajectories(traces: &[ReadingLine]) -> Section {
    let thread = |(number, trace): (usize, &ReadingLine)| {
        let mut average = None;
        let points = trace.predicted.iter().zip(&trace.target).map(|(&predicted, &target)| {
            let smoothed = average.map_or(predicted, |average: f32| average + 0.1 * (predicted - average));
            average = Some(smoothed);
            Point::new(f64::from(target), f64::from(smoothed))
        });
        Series { name: String::new(), mark: Mark::Thread, points: points.collect(), colour: number }
    };
    let mut series: Vec<Series> = traces.iter().take(40).enumerate().map(thread).collect();
    series.push(diagonal());
    Section {
        name: "trajectories",
        text: "Each thread is one held-out thought, smoothed as in the paper (weight 0.1); on the dashed line it would be right at every token.".into(),
        plot: Plot { title: "How does each thought go?".into(), x_label: "true progress".into(), y_label: "progress read, smoothed".into(), series },
    }
}

fn diagonal() -> Series {
    let points = vec![Point::new(0.0, 0.0), Point::new(1.0, 1.0)];
    Series { name: "perfect".into(), mark: Mark::Dashes, points, colour: 7 }
}

fn calibration(traces: &[ReadingLine]) -> Section {
    let mut bins: Vec<Vec<f64>> = vec![Vec::new(); 10];
    for (&predicted, &target) in traces.iter().flat_map(|trace| trace.predicted.iter().zip(&trace.target)) {
        bins[((predicted * 10.0).clamp(0.0, 9.0)) as usize].push(f64::from(target));
    }
    let point = |(bin, mut values): (usize, Vec<f64>)| {
        values.sort_by(f64::total_cmp);
        let at = |share| tpv_core::bootstrap::quantile(&values, share);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Point { x: (bin as f64 + 0.5) / 10.0, y: mean, interval: Some((at(0.1)?, at(0.9)?)) })
    };
    let points = bins.into_iter().enumerate().filter_map(point).collect();
    let series = vec![Series { name: "mean, 80 % of tokens".into(), mark: Mark::Line, points, colour: 0 }, diagonal()];
    Section {
        name: "calibration",
        text: "True progress of the held-out tokens at which a progress was read; the band holds eight tokens in ten."
            .into(),
        plot: Plot {
            title: "What does a reading mean?".into(),
            x_label: "progress read (raw)".into(),
            y_label: "true progress".into(),
            series,
        },
    }
}
