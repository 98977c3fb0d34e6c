//! A push that grows along a straight line.

use super::{Control, Observation, Policy};

/// Alpha goes from `from` at the first thinking token to `to` at token `tokens`, and stays there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// Alpha at the first thinking token.
    pub from: f32,
    /// Alpha from token `tokens` on.
    pub to: f32,
    /// Length of the ramp in thinking tokens.
    pub tokens: u32,
}

impl Policy for Ramp {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        let steps = observation.reading.position.saturating_sub(1) as f32;
        let share = (steps / self.tokens.saturating_sub(1).max(1) as f32).min(1.0);
        // Weighted ends instead of `from + share * (to - from)`, which overflows for huge opposite ends.
        Control::alpha(self.from * (1.0 - share) + self.to * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Reading;

    #[test]
    fn the_ends_are_met() {
        let mut ramp = Ramp { from: 0.0, to: 30.0, tokens: 11 };
        let mut alpha = |position| {
            let reading = Reading { position, ..Reading::default() };
            ramp.control(&Observation::of(&reading)).alpha.0
        };
        assert_eq!([1, 2, 6, 11, 500].map(&mut alpha), [0.0, 3.0, 15.0, 30.0, 30.0]);
    }
}
