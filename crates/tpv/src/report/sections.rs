//! What can be drawn from which file.

use super::page::Section;
use super::plot::{Mark, Plot, Point, Series};
use crate::sweep::arm::Arm;
use crate::sweep::effort::plain_alpha;
use crate::sweep::figures::{ArmFigures, SweepFigures, by_arm};
use crate::sweep::result::SweepResult;
use serde::{Deserialize, Serialize};
use tpv_core::bootstrap::Interval;

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
pub fn readings(traces: &[ReadingLine]) -> Vec<Section> {
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

fn interval(interval: Option<Interval>) -> Option<(f64, f64)> {
    interval.map(|it| (100.0 * it.low, 100.0 * it.high))
}

fn accuracy_point(row: &ArmFigures, x: f64) -> Point {
    let accuracy = row.accuracy.map_or(f64::NAN, |it| 100.0 * it.value);
    Point { x, y: accuracy, interval: interval(row.accuracy) }
}

/// The sections of a sweep.
pub fn sweep(figures: &SweepFigures, results: &[SweepResult]) -> Vec<Section> {
    let sections = [Some(frontier(figures)), over_caps(figures), over_alpha(figures), lengths(results)];
    sections.into_iter().flatten().collect()
}

fn families(figures: &SweepFigures) -> Vec<String> {
    let mut families: Vec<String> = Vec::new();
    for row in &figures.arms {
        if !families.contains(&row.family) {
            families.push(row.family.clone());
        }
    }
    families
}

/// Accuracy over the tokens that are really spent: each point one policy at one budget.
fn frontier(figures: &SweepFigures) -> Section {
    let constants = |row: &&ArmFigures| row.family.starts_with("constant:") && !row.family.contains(['@', '(']);
    let mut series = Vec::new();
    let uncapped: Vec<&ArmFigures> = figures.arms.iter().filter(|row| row.cap.is_none()).collect();
    let mut line = |name: &str, rows: Vec<&ArmFigures>| {
        let mut points: Vec<Point> = rows.iter().map(|row| accuracy_point(row, row.mean_tokens)).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        if !points.is_empty() {
            series.push(Series { name: name.to_owned(), mark: Mark::Line, points, colour: series.len() });
        }
    };
    line("cut without answer", figures.arms.iter().filter(|row| row.family == "none").collect());
    line("constant alpha, uncapped", uncapped.iter().copied().filter(constants).collect());
    line(
        "</think> bias, uncapped",
        uncapped
            .iter()
            .copied()
            .filter(|row| row.family.starts_with("think-end:") && !row.family.contains(['+', '(', '{']))
            .collect(),
    );
    for family in families(figures).iter().filter(|family| family.contains("{budget}")) {
        line(family, figures.arms.iter().filter(|row| row.family == *family).collect());
    }
    Section {
        name: "frontier",
        text: "Each point is a policy at one strength or budget; higher and further left is better. Tokens are those really spent; bands are 95 % bootstrap intervals by problem.".into(),
        plot: Plot { title: "What does a thinking token buy?".into(), x_label: "mean thinking tokens spent".into(), y_label: "right answers, %".into(), series },
    }
}

/// Accuracy over caps of the policies that do not know them.
fn over_caps(figures: &SweepFigures) -> Option<Section> {
    let series: Vec<Series> = families(figures)
        .into_iter()
        .filter_map(|family| {
            let capped = figures.arms.iter().filter(|row| row.family == family).filter_map(|row| Some((row, row.cap?)));
            let points: Vec<Point> =
                capped.map(|(row, cap)| Point { interval: None, ..accuracy_point(row, f64::from(cap)) }).collect();
            (points.len() > 1).then_some((family, points))
        })
        .enumerate()
        .map(|(colour, (name, points))| {
            let mark = if colour < 8 { Mark::Line } else { Mark::Dashes };
            Series { name, mark, points, colour }
        })
        .collect();
    (!series.is_empty()).then(|| Section {
        name: "caps",
        text: "Answers that are right within a cap on thinking tokens, unfinished thoughts counted as wrong. Intervals are in the table.".into(),
        plot: Plot { title: "How many are right within a budget?".into(), x_label: "cap, thinking tokens".into(), y_label: "right answers, %".into(), series },
    })
}

fn over_alpha(figures: &SweepFigures) -> Option<Section> {
    let alpha = |row: &ArmFigures| {
        let arm = Arm { throttle: row.arm.parse().ok()?, ..Arm::base(false) };
        plain_alpha(&arm).map(f64::from)
    };
    let rows: Vec<(f64, &ArmFigures)> =
        figures.arms.iter().filter(|row| row.cap.is_none()).filter_map(|row| Some((alpha(row)?, row))).collect();
    let base = rows.iter().find(|(alpha, _)| *alpha == 0.0)?.1.mean_tokens;
    let sorted = |point: &dyn Fn(&(f64, &ArmFigures)) -> Point| {
        let mut points: Vec<Point> = rows.iter().map(point).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        points
    };
    let right = sorted(&|(alpha, row)| accuracy_point(row, *alpha));
    let tokens = sorted(&|(alpha, row)| Point::new(*alpha, 100.0 * row.mean_tokens / base));
    (rows.len() > 2).then(|| Section {
        name: "alpha",
        text:
            "Uncapped. Between the two lines lies what alpha gives: thoughts get shorter first, then answers get wrong."
                .into(),
        plot: Plot {
            title: "How far can alpha go?".into(),
            x_label: "alpha (constant, along theta)".into(),
            y_label: "%".into(),
            series: vec![
                Series { name: "right answers".into(), mark: Mark::Line, points: right, colour: 0 },
                Series { name: "length, % of alpha 0".into(), mark: Mark::Line, points: tokens, colour: 1 },
            ],
        },
    })
}

/// Histogram of the base's thinking lengths beside one pushed arm.
fn lengths(results: &[SweepResult]) -> Option<Section> {
    let sorted = by_arm(results);
    let base = sorted.get("none")?;
    let pushed = ["constant:15", "constant:20"].iter().find_map(|name| Some((*name, sorted.get(*name)?)));
    let longest = base.iter().map(|it| it.thinking_tokens).max()?.max(1);
    let width = f64::from(longest) / 20.0;
    let histogram = |name: &str, of_arm: &[&SweepResult], colour| {
        let mut counts = [0usize; 21];
        of_arm.iter().for_each(|it| counts[((f64::from(it.thinking_tokens) / width) as usize).min(20)] += 1);
        let point = |(bin, &count): (usize, &usize)| {
            Point::new((bin as f64 + 0.5) * width, 100.0 * count as f64 / of_arm.len() as f64)
        };
        Series {
            name: name.to_owned(),
            mark: Mark::Bars,
            points: counts.iter().enumerate().map(point).collect(),
            colour,
        }
    };
    let mut series = vec![histogram("alpha 0", base, 0)];
    series.extend(pushed.map(|(name, of_arm)| histogram(name, of_arm, 1)));
    Some(Section {
        name: "lengths",
        text: "Thinking lengths of the same problems and seeds.".into(),
        plot: Plot {
            title: "How long are the thoughts?".into(),
            x_label: "thinking tokens".into(),
            y_label: "samples, %".into(),
            series,
        },
    })
}
