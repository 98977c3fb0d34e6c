//! One way of decoding that a sweep compares with the others.

use anyhow::{Context, Result};
use std::fmt;
use tpv_core::policy::{DeadlineTarget, Term, Throttle};

/// Where a policy's text stands for one policy for each budget.
const BUDGET: &str = "{budget}";

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

    /// The arms that a policy's text stands for.
    pub fn expand(text: &str, budgets: &[u32], brief: bool) -> Result<Vec<Self>> {
        let arm = |budget: Option<u32>| -> Result<Self> {
            let policy = budget.map_or_else(|| text.to_owned(), |tokens| text.replace(BUDGET, &tokens.to_string()));
            let throttle = policy.parse().context("--policy")?;
            Ok(Self { family: text.to_owned(), budget, throttle, brief })
        };
        if text.contains(BUDGET) {
            budgets.iter().map(|&tokens| arm(Some(tokens))).collect()
        } else {
            Ok(vec![arm(None)?])
        }
    }

    /// The tokens that a deadline aims at.
    pub fn deadline_tokens(&self) -> Option<u32> {
        self.throttle.policy.terms.iter().find_map(|term| match term {
            Term::Deadline { target: DeadlineTarget::Tokens(tokens), .. } => Some(*tokens),
            _ => None,
        })
    }

    /// The family's name in tables, with the prompt.
    pub fn family_name(&self) -> String {
        if self.brief { format!("{} (brief)", self.family) } else { self.family.clone() }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.throttle, if self.brief { " (brief)" } else { "" })
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
        assert_eq!(arms[1].deadline_tokens(), Some(128));
        assert_eq!(Arm::expand("constant:15", &[64, 128], false).unwrap().len(), 1);
        assert!(Arm::expand("budget:{budgets}", &[64], false).is_err());
    }
}
