//! Where in its output a model is: before, inside or after its thinking, followed token by token.
//!
//! The markers (`<think>`, `</think>`) are matched on the *bytes* that the tokens stand for, so a marker may be one
//! special token, several ordinary ones, or end in the middle of a token (`>\n`).

use serde::{Deserialize, Serialize};

/// The part of the output that a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Generated before any thinking started (models that write `<think>` themselves).
    Before,
    /// Thinking; the token that completes `</think>` is the last one of this phase.
    Thinking,
    /// After `</think>`.
    Answer,
}

/// The texts around a thought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinkingMarkers {
    /// Opens the thinking, `<think>`.
    pub start: String,
    /// Ends the thinking, `</think>`.
    pub end: String,
}

impl Default for ThinkingMarkers {
    fn default() -> Self {
        Self { start: "<think>".into(), end: "</think>".into() }
    }
}

/// Follows the phase over the generated tokens of one sequence.
///
/// ```
/// use tpv_core::phase::{Phase, PhaseTracker, ThinkingMarkers};
/// let mut tracker = PhaseTracker::after_prompt(&ThinkingMarkers::default(), "Why?\n<think>\n");
/// assert_eq!(tracker.push(b"Hm.</"), Phase::Thinking);
/// assert_eq!(tracker.push(b"think>\n"), Phase::Thinking); // completes the marker: still thinking
/// assert!(tracker.thinking_ended());
/// assert_eq!(tracker.push(b"42"), Phase::Answer);
/// assert_eq!(tracker.thinking_tokens(), 2);
/// ```
#[derive(Debug, Clone)]
pub struct PhaseTracker {
    start: Vec<u8>,
    end: Vec<u8>,
    /// The phase of the next token.
    next: Phase,
    /// The last bytes seen, one fewer than the longer marker has.
    tail: Vec<u8>,
    thinking_tokens: usize,
}

impl PhaseTracker {
    /// A tracker for text generated after `prompt`: inside the thinking when the prompt has opened it.
    pub fn after_prompt(markers: &ThinkingMarkers, prompt: &str) -> Self {
        let opened = prompt.rfind(&markers.start);
        let closed = prompt.rfind(&markers.end);
        let next = match (opened, closed) {
            (Some(open), Some(close)) if close > open => Phase::Answer,
            (Some(_), _) => Phase::Thinking,
            (None, _) => Phase::Before,
        };
        Self {
            start: markers.start.as_bytes().to_vec(),
            end: markers.end.as_bytes().to_vec(),
            next,
            tail: Vec::new(),
            thinking_tokens: 0,
        }
    }

    /// Takes the bytes of the next token and returns the phase that the token belongs to.
    pub fn push(&mut self, token_bytes: &[u8]) -> Phase {
        let phase = self.next;
        if phase == Phase::Thinking {
            self.thinking_tokens += 1;
        }
        let marker = match phase {
            Phase::Before => &self.start,
            Phase::Thinking => &self.end,
            Phase::Answer => return phase,
        };
        self.tail.extend_from_slice(token_bytes);
        if contains(&self.tail, marker) {
            self.next = if phase == Phase::Before { Phase::Thinking } else { Phase::Answer };
            self.tail.clear();
        } else {
            let keep = marker.len().saturating_sub(1).min(self.tail.len());
            self.tail.drain(..self.tail.len() - keep);
        }
        phase
    }

    /// The phase of the token that comes next.
    pub fn next_phase(&self) -> Phase {
        self.next
    }

    /// Tokens of the thinking so far, up to and including the one that completed `</think>`.
    pub fn thinking_tokens(&self) -> usize {
        self.thinking_tokens
    }

    /// Whether `</think>` is complete.
    pub fn thinking_ended(&self) -> bool {
        self.next == Phase::Answer
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}
