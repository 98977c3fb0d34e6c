//! The figures of a sweep as rows of text: one place for the terminal, the page and the CSV files.

use super::figures::{ArmFigures, SweepFigures};
use super::landing::{LandingFigures, Unit};
use std::fmt::Write;
use tpv_core::bootstrap::Interval;

/// A share with its interval in percent, such as `92.5 (87.5 to 96.7)`, or a hyphen where there is none.
pub fn percent(interval: Option<Interval>) -> String {
    let text = |it: Interval| format!("{:.1} ({:.1} to {:.1})", 100.0 * it.value, 100.0 * it.low, 100.0 * it.high);
    interval.map_or_else(|| "-".into(), text)
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |it| format!("{:.1}", 100.0 * it))
}

/// Columns of [`arms`].
pub const ARMS_HEADER: [&str; 11] = [
    "policy",
    "cap",
    "mean tokens",
    "median",
    "ended",
    "answered",
    "correct",
    "of",
    "accuracy %",
    "less none",
    "McNemar p",
];

/// Policies at caps.
pub fn arms<'a>(rows: impl IntoIterator<Item = &'a ArmFigures>) -> impl Iterator<Item = Vec<String>> {
    rows.into_iter().map(|row| {
        vec![
            row.arm.clone(),
            row.cap.map_or_else(|| "none".into(), |cap| cap.to_string()),
            format!("{:.1}", row.mean_tokens),
            format!("{:.0}", row.median_tokens),
            row.ended.to_string(),
            row.answered.to_string(),
            row.correct.to_string(),
            row.samples.to_string(),
            percent(row.accuracy),
            percent(row.less_base),
            row.mcnemar_p.map_or_else(|| "-".into(), p_value),
        ]
    })
}

/// A p-value: never 0.
fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

/// Columns of [`areas`].
pub const AREAS_HEADER: [&str; 2] = ["area under accuracy over caps", "% of all right at once"];

/// The area of every family.
pub fn areas(figures: &SweepFigures) -> impl Iterator<Item = Vec<String>> {
    figures.areas.iter().map(|it| vec![it.family.clone(), percent(it.area)])
}

/// Columns of [`landings`].
pub const LANDINGS_HEADER: [&str; 10] = [
    "deadline",
    "of median",
    "landing %",
    "late",
    "landing % (late)",
    "within 15 %",
    "worst over %",
    "forced %",
    "less budget",
    "less cut",
];

/// How every deadline was met.
pub fn landings(figures: &SweepFigures) -> impl Iterator<Item = Vec<String>> {
    figures.landings.iter().map(|it| {
        vec![
            it.arm.clone(),
            format!("{:.2}", it.target_over_median),
            share(it.landing_error),
            it.late_samples.to_string(),
            share(it.late_landing_error),
            share(Some(it.landed_share)),
            share(Some(it.worst_overshoot)),
            share(Some(it.forced_share)),
            percent(it.less_hard_cut),
            percent(it.less_cut_without_answer),
        ]
    })
}

fn ends(interval: Option<Interval>) -> String {
    interval.map_or_else(|| ",,".into(), |it| format!("{:.4},{:.4},{:.4}", it.value, it.low, it.high))
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.4}"))
}

/// A field that is always in quotes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Every policy at every cap as CSV.
pub fn arms_csv(figures: &SweepFigures) -> String {
    let mut text = "arm,family,cap,samples,mean_tokens,median_tokens,ended,forced,answered,correct,accuracy,accuracy_low,accuracy_high,less_base,less_base_low,less_base_high,mcnemar_p\n".to_owned();
    for row in &figures.arms {
        let cap = row.cap.map_or_else(String::new, |cap| cap.to_string());
        let p = row.mcnemar_p.map_or_else(String::new, |p| format!("{p:.3e}"));
        let counts = [row.ended, row.forced, row.answered, row.correct].map(|count| count.to_string()).join(",");
        line(
            &mut text,
            format!(
                "{},{},{cap},{},{:.2},{},{counts},{},{},{p}",
                quoted(&row.arm),
                quoted(&row.family),
                row.samples,
                row.mean_tokens,
                row.median_tokens,
                ends(row.accuracy),
                ends(row.less_base),
            ),
        );
    }
    text
}

/// The areas as CSV.
pub fn areas_csv(figures: &SweepFigures) -> String {
    let mut text = "family,area,area_low,area_high\n".to_owned();
    figures.areas.iter().for_each(|it| line(&mut text, format!("{},{}", quoted(&it.family), ends(it.area))));
    text
}

/// The deadlines as CSV.
pub fn landings_csv(figures: &SweepFigures) -> String {
    let mut text = "arm,unit,target,target_over_median,samples,late_samples,landing_error,late_landing_error,landed_share,worst_overshoot,forced_share,accuracy,accuracy_low,accuracy_high,less_budget,less_budget_low,less_budget_high,less_cut,less_cut_low,less_cut_high\n".to_owned();
    let row = |it: &LandingFigures| {
        let unit = if it.unit == Unit::Tokens { "tokens" } else { "seconds" };
        let intervals = [it.accuracy, it.less_hard_cut, it.less_cut_without_answer].map(ends).join(",");
        format!(
            "{},{unit},{},{:.4},{},{},{},{},{:.4},{:.4},{:.4},{intervals}",
            quoted(&it.arm),
            it.target,
            it.target_over_median,
            it.samples,
            it.late_samples,
            optional(it.landing_error),
            optional(it.late_landing_error),
            it.landed_share,
            it.worst_overshoot,
            it.forced_share,
        )
    };
    figures.landings.iter().for_each(|it| line(&mut text, row(it)));
    text
}

fn line(text: &mut String, line: String) {
    writeln!(text, "{line}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::super::figures::{AreaFigures, ArmFigures};
    use super::*;

    #[test]
    fn every_csv_row_has_as_many_fields_as_its_header() {
        let interval = Some(Interval { value: 0.5, low: 0.25, high: 0.75 });
        let arm = ArmFigures { arm: "constant:5".into(), accuracy: interval, ..ArmFigures::default() };
        let landing = LandingFigures {
            arm: "deadline:tokens=9".into(),
            unit: Unit::Tokens,
            target: 9.0,
            target_over_median: 1.0,
            samples: 1,
            late_samples: 0,
            landing_error: Some(0.1),
            late_landing_error: None,
            landed_share: 1.0,
            worst_overshoot: 0.0,
            forced_share: 0.0,
            accuracy: interval,
            less_hard_cut: None,
            less_cut_without_answer: interval,
        };
        let figures = SweepFigures {
            arms: vec![arm],
            areas: vec![AreaFigures { family: "none".into(), area: None }],
            landings: vec![landing],
            ..SweepFigures::default()
        };
        for csv in [arms_csv(&figures), areas_csv(&figures), landings_csv(&figures)] {
            let fields: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
            assert_eq!((fields.len(), fields[0]), (2, fields[1]), "{csv}");
        }
        assert_eq!(arms(&figures.arms).next().unwrap().len(), ARMS_HEADER.len());
        assert_eq!(landings(&figures).next().unwrap().len(), LANDINGS_HEADER.len());
        assert_eq!((percent(interval).as_str(), percent(None).as_str()), ("50.0 (25.0 to 75.0)", "-"));
    }
}
