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

/// Thoughts that are drawn over each other.
const MOST_THREADS: usize = 40;

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
    let thread = |trace: &ReadingLine| {
        let mut average = None;
        let points = trace.predicted.iter().zip(&trace.target).map(|(&predicted, &target)| {
            let smoothed = average.map_or(predicted, |average: f32| average + 0.1 * (predicted - average));
            average = Some(smoothed);
            Point::new(f64::from(target), f64::from(smoothed))
        });
        Series { name: "a thought".into(), mark: Mark::Thread, points: points.collect(), colour: 0 }
    };
    let shown = &traces[..traces.len().min(MOST_THREADS)];
    let mut series: Vec<Series> = shown.iter().map(thread).collect();
    series.push(diagonal());
    Section {
        name: "trajectories",
        text: format!(
            "Each thread is one of {} held-out thoughts ({} in all), smoothed as in the paper (weight 0.1); on the dashed line it would be right at every token.",
            shown.len(),
            traces.len()
        ),
        plot: Plot {
            title: "How does each thought go?".into(),
            x_label: "true progress".into(),
            y_label: "progress read, smoothed".into(),
            series,
        },
    }
}

fn diagonal() -> Series {
    let points = vec![Point::new(0.0, 0.0), Point::new(1.0, 1.0)];
    Series { name: "perfect".into(), mark: Mark::Dashes, points, colour: 7 }
}

fn calibration(traces: &[ReadingLine]) -> Section {
    let mut pairs: Vec<(f64, f64)> = traces
        .iter()
        .flat_map(|trace| trace.predicted.iter().zip(&trace.target))
        .map(|(&predicted, &target)| (f64::from(predicted), f64::from(target)))
        .collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mean = |values: &mut dyn Iterator<Item = f64>, count: usize| values.sum::<f64>() / count as f64;
    // Tenths of the tokens by their reading: each dot lies at the mean reading of its tenth.
    let point = |tenth: &[(f64, f64)]| {
        let mut targets: Vec<f64> = tenth.iter().map(|pair| pair.1).collect();
        targets.sort_by(f64::total_cmp);
        let at = |share| tpv_core::bootstrap::quantile(&targets, share);
        let x = mean(&mut tenth.iter().map(|pair| pair.0), tenth.len());
        Some(Point { x, y: mean(&mut targets.iter().copied(), tenth.len()), interval: Some((at(0.1)?, at(0.9)?)) })
    };
    let points = pairs.chunks(pairs.len().div_ceil(10).max(1)).filter_map(point).collect();
    let series = vec![Series { name: "mean, 80 % of tokens".into(), mark: Mark::Line, points, colour: 0 }, diagonal()];
    Section {
        name: "calibration",
        text: "Tenths of the held-out tokens by the progress that was read: their mean reading and their mean true progress; the band holds eight tokens in ten."
            .into(),
        plot: Plot {
            title: "What does a reading mean?".into(),
            x_label: "progress read (raw)".into(),
            y_label: "true progress".into(),
            series,
        },
    }
}
