//! Pictures of a sweep: what a token buys, who wins at which budget, how far alpha can go, how deadlines land.

use super::page::Section;
use super::plot::{Mark, Plot, Point, Series};
use crate::sweep::arm::Arm;
use crate::sweep::figures::{ArmFigures, SweepFigures};
use crate::sweep::landing::Unit;
use crate::sweep::result::{ByArm, SweepResult, by_arm};
use tpv_core::bootstrap::quantile;

/// Families in one picture; more cannot be told apart.
const MOST_FAMILIES: usize = 7;
/// Problems whose trajectories are drawn, the longest thoughts first; short ones lie on top of each other.
const MOST_TRAJECTORIES: usize = 6;
/// Bins of the histogram over the lengths.
const BINS: usize = 20;

/// Everything that can be drawn of a sweep.
pub fn sections(figures: &SweepFigures, results: &[SweepResult]) -> Vec<Section> {
    let sorted = by_arm(results);
    let sections = [
        Some(frontier(figures)),
        over_caps(figures),
        over_alpha(figures),
        landings(figures, &sorted),
        trajectories(figures, &sorted),
        lengths(figures, &sorted),
    ];
    sections.into_iter().flatten().collect()
}

/// The colour of a series beside others of its picture: what stands for the same thing in several pictures has one colour, the
/// first of its kind at least; everything else takes one that is free.
fn colour_beside(others: &[Series], name: &str) -> usize {
    let usual = match name {
        "none" | "cut without answer" => Some(BASE),
        name if name.starts_with("constant") => Some(PUSHED),
        name if name.starts_with("think-end") || name.starts_with("</think>") => Some(3),
        name if name.starts_with("deadline") => Some(2),
        name if name.starts_with("budget") => Some(4),
        _ => None,
    };
    let is_free = |colour: &usize| others.iter().all(|series| series.colour != *colour);
    // Those of no kind first, then those that the picture does not need for a kind.
    let free = || [5, 6, 7, 4, 3, 2, PUSHED, BASE].into_iter().find(is_free);
    usual.filter(is_free).or_else(free).unwrap_or(others.len())
}

/// Colour of the model as it is.
const BASE: usize = 0;
/// Colour of the push along theta.
const PUSHED: usize = 1;

fn accuracy_point(row: &ArmFigures, x: f64) -> Point {
    let interval = row.accuracy.map(|it| (100.0 * it.low, 100.0 * it.high));
    Point { x, y: row.accuracy.map_or(f64::NAN, |it| 100.0 * it.value), interval }
}

fn sorted_by_x(points: impl Iterator<Item = Point>) -> Vec<Point> {
    let mut points: Vec<Point> = points.collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    points
}

/// The alpha of a row that pushes along theta and does nothing else.
fn plain_alpha(row: &ArmFigures) -> Option<f64> {
    Arm { throttle: row.arm.parse().ok()?, ..Arm::base(false) }.plain_alpha().map(f64::from)
}

/// The uncapped rows of constant alphas, the model as it is among them.
fn constants(figures: &SweepFigures) -> Vec<(f64, &ArmFigures)> {
    figures.arms.iter().filter(|row| row.cap.is_none()).filter_map(|row| Some((plain_alpha(row)?, row))).collect()
}

/// The pushed arm that pictures set against the model as it is: the shortest thoughts among the positive alphas whose loss
/// is not told apart from chance, else the weakest push.
fn shown_alpha(figures: &SweepFigures) -> Option<(f64, &ArmFigures)> {
    let pushed = || constants(figures).into_iter().filter(|(alpha, _)| *alpha > 0.0);
    let harmless = pushed().filter(|(_, row)| row.less_base.is_some_and(|less| less.high >= 0.0));
    let shortest = harmless.min_by(|a, b| a.1.mean_tokens.total_cmp(&b.1.mean_tokens));
    shortest.or_else(|| pushed().min_by(|a, b| a.0.total_cmp(&b.0)))
}

/// Accuracy over the tokens that are really spent: each point one policy at one strength or budget.
fn frontier(figures: &SweepFigures) -> Section {
    let mut series = Vec::new();
    let mut line = |name: &str, mark, rows: Vec<&ArmFigures>| {
        // In the order of strength or budget, so that a push that breaks the model shows as a line that turns back.
        let points: Vec<Point> = rows.iter().map(|row| accuracy_point(row, row.mean_tokens)).collect();
        if !points.is_empty() {
            // One point is no line, and counts like any other.
            let mark = if points.len() == 1 { Mark::Points } else { mark };
            series.push(Series { name: name.to_owned(), mark, points, colour: colour_beside(&series, name) });
        }
    };
    let of = |holds: &dyn Fn(&ArmFigures) -> bool| -> Vec<&ArmFigures> {
        figures.arms.iter().filter(|row| holds(row)).collect()
    };
    line("cut without answer", Mark::Dashes, of(&|row| row.family == "none"));
    let mut by_alpha = constants(figures);
    by_alpha.sort_by(|a, b| a.0.total_cmp(&b.0));
    line("constant alpha, uncapped", Mark::Line, by_alpha.into_iter().map(|(_, row)| row).collect());
    let plain_bias = |row: &ArmFigures| row.family.starts_with("think-end:") && !row.family.contains(['+', '(', '{']);
    line("</think> bias, uncapped", Mark::Line, of(&|row| row.cap.is_none() && plain_bias(row)));
    line("be brief, uncapped and cut", Mark::Dashes, of(&|row| row.family == "none (brief)"));
    for family in families_by_area(figures).iter().filter(|family| family.contains("{budget}")) {
        line(family, Mark::Line, of(&|row| row.family == *family));
    }
    Section {
        name: "frontier",
        text: "Each point is a policy at one strength or budget; higher and further left is better. Tokens are those really spent; bands are 95 % bootstrap intervals by problem.".into(),
        plot: Plot { title: "What does a thinking token buy?".into(), x_label: "mean thinking tokens spent".into(), y_label: "right answers, %".into(), series },
    }
}

/// Families, the greatest area under accuracy over caps first.
fn families_by_area(figures: &SweepFigures) -> Vec<String> {
    let mut areas: Vec<_> = figures.areas.iter().filter_map(|it| Some((it.family.clone(), it.area?.value))).collect();
    areas.sort_by(|a, b| b.1.total_cmp(&a.1));
    areas.into_iter().map(|(family, _)| family).collect()
}

/// Accuracy over caps of the best families and of the model as it is.
fn over_caps(figures: &SweepFigures) -> Option<Section> {
    let mut families = families_by_area(figures);
    families.retain(|family| family != "none");
    let left_out = families.len().saturating_sub(MOST_FAMILIES);
    families.truncate(MOST_FAMILIES);
    families.push("none".into());
    let mut series: Vec<Series> = Vec::new();
    for name in families {
        let colour = colour_beside(&series, &name);
        let capped = figures.arms.iter().filter(|row| row.family == name).filter_map(|row| Some((row, row.cap?)));
        let points =
            sorted_by_x(capped.map(|(row, cap)| Point { interval: None, ..accuracy_point(row, f64::from(cap)) }));
        let mark = if name == "none" { Mark::Dashes } else { Mark::Line };
        if points.len() > 1 {
            series.push(Series { name, mark, points, colour });
        }
    }
    let left_out =
        if left_out > 0 { format!(" The {left_out} families with less area are in the table.") } else { String::new() };
    (!series.is_empty()).then(|| Section {
        name: "caps",
        text: format!("Answers that are right within a cap on thinking tokens, unfinished thoughts counted as wrong; the legend is in the order of the area below the lines.{left_out} Intervals are in the table."),
        plot: Plot { title: "Who wins at which budget?".into(), x_label: "cap, thinking tokens".into(), y_label: "right answers, %".into(), series },
    })
}

fn over_alpha(figures: &SweepFigures) -> Option<Section> {
    let rows = constants(figures);
    let base = rows.iter().find(|(alpha, _)| *alpha == 0.0)?.1.mean_tokens;
    let right = sorted_by_x(rows.iter().map(|(alpha, row)| accuracy_point(row, *alpha)));
    let tokens = sorted_by_x(rows.iter().map(|(alpha, row)| Point::new(*alpha, 100.0 * row.mean_tokens / base)));
    (rows.len() > 2).then(|| Section {
        name: "alpha",
        text: "Uncapped. Where the length falls and the right answers do not, alpha helps; where both fall, it breaks the model.".into(),
        plot: Plot {
            title: "How far can alpha go?".into(),
            x_label: "alpha (constant, along theta)".into(),
            y_label: "%".into(),
            series: vec![
                Series { name: "right answers, %".into(), mark: Mark::Line, points: right, colour: 0 },
                Series { name: "length, % of alpha 0".into(), mark: Mark::Line, points: tokens, colour: 1 },
            ],
        },
    })
}

/// Where deadlines in tokens land: the median and eight thoughts in ten, beside the target itself.
fn landings(figures: &SweepFigures, sorted: &ByArm<'_>) -> Option<Section> {
    let family = |arm: &str| figures.arms.iter().find(|row| row.arm == arm).map(|row| row.family.clone());
    let mut series: Vec<Series> = Vec::new();
    for landing in figures.landings.iter().filter(|it| it.unit == Unit::Tokens) {
        let name = family(&landing.arm)?;
        let mut lengths: Vec<f64> = sorted.get(&landing.arm)?.iter().map(|it| f64::from(it.thinking_tokens)).collect();
        lengths.sort_by(f64::total_cmp);
        let at = |share| quantile(&lengths, share);
        let point = Point { x: landing.target, y: at(0.5)?, interval: Some((at(0.1)?, at(0.9)?)) };
        match series.iter_mut().find(|it| it.name == name) {
            Some(of_family) => of_family.points.push(point),
            None => {
                let colour = colour_beside(&series, &name);
                series.push(Series { name, mark: Mark::Line, points: vec![point], colour });
            }
        }
    }
    series.retain(|it| it.points.len() > 1);
    let targets = || series.iter().flat_map(|it| it.points.iter().map(|point| point.x));
    let (least, most) = (targets().fold(f64::MAX, f64::min), targets().fold(0.0, f64::max));
    let points = vec![Point::new(least, least), Point::new(most, most)];
    (!series.is_empty()).then(|| {
        series.push(Series { name: "the target".into(), mark: Mark::Dashes, points, colour: 7 });
        Section {
            name: "landings",
            text: "Median thinking length by target; the band holds eight thoughts in ten. On the dashed line a thought ends exactly at its target; nothing may lie above it.".into(),
            plot: Plot { title: "Do deadlines land at their target?".into(), x_label: "target, thinking tokens".into(), y_label: "thinking tokens".into(), series },
        }
    })
}

/// The progress read along the same problems, as they are and pushed.
fn trajectories(figures: &SweepFigures, sorted: &ByArm<'_>) -> Option<Section> {
    let (alpha, pushed) = shown_alpha(figures)?;
    let mut longest: Vec<(usize, usize)> = sorted
        .get("none")?
        .iter()
        .filter(|it| !it.progress.is_empty())
        .map(|it| (it.progress.len(), it.problem))
        .collect();
    longest.sort_unstable_by(|a, b| b.cmp(a));
    longest.truncate(MOST_TRAJECTORIES);
    let threads = |arm: &str, colour: usize, name: &str| -> Vec<Series> {
        let is_drawn = |it: &SweepResult| longest.iter().any(|&(_, problem)| problem == it.problem);
        let drawn = sorted.get(arm).into_iter().flatten().filter(|it| !it.progress.is_empty() && is_drawn(it));
        let thread = |it: &&SweepResult| {
            let points =
                (1..).zip(&it.progress).map(|(token, &progress)| Point::new(f64::from(token), f64::from(progress)));
            Series { name: name.to_owned(), mark: Mark::Thread, points: points.collect(), colour }
        };
        drawn.map(thread).collect()
    };
    let base = threads("none", BASE, "alpha 0");
    let overclocked = threads(&pushed.arm, PUSHED, &format!("alpha {alpha}"));
    let problems = base.len();
    (problems > 0 && !overclocked.is_empty()).then(|| Section {
        name: "overclocked",
        text: format!("The same {problems} problems and seeds at alpha 0 and at alpha {alpha}, those with the longest thoughts of the ones kept; each thread is one thought, and ends where </think> comes. Progress is the calibrated reading where the vector has one; it is read before the push."),
        plot: Plot {
            title: "What does overclocking do to a thought?".into(),
            x_label: "thinking token".into(),
            y_label: "progress read".into(),
            series: base.into_iter().chain(overclocked).collect(),
        },
    })
}

/// Histogram of the base's thinking lengths beside one pushed arm.
fn lengths(figures: &SweepFigures, sorted: &ByArm<'_>) -> Option<Section> {
    let base = sorted.get("none")?;
    let pushed = shown_alpha(figures).and_then(|(alpha, row)| Some((alpha, sorted.get(&row.arm)?)));
    let all = base.iter().chain(pushed.iter().flat_map(|(_, of_arm)| of_arm.iter()));
    let longest = all.map(|it| it.thinking_tokens).max()?.max(1);
    let width = f64::from(longest + 1) / BINS as f64;
    let histogram = |name: String, of_arm: &[&SweepResult], colour| {
        let mut counts = [0usize; BINS];
        of_arm.iter().for_each(|it| counts[((f64::from(it.thinking_tokens) / width) as usize).min(BINS - 1)] += 1);
        let point = |(bin, &count): (usize, &usize)| {
            Point::new((bin as f64 + 0.5) * width, 100.0 * count as f64 / of_arm.len() as f64)
        };
        Series { name, mark: Mark::Bars, points: counts.iter().enumerate().map(point).collect(), colour }
    };
    let mut series = vec![histogram("alpha 0".into(), base, BASE)];
    series.extend(pushed.map(|(alpha, of_arm)| histogram(format!("alpha {alpha}"), of_arm, PUSHED)));
    Some(Section {
        name: "lengths",
        text: "Thinking lengths of the same problems and seeds, uncapped.".into(),
        plot: Plot {
            title: "How long are the thoughts?".into(),
            x_label: "thinking tokens".into(),
            y_label: "samples, %".into(),
            series,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_has_one_colour_and_no_two_series_share_theirs() {
        let mut series: Vec<Series> = Vec::new();
        for name in
            ["constant:15", "constant:60", "think-end:2", "ramp", "none", "deadline:tokens={budget}", "constant:5"]
        {
            let colour = colour_beside(&series, name);
            assert!(series.iter().all(|it| it.colour != colour), "{name}");
            series.push(Series { name: name.into(), mark: Mark::Line, points: Vec::new(), colour });
        }
        assert_eq!([series[0].colour, series[4].colour, series[5].colour], [PUSHED, BASE, 2]);
    }
}
