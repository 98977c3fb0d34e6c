//! The uncertainty-aware policy of Adaptive Overclocking (arXiv 2509.17000):
//!
//! ```text
//! alpha_t = base + range * (1 - sigmoid(k (u_t - u)))        u_t = H(softmax(logits)) / ln V
//! ```
//!
//! Sure tokens are pushed harder than unsure ones. The entropy is that of the logits *before* the shift: read after it,
//! the push would raise itself. Where the base depends on how hard the problem is, the predicted length at the first
//! thinking token stands for that, not a second model.

use super::{Control, Observation, Policy};
use crate::reading::Reading;
use crate::sampling::normalised_entropy;

/// Where the formula starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum EntropyBase {
    /// The same for every problem.
    Fixed(f32),
    /// By the length predicted at the first thinking token: `easy` below the first bound, 3/5 of it up to the second,
    /// 1/5 above (the published 50, 30 and 10).
    ByLength {
        /// The base for the shortest third of thoughts.
        easy: f32,
        /// Thirds of the lengths known from calibration, in tokens; none known means medium.
        bounds: Option<[f32; 2]>,
    },
}

impl EntropyBase {
    fn at_start(&self, reading: &Reading) -> f32 {
        let (easy, bounds) = match self {
            Self::Fixed(base) => return *base,
            Self::ByLength { easy, bounds } => (*easy, *bounds),
        };
        let fifths = match (reading.remaining_tokens, bounds) {
            (Some(remaining), Some([short, _])) if remaining.value < short => 5.0,
            (Some(remaining), Some([_, long])) if remaining.value >= long => 1.0,
            _ => 3.0,
        };
        easy * fifths / 5.0
    }
}

/// Alpha that follows the model's own certainty.
#[derive(Debug, Clone, PartialEq)]
pub struct EntropyGuided {
    base: EntropyBase,
    range: f32,
    k: f32,
    u: f32,
    started: Option<f32>,
}

impl EntropyGuided {
    /// `range` and base in units of alpha, `k` the steepness, `u` the normalised entropy in 0..1 where half of the range acts.
    pub fn new(base: EntropyBase, range: f32, k: f32, u: f32) -> Self {
        Self { base, range, k, u, started: None }
    }
}

impl Policy for EntropyGuided {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        let base = self.started.unwrap_or_else(|| self.base.at_start(observation.reading));
        if observation.reading.position > 0 {
            self.started = Some(base);
        }
        let entropy = normalised_entropy(observation.logits_before_shift);
        let certainty = 1.0 / (1.0 + (self.k * (entropy - self.u)).exp());
        let alpha = base + self.range * certainty;
        Control::alpha(if alpha.is_finite() { alpha } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Estimate;

    fn alpha(policy: &mut EntropyGuided, logits: &[f32], remaining: f32) -> f32 {
        let estimate = Estimate { value: remaining, low: remaining, high: remaining };
        let reading = Reading { position: 1, remaining_tokens: Some(estimate), ..Reading::default() };
        policy.control(&Observation { logits_before_shift: logits, ..Observation::of(&reading) }).alpha.0
    }

    #[test]
    fn sure_tokens_get_base_and_range_unsure_ones_the_base() {
        let mut policy = EntropyGuided::new(EntropyBase::Fixed(10.0), 20.0, 100.0, 0.5);
        assert!((alpha(&mut policy, &[100.0, 0.0, 0.0, 0.0], 0.0) - 30.0).abs() < 1e-4);
        assert!((alpha(&mut policy, &[1.0; 4], 0.0) - 10.0).abs() < 1e-4);
        // Two equal tokens of four have the entropy ln 2 / ln 4 = 1/2, the threshold: half of the range.
        assert!((alpha(&mut policy, &[100.0, 100.0, 0.0, 0.0], 0.0) - 20.0).abs() < 1e-2);
    }

    #[test]
    fn the_base_is_chosen_once_by_the_predicted_length() {
        let base = |remaining| {
            let base = EntropyBase::ByLength { easy: 50.0, bounds: Some([100.0, 200.0]) };
            let mut policy = EntropyGuided::new(base, 0.0, 1.0, 0.0);
            let first = alpha(&mut policy, &[0.0; 4], remaining);
            assert_eq!(alpha(&mut policy, &[0.0; 4], 5000.0), first);
            first
        };
        assert_eq!([50.0, 150.0, 300.0].map(base), [50.0, 30.0, 10.0]);
    }
}
