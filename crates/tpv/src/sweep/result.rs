//! One response of a sweep, a line of `results.jsonl`.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tpv_core::policy::scale::ScaleMeter;

/// How one sample went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SweepResult {
    /// What it was made with; lines of other settings are kept but not counted.
    pub settings: String,
    /// The arm's name.
    pub arm: String,
    /// The arm's policy with every strength as plain alpha: what the vector's levels and scale made of its name.
    pub policy: String,
    /// The problem's index.
    pub problem: usize,
    /// The sample's number.
    pub generation: usize,
    /// Thinking tokens, `</think>` included.
    pub thinking_tokens: u32,
    /// Seconds of thinking, at the speed of the batch that it was part of.
    pub thinking_secs: f64,
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
    /// What the scale of alpha is measured by; kept for the model as it is where effort levels are to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual: Option<ScaleMeter>,
    /// Progress as read at thinking tokens 1, 2, ..; kept for the few samples that the report draws.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<f32>,
    /// The time that the chat template may have printed, that of the sweep's first sample: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_unix_secs: Option<u64>,
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

/// Results of one arm, ordered by problem and generation.
pub type ByArm<'a> = HashMap<String, Vec<&'a SweepResult>>;

/// Sorts results by arm.
pub fn by_arm(results: &[SweepResult]) -> ByArm<'_> {
    let mut sorted: ByArm<'_> = HashMap::new();
    results.iter().for_each(|result| sorted.entry(result.arm.clone()).or_default().push(result));
    sorted.values_mut().for_each(|of_arm| of_arm.sort_by_key(|it| (it.problem, it.generation)));
    sorted
}
