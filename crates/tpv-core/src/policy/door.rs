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
    /// The position before the first one looked at.
    start: Option<u32>,
    last: Option<u32>,
    gap: u32,
}

/// A token before which the model might close the thought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    /// Whether it is a door of its own, and not one more token of the door before.
    pub is_new: bool,
}

impl Doors {
    /// Takes the logits `[V]` at `position`, 1-based; the door that is there. `think_end` is the first token of `</think>`.
    pub fn see(&mut self, position: u32, logits: &[f32], think_end: u32) -> Option<Door> {
        let start = *self.start.get_or_insert(position.saturating_sub(1));
        if !is_likely(logits, think_end) {
            return None;
        }
        let gap = position.saturating_sub(self.last.unwrap_or(start));
        let is_new = self.last.is_none() || gap >= LEAST_GAP;
        if is_new {
            self.gap = gap;
        }
        self.last = Some(position);
        Some(Door { is_new })
    }

    /// Tokens that another round would take; 0 before the first door.
    pub fn gap(&self) -> u32 {
        self.gap
    }

    /// Whether there was one.
    pub fn any_seen(&self) -> bool {
        self.last.is_some()
    }
}

/// Whether a token has the least probability; not where the logits are no distribution.
fn is_likely(logits: &[f32], token: u32) -> bool {
    let Some(&own) = logits.get(token as usize) else { return false };
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // No token is likelier than its weight beside the likeliest one.
    let weight = f64::from((own - max).exp());
    if weight.is_nan() || weight < LEAST_PROBABILITY {
        return false;
    }
    let total: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    weight / total >= LEAST_PROBABILITY
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: [f32; 3] = [0.0, 0.0, 0.0];
    const SHUT: [f32; 3] = [9.0, 0.0, 0.0];

    #[test]
    fn gaps_are_measured_from_door_to_door() {
        let mut doors = Doors::default();
        assert_eq!(doors.see(1, &SHUT, 2), None);
        assert_eq!((doors.gap(), doors.any_seen()), (0, false));
        assert_eq!(doors.see(10, &OPEN, 2), Some(Door { is_new: true }));
        assert_eq!((doors.gap(), doors.any_seen()), (10, true));
        assert_eq!(doors.see(11, &OPEN, 2), Some(Door { is_new: false }), "a wide door is one");
        assert_eq!(doors.gap(), 10);
        assert_eq!(doors.see(41, &OPEN, 2), Some(Door { is_new: true }));
        assert_eq!(doors.gap(), 30);
    }

    #[test]
    fn a_watch_that_begins_in_mid_thought_counts_from_there() {
        let mut doors = Doors::default();
        assert_eq!(doors.see(250, &SHUT, 2), None);
        assert!(doors.see(260, &OPEN, 2).is_some());
        assert_eq!(doors.gap(), 11);
    }

    #[test]
    fn a_door_is_where_the_probability_is_at_least_a_hundredth() {
        let logits_of = |p: f64| [p.ln() as f32, ((1.0 - p) / 2.0).ln() as f32, ((1.0 - p) / 2.0).ln() as f32];
        assert!(is_likely(&logits_of(0.0101), 0) && !is_likely(&logits_of(0.0099), 0));
        let many: Vec<f32> = (0..1000).map(|_| 0.0).collect();
        assert!(!is_likely(&many, 5), "as likely as any, and only a thousandth");
    }

    #[test]
    fn logits_that_are_no_distribution_are_no_door() {
        let mut doors = Doors::default();
        for logits in [&[][..], &[f32::NAN; 3], &[f32::NEG_INFINITY; 3], &[0.0]] {
            assert_eq!(doors.see(5, logits, 2), None, "{logits:?}");
        }
    }
}
