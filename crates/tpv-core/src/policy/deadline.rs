//! The deadline: a closed loop that makes the predicted finish meet a budget of tokens or seconds.
//!
//! With target T, position j and the reading's estimate R of the tokens left, the finish is predicted at F = j + R:
//!
//! ```text
//! wanted = max * smoothstep(ln(F / T) / ln 1.5)            nothing while the finish is predicted in time
//! alpha  = alpha + 0.1 (wanted - alpha)                     so that it rises softly
//! bias   = end * smoothstep((j - 0.75 T) / 0.25 T)          on `</think>`, in the last quarter, when F > T
//! ```
//!
//! The bias lets the model close its thought at a place of its own choosing; `</think>` is forced only where it would
//! otherwise come too late. A deadline never slows a thought down: finishing early is no fault.

use super::{Budget, Control, Observation, Policy};
use crate::reading::Reading;

/// Weight of the newest wish in alpha.
const SOFTNESS: f32 = 0.1;
/// A predicted finish at this multiple of the target asks for the full push.
const FULL_LAG: f32 = 1.5;
/// Share of the target from which `</think>` itself is favoured.
const LAST_STRETCH: f32 = 0.75;

/// What must be met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DeadlineTarget {
    /// Thinking tokens, `</think>` included.
    Tokens(u32),
    /// Seconds of thinking.
    Seconds(f64),
}

/// Steers one thought towards a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deadline {
    target: DeadlineTarget,
    max_alpha: f32,
    max_end_bias: f32,
    think_end_tokens: u32,
    alpha: f32,
}

impl Deadline {
    /// At most `max_alpha` along the direction and `max_end_bias` logits on `</think>`, which takes `think_end_tokens`.
    pub fn new(target: DeadlineTarget, max_alpha: f32, max_end_bias: f32, think_end_tokens: u32) -> Self {
        Self { target, max_alpha, max_end_bias, think_end_tokens, alpha: 0.0 }
    }

    /// The target in thinking tokens as things stand.
    fn target_tokens(&self, observation: &Observation<'_>) -> u32 {
        let seconds = match self.target {
            DeadlineTarget::Tokens(tokens) => return tokens,
            DeadlineTarget::Seconds(seconds) => seconds,
        };
        let left = (seconds - observation.elapsed_secs).max(0.0);
        let done = observation.reading.position.saturating_sub(1);
        match observation.tokens_per_sec {
            Some(speed) => done.saturating_add((left * f64::from(speed)) as u32),
            None if left > 0.0 => u32::MAX,
            None => 0,
        }
    }
}

/// The predicted finish in thinking tokens, if the reading says anything about it.
fn predicted_finish(reading: &Reading) -> Option<f32> {
    let position = reading.position as f32;
    let by_progress = || reading.progress.filter(|&progress| progress > 0.02).map(|progress| position / progress);
    let finish = reading.remaining_tokens.map(|left| position + left.value).or_else(by_progress);
    finish.filter(|finish| finish.is_finite())
}

fn smoothstep(x: f32) -> f32 {
    let x = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) };
    x * x * (3.0 - 2.0 * x)
}

impl Policy for Deadline {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        let tokens = self.target_tokens(observation);
        let position = observation.reading.position;
        if (Budget { tokens, think_end_tokens: self.think_end_tokens }).is_due(position) {
            return Control { end_thinking: true, ..Control::default() };
        }
        let target = tokens as f32;
        let finish = predicted_finish(observation.reading);
        let lag = finish.map_or(0.0, |finish| (finish / target).ln() / FULL_LAG.ln());
        self.alpha += SOFTNESS * (self.max_alpha * smoothstep(lag) - self.alpha);
        let late = finish.is_none_or(|finish| finish > target);
        let stretch = (position as f32 - LAST_STRETCH * target) / ((1.0 - LAST_STRETCH) * target);
        let think_end_bias = if late { self.max_end_bias * smoothstep(stretch) } else { 0.0 };
        Control { think_end_bias, ..Control::alpha(self.alpha) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Estimate;

    fn reading(position: u32, remaining: f32) -> Reading {
        let estimate = Estimate { value: remaining, low: 0.0, high: 2.0 * remaining };
        Reading { position, remaining_tokens: Some(estimate), ..Reading::default() }
    }

    #[test]
    fn a_thought_in_time_is_left_alone() {
        let mut deadline = Deadline::new(DeadlineTarget::Tokens(100), 30.0, 4.0, 1);
        for position in 1..90 {
            let reading = reading(position, 90.0 - position as f32);
            assert_eq!(deadline.control(&Observation::of(&reading)), Control::default());
        }
    }

    #[test]
    fn a_late_thought_is_pushed_ever_harder_and_closed_in_time() {
        let mut deadline = Deadline::new(DeadlineTarget::Tokens(100), 30.0, 4.0, 2);
        let mut before = Control::default();
        for position in 1..=98 {
            let control = deadline.control(&Observation::of(&reading(position, 200.0)));
            assert!(control.alpha >= before.alpha && control.think_end_bias >= before.think_end_bias);
            assert!(control.alpha.0 - before.alpha.0 <= 3.0 + 1e-4, "softly");
            assert!(!control.end_thinking);
            before = control;
        }
        assert!(before.alpha.0 > 29.0 && before.think_end_bias > 3.5);
        assert!(deadline.control(&Observation::of(&reading(99, 200.0))).end_thinking);
    }

    #[test]
    fn seconds_become_tokens_by_the_measured_speed() {
        let mut deadline = Deadline::new(DeadlineTarget::Seconds(8.0), 30.0, 4.0, 1);
        let mut at = |position, elapsed_secs, speed| {
            let reading = reading(position, 200.0);
            deadline.control(&Observation { elapsed_secs, tokens_per_sec: speed, ..Observation::of(&reading) })
        };
        assert_eq!(at(1, 0.0, None), Control::default());
        assert!(!at(2, 0.1, Some(10.0)).end_thinking);
        assert!(at(60, 8.0, Some(10.0)).end_thinking);
        assert!(at(3, 9.0, None).end_thinking);
    }
}
