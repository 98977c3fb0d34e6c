//! The hard budget: the thinking is closed at a fixed number of tokens, and the answer follows.

use super::{Control, Observation, Policy};

/// Closes the thinking so that it has at most `tokens` tokens, `</think>` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Most thinking tokens.
    pub tokens: u32,
    /// Tokens that `</think>` takes.
    pub think_end_tokens: u32,
}

impl Budget {
    /// Whether `</think>` must begin at `position` to be complete within the budget.
    pub fn is_due(&self, position: u32) -> bool {
        u64::from(position) + u64::from(self.think_end_tokens.max(1)) > u64::from(self.tokens)
    }
}

impl Policy for Budget {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        Control { end_thinking: self.is_due(observation.reading.position), ..Control::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_end_token_is_within_the_budget() {
        let budget = Budget { tokens: 10, think_end_tokens: 3 };
        assert!(!budget.is_due(7)); // 8, 9, 10 are left for the marker
        assert!(budget.is_due(8));
        assert!(Budget { tokens: 1, think_end_tokens: 1 }.is_due(1));
        assert!(Budget { tokens: u32::MAX, think_end_tokens: 0 }.is_due(u32::MAX));
    }
}
