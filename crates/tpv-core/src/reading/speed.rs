//! From tokens left to seconds left.
//!
//! A step reads the weights, and the keys and values of the positions before it, so it takes longer as the thought grows: in
//! proportion to `1 + growth * positions`, where `growth` is the bytes of one position by those of the weights and of the
//! batch's other sequences. Each step's duration, divided by that, feeds a mean and a spread that forget slowly (about the
//! last 50 steps). Seconds left are the mean times the same sum over the tokens left. The interval is widened at both ends
//! by the mean's own 90 % interval, and by a share that shrinks with the steps seen: a few steps say little of the rest
//! (prompts are read between them, batches fill), and even many are not the rest. How other sequences grow, come and go is
//! not foreseen.

use super::Estimate;

/// When the tokens of one thought came.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenTimes {
    /// Seconds at which the thinking tokens came, `[N]`, from any beginning; empty where they were not recorded. Tokens of
    /// one step have the same time.
    pub elapsed_secs: Vec<f64>,
    /// Positions before the first of them.
    pub prompt_tokens: usize,
    /// By what share of a step over no positions each position made a step longer, the mean over the steps.
    pub step_growth: f64,
}

const WEIGHT: f64 = 0.02;
/// Half-width of a normal 90 % interval in standard errors.
const NORMAL_90: f64 = 1.645;
/// The speed of the rest may differ from that of n steps by the share `DRIFT + DRIFT_STEPS / n`; chosen on validation problems.
const DRIFT: f64 = 0.05;
const DRIFT_STEPS: f64 = 5.0;
/// Steps before a speed is claimed.
const LEAST_STEPS: f64 = 4.0;

/// Measures how fast the tokens of one sequence come; the caller brings the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SpeedMeter {
    steps: f64,
    /// Positions that the last step read, and by what share each makes a step longer.
    positions: f64,
    growth: f64,
    mean_growth: f64,
    /// Of a step over no positions.
    mean_secs: f64,
    variance: f64,
}

impl SpeedMeter {
    /// Takes the duration in seconds of the step that appended the token at `position`, 0-based, and the share by which each
    /// position makes such a step longer than one over no positions (0: not known). Durations and shares that are not
    /// positive and finite are ignored.
    pub fn push(&mut self, step_secs: f64, position: usize, growth: f64) {
        if !(step_secs.is_finite() && step_secs > 0.0) {
            return;
        }
        self.steps += 1.0;
        self.positions = position as f64 + 1.0;
        self.growth = if growth.is_finite() { growth.max(0.0) } else { 0.0 };
        self.mean_growth += (self.growth - self.mean_growth) / self.steps;
        let weight = WEIGHT.max(1.0 / self.steps);
        let change = step_secs / (1.0 + self.growth * self.positions) - self.mean_secs;
        self.mean_secs += weight * change;
        self.variance = (1.0 - weight) * (self.variance + weight * change * change);
    }

    /// Seconds that this many further tokens will take; `None` before the fourth step.
    pub fn secs(&self, tokens: f64) -> Option<f64> {
        (self.steps >= LEAST_STEPS).then(|| self.mean_secs * self.steps_over_nothing(tokens))
    }

    /// Seconds left, from tokens left. Both intervals count, so the result is wider than either. `None` before the fourth
    /// step.
    pub fn remaining_secs(&self, remaining_tokens: Estimate) -> Option<Estimate> {
        let value = self.secs(f64::from(remaining_tokens.value))? as f32;
        let error = NORMAL_90 * (self.variance / self.steps.min(1.0 / WEIGHT)).sqrt();
        let drift = 1.0 + DRIFT + DRIFT_STEPS / self.steps;
        let fastest = (self.mean_secs - error).max(0.1 * self.mean_secs) / drift;
        let slowest = (self.mean_secs + error) * drift;
        let low = fastest * self.steps_over_nothing(f64::from(remaining_tokens.low));
        let high = slowest * self.steps_over_nothing(f64::from(remaining_tokens.high));
        Some(Estimate { value, low: low as f32, high: high as f32 })
    }

    /// The mean over the steps of the share by which each position made them longer.
    pub fn mean_growth(&self) -> f64 {
        self.mean_growth
    }

    /// How many steps over no positions take as long as the next `tokens` steps.
    fn steps_over_nothing(&self, tokens: f64) -> f64 {
        tokens * (1.0 + self.growth * (self.positions + (tokens + 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Estimate = Estimate { value: 100.0, low: 66.0, high: 220.0 };

    fn pushed(secs: impl IntoIterator<Item = f64>) -> SpeedMeter {
        let mut meter = SpeedMeter::default();
        secs.into_iter().enumerate().for_each(|(position, secs)| meter.push(secs, position, 0.0));
        meter
    }

    #[test]
    fn a_steady_speed_has_no_spread_but_may_change_while_it_is_new() {
        assert_eq!(pushed([0.025; 3]).remaining_secs(LEFT), None);
        let left = pushed([0.025; 4]).remaining_secs(LEFT).expect("four steps");
        assert!((left.value - 2.5).abs() < 1e-4, "{left:?}");
        assert!((left.low - 1.65 / 2.3).abs() < 1e-4 && (left.high - 5.5 * 2.3).abs() < 1e-4, "{left:?}");
        let left = pushed([0.025; 100]).remaining_secs(LEFT).expect("a hundred steps");
        assert!((left.low - 1.5).abs() < 1e-4 && (left.high - 6.05).abs() < 1e-4, "{left:?}");
    }

    #[test]
    fn steps_that_grow_with_the_positions_are_foreseen() {
        let (growth, before) = (0.01, 40);
        let step = |position: usize| 0.02 * (1.0 + growth * (position as f64 + 1.0));
        let mut meter = SpeedMeter::default();
        (before..before + 60).for_each(|position| meter.push(step(position), position, growth));
        assert!((meter.mean_growth() - growth).abs() < 1e-12);
        let truth = |tokens: usize| (before + 60..before + 60 + tokens).map(step).sum::<f64>();
        let left = meter.remaining_secs(LEFT).expect("sixty steps");
        assert!((f64::from(left.value) / truth(100) - 1.0).abs() < 1e-6, "{left:?}");
        assert!((meter.secs(1.0).expect("sixty steps") / truth(1) - 1.0).abs() < 1e-9);
        let drift = 1.0 + DRIFT + DRIFT_STEPS / 60.0;
        assert!((f64::from(left.low) * drift / truth(66) - 1.0).abs() < 1e-6, "{left:?}");
        assert!((f64::from(left.high) / drift / truth(220) - 1.0).abs() < 1e-6, "{left:?}");
    }

    #[test]
    fn the_first_steps_give_the_plain_mean_and_variance() {
        let steps = [0.1, 0.3, 0.2, 0.6];
        let meter = pushed(steps);
        let mean = steps.iter().sum::<f64>() / 4.0;
        let variance = steps.iter().map(|secs| (secs - mean).powi(2)).sum::<f64>() / 4.0;
        assert!((meter.mean_secs - mean).abs() < 1e-12 && (meter.variance - variance).abs() < 1e-12);
    }

    #[test]
    fn a_change_of_speed_is_followed() {
        let meter = pushed([[0.01; 200].as_slice(), &[0.1; 300]].concat());
        let secs = meter.secs(10.0).expect("many steps");
        assert!((secs - 1.0).abs() < 0.01, "{secs}");
    }

    #[test]
    fn durations_and_growths_that_make_no_sense_are_ignored() {
        let meter = pushed([f64::NAN, -1.0, 0.0, f64::INFINITY]);
        assert_eq!(meter.secs(1.0), None);
        for growth in [f64::NAN, -1.0, f64::INFINITY] {
            let mut meter = SpeedMeter::default();
            (0..5).for_each(|position| meter.push(0.5, position, growth));
            assert_eq!(meter, pushed([0.5; 5]));
        }
    }
}
