//! The figures of a sweep: every arm at every cap, against the model as it is on the same problems and seeds.
//!
//! An uncapped run gives all capped ones: a thought that is cut at B thinking tokens has ended if and only if it is no
//! longer than B, and is the same up to there. Only policies that know the budget are run once for each.

use super::arm::Arm;
use super::landing::{LandingFigures, landing};
use super::result::{ByArm, SweepResult, by_arm};
use serde::{Deserialize, Serialize};
use tpv_core::bootstrap::{AccuracyComparison, Bootstrap, Interval, PairedOutcome, compare_accuracy, quantile};

/// One arm at one cap, a row of the table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ArmFigures {
    /// The arm.
    pub arm: String,
    /// Its family, `{budget}` unexpanded.
    pub family: String,
    /// Most thinking tokens; none is uncapped (but for the token limit of the run).
    pub cap: Option<u32>,
    /// Samples.
    pub samples: usize,
    /// Mean thinking tokens, those of thoughts that were cut counted up to the cap.
    pub mean_tokens: f64,
    /// Their median.
    pub median_tokens: f64,
    /// Thoughts that ended.
    pub ended: usize,
    /// Of those, ended by force.
    pub forced: usize,
    /// With an answer.
    pub answered: usize,
    /// With the right answer.
    pub correct: usize,
    /// Share of right answers, with the bootstrap interval by problem.
    pub accuracy: Option<Interval>,
    /// Accuracy less that of the model as it is under the same cap.
    pub less_base: Option<Interval>,
    /// McNemar's exact test against it, over problems.
    pub mcnemar_p: Option<f64>,
    /// Problems that it answered correctly less often than the model as it is, and more often.
    #[serde(default)]
    pub problems_lost_and_won: Option<(u64, u64)>,
}

/// Area under a family's accuracy over caps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AreaFigures {
    /// The family.
    pub family: String,
    /// Mean accuracy over caps from 0 to the largest, by trapezoids between the caps.
    pub area: Option<Interval>,
}

/// Everything that a sweep found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SweepFigures {
    /// Name of the format.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// What the model was called when the figures were made.
    #[serde(default)]
    pub model: String,
    /// What was run, in one line.
    pub settings: String,
    /// Arms at caps.
    pub arms: Vec<ArmFigures>,
    /// Areas of families.
    pub areas: Vec<AreaFigures>,
    /// Deadlines.
    pub landings: Vec<LandingFigures>,
}

/// Works out all figures; every arm must have the same samples.
pub fn figures(arms: &[Arm], results: &[SweepResult], caps: &[u32], settings: &str) -> SweepFigures {
    let sorted = by_arm(results);
    let base = &sorted[&Arm::base(false).to_string()];
    let all_caps = || caps.iter().copied().map(Some).chain([None]);
    let rows = arms.iter().flat_map(|arm| {
        let of_arm = &sorted[&arm.to_string()];
        let caps: Vec<Option<u32>> = if arm.budget.is_some() { vec![arm.budget] } else { all_caps().collect() };
        caps.into_iter().map(|cap| arm_figures(arm, cap, of_arm, base)).collect::<Vec<_>>()
    });
    SweepFigures {
        model: String::new(),
        format: "tpv-sweep".into(),
        version: 2,
        settings: settings.into(),
        arms: rows.collect(),
        areas: areas(arms, &sorted, caps),
        landings: arms.iter().filter_map(|arm| landing(arm, &sorted, base)).collect(),
    }
}

/// Mean thinking tokens of an arm's samples within a cap.
pub fn mean_tokens(of_arm: &[&SweepResult], cap: Option<u32>) -> f64 {
    of_arm.iter().map(|it| f64::from(it.tokens_within(cap))).sum::<f64>() / of_arm.len().max(1) as f64
}

fn arm_figures(arm: &Arm, cap: Option<u32>, of_arm: &[&SweepResult], base: &[&SweepResult]) -> ArmFigures {
    let count = |holds: &dyn Fn(&SweepResult) -> bool| of_arm.iter().filter(|it| holds(it)).count();
    let mut tokens: Vec<f64> = of_arm.iter().map(|it| f64::from(it.tokens_within(cap))).collect();
    tokens.sort_by(f64::total_cmp);
    let comparison = compare(base, of_arm, cap);
    let is_base = std::ptr::eq(base.as_ptr(), of_arm.as_ptr());
    let nothing = Interval { value: 0.0, low: 0.0, high: 0.0 };
    ArmFigures {
        arm: arm.to_string(),
        family: arm.family_name(),
        cap,
        samples: of_arm.len(),
        mean_tokens: mean_tokens(of_arm, cap),
        median_tokens: quantile(&tokens, 0.5).unwrap_or(0.0),
        ended: count(&|it| it.ended_within(cap)),
        forced: count(&|it| it.ended_within(cap) && it.forced),
        answered: count(&|it| it.answered_within(cap)),
        correct: count(&|it| it.correct_within(cap)),
        accuracy: comparison.map(|it| it.second),
        less_base: comparison.map(|it| if is_base { nothing } else { it.difference }),
        mcnemar_p: comparison.map(|it| it.mcnemar_p),
        problems_lost_and_won: comparison.map(|it| (it.only_first, it.only_second)),
    }
}

fn compare(first: &[&SweepResult], second: &[&SweepResult], cap: Option<u32>) -> Option<AccuracyComparison> {
    let pairs = first.iter().zip(second).map(|(first, second)| {
        debug_assert_eq!((first.problem, first.generation), (second.problem, second.generation));
        PairedOutcome {
            problem: second.problem as u64,
            first: first.correct_within(cap),
            second: second.correct_within(cap),
        }
    });
    compare_accuracy(&pairs.collect::<Vec<_>>(), &Bootstrap::default())
}

fn areas(arms: &[Arm], sorted: &ByArm<'_>, caps: &[u32]) -> Vec<AreaFigures> {
    let mut families: Vec<&Arm> = Vec::new();
    for arm in arms {
        if families.iter().all(|other| other.family_name() != arm.family_name()) {
            families.push(arm);
        }
    }
    let weights = trapezoid_weights(caps);
    let area = |family: &Arm| {
        let mut values: Vec<(u64, f64)> = Vec::new();
        for (&cap, weight) in caps.iter().zip(&weights) {
            // By its name: a member that was asked for by itself as well is not run twice.
            let member = Arm::expand(&family.family, &[cap], family.brief).ok()?;
            let of_arm = sorted.get(&member.first()?.to_string())?;
            values.resize(of_arm.len(), (0, 0.0));
            for (value, result) in values.iter_mut().zip(of_arm) {
                value.0 = result.problem as u64;
                value.1 += weight * f64::from(u8::from(result.correct_within(Some(cap))));
            }
        }
        Bootstrap::default().mean(&values)
    };
    families.iter().map(|family| AreaFigures { family: family.family_name(), area: area(family) }).collect()
}

/// Weights of the values at ascending caps in the mean of the broken line from (0, 0) through them.
fn trapezoid_weights(caps: &[u32]) -> Vec<f64> {
    let last = f64::from(caps.last().copied().unwrap_or(1));
    let at = |i: isize| if i < 0 { 0.0 } else { f64::from(caps[(i as usize).min(caps.len() - 1)]) };
    (0..caps.len() as isize).map(|i| (at(i + 1) - at(i - 1)) / 2.0 / last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(arm: &str, problem: usize, thinking_tokens: u32, correct: bool) -> SweepResult {
        SweepResult {
            arm: arm.into(),
            problem,
            thinking_tokens,
            thinking_ended: true,
            answer: Some("1".into()),
            correct: Some(correct),
            ..SweepResult::default()
        }
    }

    #[test]
    fn caps_are_worked_out_from_the_uncapped_run() {
        let results: Vec<_> = (0..10)
            .flat_map(|i| {
                [
                    result("none", i, 10 * (i as u32 + 1), true),
                    result("constant:5", i, 5 * (i as u32 + 1), i != 0),
                    result("deadline:tokens=50", i, 10 * (i as u32 + 1).min(5), true),
                ]
            })
            .collect();
        let mut arms = vec![Arm::base(false)];
        arms.extend(Arm::expand("constant:5", &[50], false).unwrap());
        arms.extend(Arm::expand("deadline:tokens={budget}", &[50], false).unwrap());
        let figures = figures(&arms, &results, &[50], "");
        let row = |arm: &str, cap| figures.arms.iter().find(|row| row.arm == arm && row.cap == cap).unwrap();
        let capped = row("none", Some(50));
        assert_eq!((capped.ended, capped.correct, capped.mean_tokens), (5, 5, 40.0));
        assert_eq!(row("none", None).correct, 10);
        let pushed = row("constant:5", Some(50));
        assert_eq!((pushed.ended, pushed.correct), (10, 9));
        assert!((pushed.less_base.unwrap().value - 0.4).abs() < 1e-12);
        assert_eq!(pushed.mcnemar_p, Some(tpv_core::bootstrap::mcnemar_exact(1, 5)));
        // The broken line (0, 0), (50, 1/2) has the mean 1/4.
        assert!((figures.areas[0].area.unwrap().value - 0.25).abs() < 1e-12);
        assert_eq!(figures.landings.len(), 1);
    }

    #[test]
    fn a_member_that_was_named_by_itself_counts_in_its_family() {
        let names = ["none", "budget:30", "budget:60"];
        let results: Vec<_> = names.iter().flat_map(|name| (0..4).map(|i| result(name, i, 20, true))).collect();
        let mut arms = vec![Arm::base(false)];
        arms.extend(Arm::expand("budget:60", &[30, 60], false).unwrap());
        arms.extend(Arm::expand("budget:{budget}", &[30], false).unwrap());
        let areas = figures(&arms, &results, &[30, 60], "").areas;
        assert_eq!(
            areas.iter().map(|area| area.family.as_str()).collect::<Vec<_>>(),
            ["none", "budget:60", "budget:{budget}"]
        );
        assert!(areas.iter().all(|area| area.area.is_some()), "{areas:?}");
    }

    #[test]
    fn trapezoids_of_a_straight_line_are_exact() {
        let caps = [10, 20, 60];
        let area: f64 = caps.iter().zip(trapezoid_weights(&caps)).map(|(&cap, weight)| f64::from(cap) * weight).sum();
        assert!((area - 30.0).abs() < 1e-12, "{area}");
    }
}
