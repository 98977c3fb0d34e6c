//! The deadline: a closed loop that ends a thought at a door of its own in time for a budget of tokens or seconds.
//!
//! With target T, position j, the reading's estimate R of the tokens left, and the [doors](super::door) seen so far with
//! their gap g:
//!
//! ```text
//! at a door   j + g > T           bias = +open      no further round fits: leave by this one
//!             else                "Wait"            one fits: think on, if waiting is asked for (for long rounds see below)
//! before any  F = j + R           alpha goes softly towards max * smoothstep(ln(F / T) / ln 1.5), if a push is asked for
//! at the end  j > 0.75 T, F > T   bias = end * smoothstep((j - 0.75 T) / 0.25 T)
//! ```
//!
//! `</think>` is forced only where it would otherwise come too late: a thought without a door in time is ended there.
//! A push along theta before the first door loses right answers on the bundled model, so it is off unless asked for.
//! Without waiting, short thoughts stay short. With it most thoughts land near the target: where the model could close
//! but has time, "Wait" is written for it (budget forcing of s1), which starts another round. While more than 0.3 of the
//! target is left, a round is begun even where only 0.7 of it fit, since leaving would miss the target by more; it may be
//! cut. A model that still wants to close right after "Wait", at the same door, may: it is neither made to wait again nor
//! pushed out. More thinking than the model wanted costs tokens and may cost right answers, so waiting is off unless asked
//! for.

use super::door::Doors;
use super::{Budget, Control, Observation, Policy};
use crate::reading::Reading;

/// Weight of the newest wish in alpha.
const SOFTNESS: f32 = 0.1;
/// A predicted finish at this multiple of the target asks for the full push.
const FULL_LAG: f32 = 1.5;
/// Share of the target from which `</think>` itself is favoured.
const LAST_STRETCH: f32 = 0.75;
/// Leaving by a door misses the target by too much where more than this share of it is left.
const FAR: f32 = 0.3;
/// While the target is far, a round is begun if this share of it fits.
const CUT_ROUND: f32 = 0.7;

/// What must be met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DeadlineTarget {
    /// Thinking tokens, `</think>` included.
    Tokens(u32),
    /// Seconds of thinking.
    Seconds(f64),
}

/// How hard a deadline may steer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeadlineGains {
    /// Most alpha along the direction while no door has come.
    pub max_alpha: f32,
    /// Logits on `</think>` at the last door in time.
    pub open: f32,
    /// Whether thoughts wait at doors after which another round fits.
    pub wait: bool,
    /// Most logits on `</think>` in the last stretch.
    pub end: f32,
}

/// `</think>` as the loop must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndMarker {
    /// Its first token; none where it is not known, and then no door is seen.
    pub token: Option<u32>,
    /// Tokens that it takes.
    pub tokens: u32,
}

/// Steers one thought towards a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deadline {
    target: DeadlineTarget,
    gains: DeadlineGains,
    think_end: EndMarker,
    doors: Doors,
    /// Whether the door seen last was waited at.
    waited: bool,
    alpha: f32,
}

impl Deadline {
    /// A deadline at the start of a thought.
    pub fn new(target: DeadlineTarget, gains: DeadlineGains, think_end: EndMarker) -> Self {
        Self { target, gains, think_end, doors: Doors::default(), waited: false, alpha: 0.0 }
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

    /// Whether to think on at a door at `position`.
    fn waits(&self, position: u32, target: f32) -> bool {
        let (j, gap) = (position as f32, self.doors.gap() as f32);
        let fits = j + gap <= target;
        let far = target - j > FAR * target && j + CUT_ROUND * gap <= target;
        self.gains.wait && (fits || far)
    }

    /// The bias on `</think>` at `position` of `target` tokens: at a door that may be left by, by what fits after it, else
    /// by how near the end is.
    fn think_end_bias(&self, leaving: bool, position: f32, target: f32, late: bool) -> f32 {
        if leaving && position + self.doors.gap() as f32 > target {
            return self.gains.open;
        }
        let stretch = (position - LAST_STRETCH * target) / ((1.0 - LAST_STRETCH) * target);
        if late { self.gains.end * smoothstep(stretch) } else { 0.0 }
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
        if (Budget { tokens, think_end_tokens: self.think_end.tokens }).is_due(position) {
            return Control { end_thinking: true, ..Control::default() };
        }
        let logits = observation.logits_before_shift;
        let door = self.think_end.token.and_then(|token| self.doors.see(position, logits, token));
        let target = tokens as f32;
        if door.is_some_and(|door| door.is_new) {
            // Before the speed is known there is no target to fill.
            self.waited = tokens < u32::MAX && self.waits(position, target);
            if self.waited {
                return Control { wait: true, ..Control::alpha(self.alpha) };
            }
        }
        let finish = predicted_finish(observation.reading);
        let before_any_door = finish.filter(|_| !self.doors.any_seen());
        let lag = before_any_door.map_or(0.0, |finish| (finish / target).ln() / FULL_LAG.ln());
        self.alpha += SOFTNESS * (self.gains.max_alpha * smoothstep(lag) - self.alpha);
        let late = finish.is_none_or(|finish| finish > target);
        let think_end_bias = self.think_end_bias(door.is_some() && !self.waited, position as f32, target, late);
        Control { think_end_bias, ..Control::alpha(self.alpha) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Estimate;

    const GAINS: DeadlineGains = DeadlineGains { max_alpha: 30.0, open: 6.0, wait: false, end: 4.0 };
    const END: EndMarker = EndMarker { token: Some(0), tokens: 2 };
    const DOOR: [f32; 2] = [0.0, 0.0];
    const WALL: [f32; 2] = [-20.0, 0.0];

    fn reading(position: u32, remaining: f32) -> Reading {
        let estimate = Estimate { value: remaining, low: 0.0, high: 2.0 * remaining };
        Reading { position, remaining_tokens: Some(estimate), ..Reading::default() }
    }

    fn deadline(tokens: u32, gains: DeadlineGains) -> Deadline {
        Deadline::new(DeadlineTarget::Tokens(tokens), gains, END)
    }

    /// The controls at the doors of a thought that has one every `gap` tokens.
    fn at_doors(tokens: u32, gap: u32, gains: DeadlineGains) -> Vec<Control> {
        let mut deadline = deadline(tokens, gains);
        let controls = (1..tokens - 1).map(|position| {
            let reading = reading(position, 0.0);
            let logits = if position % gap == 0 { &DOOR } else { &WALL };
            deadline.control(&Observation { logits_before_shift: logits, ..Observation::of(&reading) })
        });
        controls.enumerate().filter(|(i, _)| (i + 1) % gap as usize == 0).map(|(_, control)| control).collect()
    }

    #[test]
    fn the_last_door_in_time_is_opened_and_earlier_ones_are_left_alone() {
        let biases = |tokens| at_doors(tokens, 30, GAINS).iter().map(|it| it.think_end_bias).collect::<Vec<_>>();
        assert_eq!(biases(100), [0.0, 0.0, 6.0]);
        assert_eq!(biases(90), [0.0, 0.0]);
        assert_eq!(biases(55), [6.0]);
    }

    #[test]
    fn a_thought_that_waits_takes_every_round_that_fits() {
        let waiting = DeadlineGains { wait: true, ..GAINS };
        let steps = |tokens, gap| {
            let controls = at_doors(tokens, gap, waiting);
            controls.iter().map(|it| (it.wait, it.think_end_bias)).collect::<Vec<_>>()
        };
        let (waits, leaves) = ((true, 0.0), (false, 6.0));
        assert_eq!(steps(100, 30), [waits, waits, leaves]);
        assert_eq!(steps(110, 40), [waits, leaves], "30 tokens are left, not far");
        assert_eq!(steps(99, 50), [waits], "far, and nearly all of the round fits");
        assert_eq!(steps(84, 50), [leaves], "far, but less than 0.7 of the round fits");
    }

    #[test]
    fn a_wide_door_is_waited_at_once_and_is_not_pushed_open_after_it() {
        for (target, first) in [(100, 20), (99, 50), (40, 20)] {
            let mut deadline = deadline(target, DeadlineGains { wait: true, ..GAINS });
            for position in 1..first + 20 {
                let reading = reading(position, 0.0);
                let logits = if (first..first + 9).contains(&position) { &DOOR } else { &WALL };
                let control =
                    deadline.control(&Observation { logits_before_shift: logits, ..Observation::of(&reading) });
                assert_eq!(control.wait, position == first, "{position} of {target}");
                assert_eq!(control.think_end_bias, 0.0, "{position} of {target}");
                if control.end_thinking {
                    break;
                }
            }
        }
    }

    #[test]
    fn nothing_waits_before_the_speed_is_known() {
        let gains = DeadlineGains { wait: true, ..GAINS };
        let mut deadline = Deadline::new(DeadlineTarget::Seconds(0.001), gains, END);
        let reading = reading(2, 0.0);
        let observation = Observation { logits_before_shift: &DOOR, elapsed_secs: 1e-4, ..Observation::of(&reading) };
        assert_eq!(deadline.control(&observation), Control::default());
    }

    #[test]
    fn a_thought_in_time_is_left_alone() {
        let mut deadline = deadline(100, GAINS);
        for position in 1..90 {
            let reading = reading(position, 90.0 - position as f32);
            assert_eq!(deadline.control(&Observation::of(&reading)), Control::default());
        }
    }

    #[test]
    fn a_late_thought_without_a_door_is_pushed_ever_harder_and_closed_in_time() {
        let mut deadline = deadline(100, GAINS);
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
        let mut deadline = Deadline::new(DeadlineTarget::Seconds(8.0), GAINS, END);
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
