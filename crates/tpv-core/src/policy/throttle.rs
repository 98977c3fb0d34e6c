//! A policy together with the direction that it pushes along.

use super::{Direction, DirectionError, PolicyError, PolicySpec};
use std::fmt;
use std::str::FromStr;

/// `POLICY` or `POLICY@DIRECTION`, such as `constant:15@pattern`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Throttle {
    /// How hard.
    pub policy: PolicySpec,
    /// Which way.
    pub direction: Direction,
}

impl FromStr for Throttle {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (policy, direction) = match text.split_once('@') {
            Some((policy, direction)) => {
                let direction =
                    direction.trim().parse().map_err(|error: DirectionError| PolicyError::in_text(text, error))?;
                (policy, direction)
            }
            None => (text, Direction::Theta),
        };
        let policy: PolicySpec = policy.parse()?;
        if direction != Direction::Theta && policy.uses_logits() {
            return Err(PolicyError::in_text(
                text,
                "a strength in logits speaks of theta; give alpha along other directions",
            ));
        }
        Ok(Self { policy, direction })
    }
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.direction {
            Direction::Theta => self.policy.fmt(f),
            direction => write!(f, "{}@{direction}", self.policy),
        }
    }
}
