//! One response of a sweep, a line of `results.jsonl`.

use serde::{Deserialize, Serialize};

/// How one sample went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepResult {
    /// What it was made with; lines of other settings are kept but not counted.
    pub settings: String,
    /// The arm's name.
    pub arm: String,
    /// The problem's index.
    pub problem: usize,
    /// The sample's number.
    pub generation: usize,
    /// Thinking tokens, `</think>` included.
    pub thinking_tokens: u32,
    /// Generated tokens.
    pub generated_tokens: u32,
    /// Whether `</think>` came.
    pub thinking_ended: bool,
    /// Whether `</think>` was forced.
    pub forced: bool,
    /// The answer that was found.
    pub answer: Option<String>,
    /// Whether it is right; none without a gold answer.
    pub correct: Option<bool>,
}

impl SweepResult {
    /// Whether the thought ended within `cap` thinking tokens; cutting there changes nothing else.
    pub fn ended_within(&self, cap: Option<u32>) -> bool {
        self.thinking_ended && cap.is_none_or(|cap| self.thinking_tokens <= cap)
    }

    /// Whether it ended within the cap with an answer.
    pub fn answered_within(&self, cap: Option<u32>) -> bool {
        self.ended_within(cap) && self.answer.is_some()
    }

    /// Whether it ended within the cap with the right answer.
    pub fn correct_within(&self, cap: Option<u32>) -> bool {
        self.ended_within(cap) && self.correct == Some(true)
    }

    /// Thinking tokens that are spent when the thought is cut at the cap.
    pub fn tokens_within(&self, cap: Option<u32>) -> u32 {
        cap.map_or(self.thinking_tokens, |cap| self.thinking_tokens.min(cap))
    }
}
