//! How deadlines were met: how near to the target thoughts ended, how far over it, and how many were right in time.

use super::arm::Arm;
use super::result::{ByArm, SweepResult};
use serde::{Deserialize, Serialize};
use tpv_core::bootstrap::{Bootstrap, Interval, PairedOutcome, compare_accuracy, median};
use tpv_core::policy::DeadlineTarget;

/// What a deadline counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Thinking tokens.
    Tokens,
    /// Seconds of thinking.
    Seconds,
}

/// How a deadline was met.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LandingFigures {
    /// The arm.
    pub arm: String,
    /// What the target counts.
    pub unit: Unit,
    /// The target.
    pub target: f64,
    /// Target over the median length of the model as it is.
    pub target_over_median: f64,
    /// Samples.
    pub samples: usize,
    /// Samples whose thought is longer than the target without a policy.
    pub late_samples: usize,
    /// Median of |N - target| / target over all samples; finishing early counts as error like finishing late.
    pub landing_error: Option<f64>,
    /// The same over the late ones.
    pub late_landing_error: Option<f64>,
    /// Share of samples that landed within 15 % of the target.
    pub landed_share: f64,
    /// Largest N / target - 1; negative when nothing came too late.
    pub worst_overshoot: f64,
    /// Share of samples that were ended by force.
    pub forced_share: f64,
    /// Accuracy within the target.
    pub accuracy: Option<Interval>,
    /// Accuracy within the target less that of `budget:TARGET` there, if that was run.
    pub less_hard_cut: Option<Interval>,
    /// Accuracy within the target less that of the model cut there without an answer.
    pub less_cut_without_answer: Option<Interval>,
}

/// Landing within this share of the target counts as landed.
const NEAR: f64 = 0.15;

/// The figures of an arm with a deadline; `base` are the same problems and seeds without a policy.
pub fn landing(arm: &Arm, sorted: &ByArm<'_>, base: &[&SweepResult]) -> Option<LandingFigures> {
    let (unit, target) = match arm.deadline()? {
        DeadlineTarget::Tokens(tokens) => (Unit::Tokens, f64::from(tokens)),
        DeadlineTarget::Seconds(seconds) => (Unit::Seconds, seconds),
    };
    let length = |it: &SweepResult| match unit {
        Unit::Tokens => f64::from(it.thinking_tokens),
        Unit::Seconds => it.thinking_secs,
    };
    let of_arm = sorted.get(&arm.to_string())?;
    let error = |it: &SweepResult| (length(it) / target - 1.0).abs();
    let share = |holds: &dyn Fn(&SweepResult) -> bool| {
        of_arm.iter().filter(|it| holds(it)).count() as f64 / of_arm.len().max(1) as f64
    };
    let late: Vec<f64> =
        base.iter().zip(of_arm).filter(|(base, _)| length(base) > target).map(|(_, it)| error(it)).collect();
    let right = |it: &SweepResult| it.correct_within(None) && length(it) <= target;
    let less = |other: &[&SweepResult]| {
        let pairs = other.iter().zip(of_arm).map(|(first, second)| PairedOutcome {
            problem: second.problem as u64,
            first: right(first),
            second: right(second),
        });
        compare_accuracy(&pairs.collect::<Vec<_>>(), &Bootstrap::default())
    };
    // A budget is a number of tokens.
    let hard_cut =
        (unit == Unit::Tokens).then(|| format!("budget:{target}{}", if arm.brief { " (brief)" } else { "" }));
    let hard_cut = hard_cut.and_then(|name| sorted.get(&name));
    let cut = less(base);
    Some(LandingFigures {
        arm: arm.to_string(),
        unit,
        target,
        target_over_median: target / median(base.iter().map(|it| length(it)).collect())?.max(f64::MIN_POSITIVE),
        samples: of_arm.len(),
        late_samples: late.len(),
        landing_error: median(of_arm.iter().map(|it| error(it)).collect()),
        late_landing_error: median(late),
        landed_share: share(&|it| error(it) <= NEAR),
        worst_overshoot: of_arm.iter().map(|it| length(it) / target - 1.0).fold(f64::MIN, f64::max),
        forced_share: share(&|it| it.forced),
        accuracy: cut.map(|it| it.second),
        less_hard_cut: hard_cut.and_then(|cut| less(cut)).map(|it| it.difference),
        less_cut_without_answer: cut.map(|it| it.difference),
    })
}

#[cfg(test)]
mod tests {
    use super::super::result::by_arm;
    use super::*;

    fn result(arm: &str, problem: usize, thinking_tokens: u32, thinking_secs: f64) -> SweepResult {
        SweepResult {
            arm: arm.into(),
            problem,
            thinking_tokens,
            thinking_secs,
            thinking_ended: true,
            correct: Some(true),
            ..SweepResult::default()
        }
    }

    #[test]
    fn early_and_late_landings_are_errors_alike_in_either_unit() {
        let lengths = [(100, 80), (200, 100), (300, 105), (400, 90)];
        let mut results = Vec::new();
        for (problem, (base, steered)) in lengths.into_iter().enumerate() {
            results.push(result("none", problem, base, f64::from(base) / 10.0));
            results.push(result("deadline:tokens=100", problem, steered, 0.0));
            results.push(result("deadline:seconds=10", problem, 0, f64::from(steered) / 10.0));
        }
        let sorted = by_arm(&results);
        for text in ["deadline:tokens=100", "deadline:seconds=10"] {
            let arm = &Arm::expand(text, &[1], false).unwrap()[0];
            let figures = landing(arm, &sorted, &sorted["none"]).unwrap();
            // Errors 20, 0, 5 and 10 %; the last three are of late thoughts.
            assert!((figures.landing_error.unwrap() - 0.075).abs() < 1e-12, "{figures:?}");
            assert!((figures.late_landing_error.unwrap() - 0.05).abs() < 1e-12);
            assert!((figures.worst_overshoot - 0.05).abs() < 1e-12);
            assert_eq!((figures.late_samples, figures.landed_share, figures.target_over_median), (3, 0.75, 0.4));
            // Three are in time against one of the model as it is.
            assert!((figures.less_cut_without_answer.unwrap().value - 0.5).abs() < 1e-12);
        }
    }
}
