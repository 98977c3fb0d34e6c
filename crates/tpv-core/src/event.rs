//! The one event type behind every number that anybody sees: bar, NDJSON, server stream and reports.

use crate::phase::Phase;
use crate::reading::{Estimate, Reading};
use serde::{Deserialize, Serialize};

/// Version of the event format, sent with every event.
pub const EVENT_VERSION: u32 = 1;

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model said that it is done (end-of-sequence token).
    Stop,
    /// The token limit was reached.
    Length,
    /// One of the request's stop texts came.
    StopText,
    /// Somebody stopped it.
    Cancelled,
    /// The step failed for this sequence alone (logits that are not numbers, say).
    Failed,
}

/// One generated token of one sequence, with what was read and done at its step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenEvent {
    /// 0-based number among the generated tokens.
    pub index: u32,
    /// The token's id.
    pub token: u32,
    /// The text that became complete with this token (may be empty inside a multi-byte character).
    pub text: String,
    /// The phase that the token belongs to.
    pub phase: Phase,
    /// Thinking tokens so far, this one included.
    pub thinking_tokens: u32,
    /// The reading of the state that predicted this token; present while thinking.
    pub reading: Option<Reading>,
    /// The alpha that was applied to this token's logits.
    pub alpha: f32,
    /// Whether the token was forced rather than sampled.
    pub forced: bool,
    /// Seconds since the sequence was submitted.
    pub elapsed_secs: f64,
    /// Decoding speed of this sequence so far, tokens per second.
    pub tokens_per_sec: Option<f32>,
    /// Seconds of thinking still to come: the reading's tokens left at the measured speed, whose spread widens the interval.
    #[serde(default)]
    pub remaining_secs: Option<Estimate>,
}

/// The end of one sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishEvent {
    /// Why it ended.
    pub reason: FinishReason,
    /// What went wrong, if the reason is `failed`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Generated tokens, the end-of-sequence token included.
    pub generated_tokens: u32,
    /// Thinking tokens up to and including `</think>`.
    pub thinking_tokens: u32,
    /// Whether `</think>` came.
    pub thinking_ended: bool,
    /// Seconds from submission to the end.
    pub elapsed_secs: f64,
    /// Seconds from the first to the last thinking token.
    pub thinking_secs: f64,
    /// By what share of a step over no positions each position of this sequence made a step longer, as the bytes that a step
    /// reads tell: the mean over the steps.
    #[serde(default)]
    pub step_growth: f64,
    /// Seconds in which it had given up its KV memory and waited for others. They are in all other times.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub paused_secs: f64,
}

fn is_zero(secs: &f64) -> bool {
    *secs == 0.0
}

impl FinishEvent {
    /// A sequence that ended before it began.
    pub fn empty(reason: FinishReason) -> Self {
        Self {
            reason,
            error: None,
            prompt_tokens: 0,
            generated_tokens: 0,
            thinking_tokens: 0,
            thinking_ended: false,
            elapsed_secs: 0.0,
            thinking_secs: 0.0,
            step_growth: 0.0,
            paused_secs: 0.0,
        }
    }
}
