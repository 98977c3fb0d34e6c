//! How hard to push: policies that choose alpha for every thinking token.
//!
//! A [`Policy`] sees the reading, which was taken before any shift, and returns a [`Control`] for the next token.
//! Policies are deterministic and hold no clock: elapsed time comes in with the [`Observation`].
//!
//! A [`PolicySpec`] is a policy as text, such as `deadline:tokens=256`, and [`Direction`] says which vector alpha pushes
//! along; a [`Throttle`] is both, `constant:15@pattern`. [`scale`] turns alpha into logits and back.

mod budget;
mod deadline;
mod direction;
mod door;
mod entropy;
mod ramp;
pub mod scale;
mod spec;
mod throttle;

pub use budget::Budget;
pub use deadline::{Deadline, DeadlineGains, DeadlineTarget, EndMarker};
pub use direction::{Direction, DirectionError};
pub use entropy::{EntropyBase, EntropyGuided};
pub use ramp::Ramp;
pub use spec::{PolicyContext, PolicyError, PolicySpec, SCALE_FIGURE, Strength, Term};
pub use throttle::Throttle;

use crate::reading::Reading;
use serde::{Deserialize, Serialize};

/// The strength of the push along theta: `logits += alpha * W theta`. 0 turns it off, negative values slow down.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Alpha(pub f32);

/// What a policy knows when it chooses.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The reading of the state that predicts the next token. Outside the thinking it says nothing but the position: 0 before,
    /// the length of the thought after.
    pub reading: &'a Reading,
    /// The logits of the model itself, before any shift, `[V]`.
    pub logits_before_shift: &'a [f32],
    /// Seconds since the first thinking token of this sequence was asked for.
    pub elapsed_secs: f64,
    /// Measured speed of this sequence, if known.
    pub tokens_per_sec: Option<f32>,
}

impl<'a> Observation<'a> {
    /// An observation of a reading alone: no logits, no time.
    pub fn of(reading: &'a Reading) -> Self {
        Self { reading, logits_before_shift: &[], elapsed_secs: 0.0, tokens_per_sec: None }
    }
}

/// What happens to the next token.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Control {
    /// How much of the shift is added to the logits.
    pub alpha: Alpha,
    /// Added to the logit of `</think>` alone.
    pub think_end_bias: f32,
    /// Close the thinking now, whatever the logits say.
    pub end_thinking: bool,
    /// Write "Wait" now, whatever the logits say, so that the model thinks on (budget forcing of s1,
    /// [arXiv:2501.19393](https://arxiv.org/abs/2501.19393), section 3.1). Closing comes before waiting.
    pub wait: bool,
}

impl Control {
    /// A push along theta and nothing else.
    pub fn alpha(alpha: f32) -> Self {
        Self { alpha: Alpha(alpha), ..Self::default() }
    }
}

/// Chooses the control for each thinking token of one sequence.
pub trait Policy: Send {
    /// The control for the token that the observed state predicts.
    fn control(&mut self, observation: &Observation<'_>) -> Control;
}

/// The paper's policy: the same alpha at every thinking token.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Constant(pub Alpha);

impl Policy for Constant {
    fn control(&mut self, _: &Observation<'_>) -> Control {
        Control { alpha: self.0, ..Control::default() }
    }
}
