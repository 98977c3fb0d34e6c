//! Verdicts: what the readings so far add up to, by rules that can be said in a sentence each.
//!
//! In this order; the first that holds is the verdict:
//!
//! 1. **over budget**: the position is beyond the budget, if there is one;
//! 2. **stuck**: the tokens repeat in a loop (see [`repetition`](super::repetition)), or a calibrated progress has made no
//!    new high (by 0.01) for more tokens than [`stall_tokens`](super::calibration::Calibration::stall_tokens), 1.25 times
//!    the longest such pause of any calibrating thought;
//! 3. **unknown**: there is no progress at this token;
//! 4. **nearly done**: calibrated progress has reached 0.9 and has not fallen below 0.8 since. Progress without
//!    calibration is never called nearly done, because it tends to reach the top long before the end;
//! 5. **thinking** otherwise.

use super::Verdict;
use super::repetition::RepetitionDetector;

/// A smaller gain is no progress.
const LEAST_GAIN: f32 = 0.01;
const NEARLY_DONE: f32 = 0.9;
const NOT_DONE_AFTER_ALL: f32 = 0.8;

/// Counts the tokens since progress last made a new high.
#[derive(Debug, Clone, Copy, Default)]
pub struct StallMeter {
    highest: f32,
    highest_at: u32,
}

impl StallMeter {
    /// Takes the progress at a position; the tokens since the last new high.
    pub fn push(&mut self, position: u32, progress: f32) -> u32 {
        if progress >= self.highest + LEAST_GAIN || self.highest_at == 0 {
            *self = Self { highest: progress, highest_at: position };
        }
        position.saturating_sub(self.highest_at)
    }
}

/// What bounds a thought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Thinking tokens that the user allows.
    pub budget_tokens: Option<u32>,
    /// Tokens without a new high of progress that count as a stall; `None` without calibration.
    pub stall_tokens: Option<u32>,
}

/// Judges one thought token by token.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    limits: Limits,
    repetition: RepetitionDetector,
    stall: StallMeter,
    near_the_end: bool,
}

impl Judge {
    /// A judge at the start of a thought.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the newest token and the progress at the position; the verdict there.
    pub fn push(&mut self, position: u32, last_token: u32, progress: Option<f32>) -> Verdict {
        let looping = self.repetition.push(last_token).is_some();
        let stalled = self.stalled(position, progress);
        if self.limits.budget_tokens.is_some_and(|budget| position > budget) {
            Verdict::OverBudget
        } else if looping || stalled {
            Verdict::Stuck
        } else {
            progress.map_or(Verdict::Unknown, |progress| self.under_way(progress))
        }
    }

    fn stalled(&mut self, position: u32, progress: Option<f32>) -> bool {
        let pause = progress.map(|progress| self.stall.push(position, progress));
        matches!((pause, self.limits.stall_tokens), (Some(pause), Some(most)) if pause > most)
    }

    fn under_way(&mut self, progress: f32) -> Verdict {
        let bar = if self.near_the_end { NOT_DONE_AFTER_ALL } else { NEARLY_DONE };
        self.near_the_end = progress >= bar && self.limits.stall_tokens.is_some();
        if self.near_the_end { Verdict::NearlyDone } else { Verdict::Thinking }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALIBRATED: Limits = Limits { budget_tokens: None, stall_tokens: Some(100) };

    /// The verdicts of a made-up thought whose tokens never repeat.
    fn verdicts(limits: Limits, progress: impl IntoIterator<Item = Option<f32>>) -> Vec<Verdict> {
        let mut judge = Judge::new(limits);
        (1..).zip(progress).map(|(position, progress)| judge.push(position, 1000 + position, progress)).collect()
    }

    #[test]
    fn a_steady_thought_is_thinking_and_then_nearly_done() {
        let verdicts = verdicts(CALIBRATED, (1..100).map(|j| Some(j as f32 / 100.0)));
        assert!(verdicts[..89].iter().all(|&v| v == Verdict::Thinking));
        assert!(verdicts[89..].iter().all(|&v| v == Verdict::NearlyDone));
    }

    #[test]
    fn nearly_done_holds_until_progress_falls_well_back() {
        let verdicts = verdicts(CALIBRATED, [0.89, 0.91, 0.85, 0.79, 0.85, 0.9].map(Some));
        use Verdict::{NearlyDone, Thinking};
        assert_eq!(verdicts, [Thinking, NearlyDone, NearlyDone, Thinking, Thinking, NearlyDone]);
    }

    #[test]
    fn progress_without_calibration_is_never_nearly_done_or_stalled() {
        let verdicts = verdicts(Limits::default(), (0..1000).map(|_| Some(0.97)));
        assert!(verdicts.iter().all(|&v| v == Verdict::Thinking));
    }

    #[test]
    fn no_new_high_for_long_is_stuck_until_there_is_one() {
        let flat = (0..150).map(|k| Some(if k % 2 == 0 { 0.3 } else { 0.305 }));
        let verdicts = verdicts(CALIBRATED, flat.chain([Some(0.4)]));
        assert!(verdicts[..101].iter().all(|&v| v == Verdict::Thinking));
        assert!(verdicts[101..150].iter().all(|&v| v == Verdict::Stuck));
        assert_eq!(verdicts[150], Verdict::Thinking);
    }

    #[test]
    fn a_loop_is_stuck_even_where_nothing_can_be_read() {
        let mut judge = Judge::new(Limits::default());
        let verdicts: Vec<Verdict> = (1..=200).map(|j| judge.push(j, j % 5, None)).collect();
        assert!(verdicts[..52].iter().all(|&v| v == Verdict::Unknown));
        assert!(verdicts[52..].iter().all(|&v| v == Verdict::Stuck));
    }

    #[test]
    fn the_budget_comes_first() {
        let limits = Limits { budget_tokens: Some(3), stall_tokens: Some(1) };
        let verdicts = verdicts(limits, [Some(0.5), Some(0.5), Some(0.5), Some(0.95), None]);
        use Verdict::{OverBudget, Stuck, Thinking};
        assert_eq!(verdicts, [Thinking, Thinking, Stuck, OverBudget, OverBudget]);
    }
}
