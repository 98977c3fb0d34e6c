//! Reading over time: what is known about a thought after each of its tokens.
//!
//! A [`Reader`] sees the final hidden states of one sequence in order and turns each into a [`Reading`]. Readers are
//! causal: a reading depends on the states so far and on nothing that comes later.
//!
//! The way of the numbers: [`heads`] read a state; [`features`] sums up the thought so far; [`calibration`] turns that into
//! tokens left, with an interval that [`conformal`] makes honest, and into progress; [`verdict`] says what it adds up to;
//! [`reader`] joins them; [`speed`] turns tokens into seconds. [`evaluation`] measures all of it against baselines.

pub mod calibration;
pub mod conformal;
pub mod evaluation;

pub mod features;
pub mod heads;
pub mod quantile;
pub mod reader;
pub mod repetition;
pub mod speed;
#[cfg(test)]
mod synthetic;
pub mod verdict;

pub use calibration::{Calibration, CalibrationError, calibrate};
pub use heads::{HeadTrace, HeadValues};
pub use reader::{ProgressReader, ReadingModel};
pub use speed::{SpeedMeter, TokenTimes};

use serde::{Deserialize, Serialize};

/// The highest progress before `</think>`: it is shown as 99 %, never rounded up to 100 %.
pub const PROGRESS_CEILING: f32 = 0.99;

/// A value with the interval that holds it with the stated coverage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The point estimate.
    pub value: f32,
    /// Lower end of the interval.
    pub low: f32,
    /// Upper end of the interval.
    pub high: f32,
}

/// What the readings say about the thought as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is known: no vector, or too few tokens.
    #[default]
    Unknown,
    /// Under way.
    Thinking,
    /// The end is near.
    NearlyDone,
    /// No progress for long, or a repeating loop of tokens.
    Stuck,
    /// More tokens than the budget allows.
    OverBudget,
    /// `</think>` has come.
    Done,
}

/// What one final hidden state, with those before it, says about the thinking.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Reading {
    /// The number j of the token that this state predicts, 1-based within the thinking.
    pub position: u32,
    /// `theta . h_j`, before any shift, smoothing or clamping; roughly -0.3 .. 1.4.
    pub progress_raw: Option<f32>,
    /// The filtered and calibrated progress in `[0, 1]`; 1 only once `</think>` has come.
    pub progress: Option<f32>,
    /// Thinking tokens still to come after the one that this state predicts, N - j.
    pub remaining_tokens: Option<Estimate>,
    /// What it adds up to.
    pub verdict: Verdict,
}

/// What a reader is shown at each thinking step, before the next token is chosen.
#[derive(Debug, Clone, Copy)]
pub struct StateView<'a> {
    /// The final hidden state after the last norm, `[d]`.
    pub hidden_post_norm: &'a [f32],
    /// The number j of the token that this state predicts, 1-based within the thinking.
    pub position: u32,
    /// The token before, the last one of the prompt for the first state.
    pub last_token: u32,
}

/// Turns the states of one sequence into readings, in order and without looking ahead.
pub trait Reader: Send {
    /// Reads the next state.
    fn read(&mut self, state: StateView<'_>) -> Reading;
}

/// A reader for when there is no vector: counts positions and claims nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlindReader;

impl Reader for BlindReader {
    fn read(&mut self, state: StateView<'_>) -> Reading {
        Reading { position: state.position, ..Reading::default() }
    }
}
