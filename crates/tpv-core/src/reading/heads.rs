//! What the vector's heads say about single states, and along whole thoughts.

use super::speed::TokenTimes;
use crate::vector::{ProgressVector, dots};

/// The heads' values at one state, before any smoothing or clamping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadValues {
    /// `theta . h`, the fit without intercept.
    pub theta: f32,
    /// The progress head, the fit with intercept.
    pub progress: f32,
    /// The head for `ln(1 + remaining tokens)`; NaN where the vector has none.
    pub log_remaining: f32,
}

impl HeadValues {
    /// Reads one final hidden state, `[d]`, in one pass over it.
    pub fn of_state(vector: &ProgressVector, hidden_post_norm: &[f32]) -> Self {
        let (theta, progress) = (&vector.theta, &vector.progress);
        let Some(head) = &vector.log_remaining else {
            let [theta, read] = dots([theta, &progress.weights], hidden_post_norm);
            return Self { theta, progress: read + progress.intercept, log_remaining: f32::NAN };
        };
        let [theta, read, log_remaining] = dots([theta, &progress.weights, &head.weights], hidden_post_norm);
        Self { theta, progress: read + progress.intercept, log_remaining: log_remaining + head.intercept }
    }
}

/// Why a thought's values cannot be right.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("a thought of problem {problem} has {got} readings but {thinking_tokens} thinking tokens")]
pub struct TooManyValues {
    /// The problem.
    pub problem: usize,
    /// Thinking tokens up to and including `</think>`.
    pub thinking_tokens: usize,
    /// Values given.
    pub got: usize,
}

/// The heads' values along one finished thought.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadTrace {
    /// The problem's number; thoughts of one problem share it.
    pub problem: usize,
    /// The values at positions 1, 2, ... NaN where a state is missing; at most N of them.
    pub values: Vec<HeadValues>,
    /// N: thinking tokens up to and including `</think>`.
    pub thinking_tokens: usize,
    /// When the tokens came; no times where they were not recorded.
    pub times: TokenTimes,
}

impl HeadTrace {
    /// Reads the final hidden states of one finished thought, row j - 1 for position j.
    pub fn of_states<'a>(
        vector: &ProgressVector,
        problem: usize,
        states: impl Iterator<Item = &'a [f32]>,
        thinking_tokens: usize,
    ) -> Self {
        let values = states.take(thinking_tokens).map(|state| HeadValues::of_state(vector, state)).collect();
        Self { problem, values, thinking_tokens, times: TokenTimes::default() }
    }

    /// The positions, from 1, with their values.
    pub fn steps(&self) -> impl Iterator<Item = (u32, HeadValues)> {
        (1..).zip(self.values.iter().copied())
    }

    /// Refuses more values than there are tokens.
    pub fn check(&self) -> Result<(), TooManyValues> {
        if self.values.len() <= self.thinking_tokens {
            return Ok(());
        }
        let (problem, thinking_tokens, got) = (self.problem, self.thinking_tokens, self.values.len());
        Err(TooManyValues { problem, thinking_tokens, got })
    }
}
