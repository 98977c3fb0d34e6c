//! Doors: the places of a thought at which the model itself might close it.
//!
//! ```text
//! door    a token before which p(</think>) >= 1 %, read from the model's own logits, before any shift
//! gap     tokens from the door before, or from the start of the thought, to this one: what another round would take
//! ```
//!
//! Closing a thought anywhere else breaks off a line or a calculation, and the answer is then taken from its middle.

/// What `</think>` must be worth to the model for a place to count as a door.
const LEAST_PROBABILITY: f64 = 0.01;
/// Doors nearer than this, in tokens, are one.
const LEAST_GAP: u32 = 3;

/// The doors of one thought so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Doors {
    last: Option<u32>,
    gap: u32,
}

impl Doors {
    /// Takes the logits `[V]` at `position`, 1-based; whether a door is there. `think_end` is the first token of `</think>`.
    pub fn see(&mut self, position: u32, logits: &[f32], think_end: u32) -> bool {
        let is_door = probability(logits, think_end).is_some_and(|it| it >= LEAST_PROBABILITY);
        if is_door {
            let gap = position.saturating_sub(self.last.unwrap_or(0));
            if self.last.is_none() || gap >= LEAST_GAP {
                self.gap = gap;
            }
            self.last = Some(position);
        }
        is_door
    }

    /// Tokens that another round would take; 0 before the first door.
    pub fn gap(&self) -> u32 {
        self.gap
    }

    /// Where the next door is expected; none before the first.
    pub fn next(&self) -> Option<u32> {
        self.last.map(|last| last.saturating_add(self.gap))
    }
}

/// The probability of a token; none where the logits are no distribution.
fn probability(logits: &[f32], token: u32) -> Option<f64> {
    let own = *logits.get(token as usize)?;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    let probability = f64::from((own - max).exp()) / total;
    probability.is_finite().then_some(probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: [f32; 3] = [0.0, 0.0, 0.0];
    const SHUT: [f32; 3] = [9.0, 0.0, 0.0];

    #[test]
    fn gaps_are_measured_from_door_to_door() {
        let mut doors = Doors::default();
        assert!(!doors.see(9, &SHUT, 2));
        assert_eq!((doors.gap(), doors.next()), (0, None));
        assert!(doors.see(10, &OPEN, 2));
        assert_eq!((doors.gap(), doors.next()), (10, Some(20)));
        assert!(doors.see(11, &OPEN, 2), "a wide door is one");
        assert_eq!((doors.gap(), doors.next()), (10, Some(21)));
        assert!(doors.see(41, &OPEN, 2));
        assert_eq!((doors.gap(), doors.next()), (30, Some(71)));
    }

    #[test]
    fn logits_that_are_no_distribution_are_no_door() {
        let mut doors = Doors::default();
        for logits in [&[][..], &[f32::NAN; 3], &[f32::NEG_INFINITY; 3], &[0.0]] {
            assert!(!doors.see(5, logits, 2), "{logits:?}");
        }
        assert!((probability(&[0.0, 0.0], 1).unwrap() - 0.5).abs() < 1e-12);
    }
}
