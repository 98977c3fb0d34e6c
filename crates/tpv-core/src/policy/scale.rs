//! Alpha in logits, so that one number means the same on every model.
//!
//! One unit of alpha adds `shift = W theta` to the logits. What that does to `</think>` depends on what it does to the
//! tokens that would come instead, so the scale is, with the model's own probabilities p before any shift,
//!
//! ```text
//! logits per alpha = shift[</think>] - E over states of sum_i p_i shift_i
//! ```
//!
//! To first order this is the rate at which alpha raises `ln p(</think>)`. The mean is measured with [`ScaleMeter`] on
//! thinking states of a validation run; before that the plain mean over the vocabulary stands in for it.

use serde::{Deserialize, Serialize};

/// The mean of `shift` under the probabilities of `logits`, both `[V]`; `None` where the logits are no distribution.
pub fn usual_continuation(shift: &[f32], logits: &[f32]) -> Option<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() {
        return None;
    }
    let (mut total, mut weighted) = (0f64, 0f64);
    for (&shift, &logit) in shift.iter().zip(logits) {
        let weight = f64::from((logit - max).exp());
        total += weight;
        weighted += weight * f64::from(shift);
    }
    let mean = (weighted / total) as f32;
    mean.is_finite().then_some(mean)
}

/// Averages the usual continuation over states.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ScaleMeter {
    sum: f64,
    states: u64,
}

impl ScaleMeter {
    /// Takes the logits of one thinking state, before any shift.
    pub fn push(&mut self, shift: &[f32], logits: &[f32]) {
        if let Some(mean) = usual_continuation(shift, logits) {
            self.sum += f64::from(mean);
            self.states += 1;
        }
    }

    /// Joins the states of another meter.
    pub fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.states += other.states;
    }

    /// Logits of `</think>` per unit of alpha; `None` before any state.
    pub fn logits_per_alpha(&self, shift: &[f32], think_end: u32) -> Option<f32> {
        (self.states > 0).then(|| (f64::from(shift[think_end as usize]) - self.sum / self.states as f64) as f32)
    }
}

/// The stand-in for the measured scale: against the plain mean over the vocabulary.
pub fn unmeasured_logits_per_alpha(shift: &[f32], think_end: u32) -> f32 {
    shift[think_end as usize] - shift.iter().sum::<f32>() / shift.len().max(1) as f32
}

/// The alpha that amounts to `logits`; `None` where the direction does not move `</think>` at all.
pub fn alpha_of_logits(logits: f32, logits_per_alpha: f32) -> Option<f32> {
    let alpha = logits / logits_per_alpha;
    alpha.is_finite().then_some(alpha)
}

/// What `alpha` amounts to in logits.
pub fn logits_of_alpha(alpha: f32, logits_per_alpha: f32) -> f32 {
    alpha * logits_per_alpha
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_probability(logits: &[f32], token: usize) -> f64 {
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(logits[token]) - total.ln()
    }

    #[test]
    fn the_scale_is_the_slope_of_the_log_probability() {
        let (shift, logits) = ([0.3, -0.1, 0.2, 0.05], [1.0, 2.0, -1.0, 0.5]);
        let mut meter = ScaleMeter::default();
        meter.push(&shift, &logits);
        let scale = f64::from(meter.logits_per_alpha(&shift, 2).unwrap());
        let pushed = |alpha: f32| -> Vec<f32> { logits.iter().zip(shift).map(|(l, s)| l + alpha * s).collect() };
        let slope = (log_probability(&pushed(0.01), 2) - log_probability(&pushed(-0.01), 2)) / 0.02;
        assert!((scale - slope).abs() < 1e-4, "{scale} against {slope}");
    }

    #[test]
    fn conversion_goes_both_ways() {
        let scale = unmeasured_logits_per_alpha(&[0.0, 0.0, 0.3], 2);
        assert!((scale - 0.2).abs() < 1e-6);
        let alpha = alpha_of_logits(2.0, scale).unwrap();
        assert!((logits_of_alpha(alpha, scale) - 2.0).abs() < 1e-5);
        assert_eq!(alpha_of_logits(2.0, 0.0), None);
        assert_eq!(usual_continuation(&[1.0], &[f32::NAN]), None);
    }
}
