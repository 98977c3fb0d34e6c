//! One way of decoding that a sweep compares with the others.

use anyhow::{Context, Result, bail};
use std::fmt;
use tpv_core::policy::{DeadlineTarget, Direction, Strength, Term, Throttle};

/// Where a policy's text stands for one policy for each budget.
const BUDGET: &str = "{budget}";
/// What a policy's name ends with when its prompt asks to be brief.
const BRIEF: &str = "(brief)";

/// A throttle with a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// The policy as it was written, `{budget}` included; arms of one family differ by their budget alone.
    pub family: String,
    /// The budget that stands for `{budget}`.
    pub budget: Option<u32>,
    /// The throttle.
    pub throttle: Throttle,
    /// Whether the prompt asks to be brief.
    pub brief: bool,
}

impl Arm {
    /// The model as it is.
    pub fn base(brief: bool) -> Self {
        Self { family: "none".into(), budget: None, throttle: Throttle::default(), brief }
    }

    /// The arms that a policy's text stands for; `(brief)` at its end asks for the brief prompt whatever `brief` says.
    pub fn expand(text: &str, budgets: &[u32], brief: bool) -> Result<Vec<Self>> {
        let named_brief = text.trim_end().strip_suffix(BRIEF).map(str::trim);
        let (text, brief) = (named_brief.unwrap_or(text), brief || named_brief.is_some());
        let arm = |budget: Option<u32>| -> Result<Self> {
            let policy = budget.map_or_else(|| text.to_owned(), |tokens| text.replace(BUDGET, &tokens.to_string()));
            let throttle = policy.parse().context("--policy")?;
            Ok(Self { family: text.to_owned(), budget, throttle, brief })
        };
        if text.contains(BUDGET) {
            let first = arm(budgets.first().copied())?;
            if matches!(first.deadline(), Some(DeadlineTarget::Seconds(_))) {
                bail!(
                    "--policy {text}: {BUDGET} counts tokens and this deadline seconds; write the seconds, such as seconds=2"
                );
            }
            budgets.iter().map(|&tokens| arm(Some(tokens))).collect()
        } else {
            Ok(vec![arm(None)?])
        }
    }

    /// What a deadline aims at.
    pub fn deadline(&self) -> Option<DeadlineTarget> {
        self.throttle.policy.terms.iter().find_map(|term| match term {
            Term::Deadline { target, .. } => Some(*target),
            _ => None,
        })
    }

    /// The alpha of an arm that does nothing but push along theta, 0 for the model as it is.
    pub fn plain_alpha(&self) -> Option<f32> {
        let plain = self.throttle.direction == Direction::Theta && !self.brief;
        match self.throttle.policy.terms.as_slice() {
            [] if plain => Some(0.0),
            [Term::Constant(Strength::Alpha(alpha))] if plain => Some(*alpha),
            _ => None,
        }
    }

    /// The family's name in tables, with the prompt.
    pub fn family_name(&self) -> String {
        format!("{}{}", self.family, self.suffix())
    }

    fn suffix(&self) -> String {
        if self.brief { format!(" {BRIEF}") } else { String::new() }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.throttle, self.suffix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_one_arm_for_each_budget() {
        let arms = Arm::expand("deadline:tokens={budget}", &[64, 128], true).unwrap();
        let names: Vec<String> = arms.iter().map(Arm::to_string).collect();
        assert_eq!(names, ["deadline:tokens=64 (brief)", "deadline:tokens=128 (brief)"]);
        assert_eq!(arms[1].deadline(), Some(DeadlineTarget::Tokens(128)));
        let named = Arm::expand("think-end:1 (brief)", &[64], false).unwrap();
        assert_eq!((named[0].brief, named[0].to_string().as_str()), (true, "think-end:1 (brief)"));
        assert_eq!(Arm::expand("constant:15", &[1], false).unwrap()[0].plain_alpha(), Some(15.0));
        assert_eq!(Arm::expand("constant:15@pattern", &[1], false).unwrap()[0].plain_alpha(), None);
        assert_eq!(Arm::expand("constant:15", &[64, 128], false).unwrap().len(), 1);
        assert!(Arm::expand("budget:{budgets}", &[64], false).is_err());
        let seconds = Arm::expand("deadline:seconds={budget}", &[64], false).unwrap_err().to_string();
        assert!(seconds.contains("counts tokens"), "{seconds}");
    }
}
