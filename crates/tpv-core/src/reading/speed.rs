//! From tokens left to seconds left.
//!
//! Each step's duration feeds a mean and a spread that forget slowly (about the last 50 steps). Seconds left are tokens
//! left divided by the speed; the interval is widened at both ends by the speed's own 90 % interval, and by a share that
//! shrinks with the steps seen: a few steps say little of the rest (prompts are read between them, batches fill), and even
//! many are not the rest (the context grows).

use super::Estimate;

const WEIGHT: f64 = 0.02;
/// Half-width of a normal 90 % interval in standard errors.
const NORMAL_90: f64 = 1.645;
/// The speed of the rest may differ from that of n steps by the share `DRIFT + DRIFT_STEPS / n`; chosen on validation problems.
const DRIFT: f64 = 0.05;
const DRIFT_STEPS: f64 = 5.0;
/// Steps before a speed is claimed.
const LEAST_STEPS: f64 = 4.0;

/// Measures how fast tokens come; the caller brings the clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpeedMeter {
    steps: f64,
    mean_secs: f64,
    variance: f64,
}

impl SpeedMeter {
    /// Takes the duration of one step in seconds; durations that are not positive and finite are ignored.
    pub fn push(&mut self, step_secs: f64) {
        if !(step_secs.is_finite() && step_secs > 0.0) {
            return;
        }
        self.steps += 1.0;
        let weight = WEIGHT.max(1.0 / self.steps);
        let change = step_secs - self.mean_secs;
        self.mean_secs += weight * change;
        self.variance = (1.0 - weight) * (self.variance + weight * change * change);
    }

    /// Tokens per second with a 90 % interval for the rest of the thought; `None` before the fourth step.
    pub fn tokens_per_sec(&self) -> Option<Estimate> {
        if self.steps < LEAST_STEPS {
            return None;
        }
        let error = NORMAL_90 * (self.variance / self.steps.min(1.0 / WEIGHT)).sqrt();
        let drift = 1.0 + DRIFT + DRIFT_STEPS / self.steps;
        let slowest = (drift * (self.mean_secs + error)).recip();
        let fastest = drift / (self.mean_secs - error).max(0.1 * self.mean_secs);
        Some(Estimate { value: self.mean_secs.recip() as f32, low: slowest as f32, high: fastest as f32 })
    }
}

/// Seconds left, from tokens left and tokens per second. Both intervals count, so the result is wider than either.
pub fn remaining_secs(remaining_tokens: Estimate, tokens_per_sec: Estimate) -> Estimate {
    Estimate {
        value: remaining_tokens.value / tokens_per_sec.value,
        low: remaining_tokens.low / tokens_per_sec.high,
        high: remaining_tokens.high / tokens_per_sec.low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_speed_has_no_spread_but_may_change_while_it_is_new() {
        let mut meter = SpeedMeter::default();
        for _ in 0..3 {
            meter.push(0.025);
            assert_eq!(meter.tokens_per_sec(), None);
        }
        meter.push(0.025);
        let speed = meter.tokens_per_sec().expect("four steps");
        assert!((speed.value - 40.0).abs() < 1e-4, "{speed:?}");
        assert!((speed.low - 40.0 / 2.3).abs() < 1e-4 && (speed.high - 40.0 * 2.3).abs() < 1e-4, "{speed:?}");
        (0..96).for_each(|_| meter.push(0.025));
        let speed = meter.tokens_per_sec().expect("a hundred steps");
        assert!((speed.low - 40.0 / 1.1).abs() < 1e-4 && (speed.high - 44.0).abs() < 1e-4, "{speed:?}");
        let left = remaining_secs(Estimate { value: 100.0, low: 66.0, high: 200.0 }, speed);
        assert!((left.value - 2.5).abs() < 1e-5 && (left.low - 1.5).abs() < 1e-5 && (left.high - 5.5).abs() < 1e-4);
    }

    #[test]
    fn the_first_steps_give_the_plain_mean_and_variance() {
        let mut meter = SpeedMeter::default();
        let steps = [0.1, 0.3, 0.2, 0.6];
        steps.iter().for_each(|&secs| meter.push(secs));
        let mean = steps.iter().sum::<f64>() / 4.0;
        let variance = steps.iter().map(|secs| (secs - mean).powi(2)).sum::<f64>() / 4.0;
        assert!((meter.mean_secs - mean).abs() < 1e-12 && (meter.variance - variance).abs() < 1e-12);
    }

    #[test]
    fn a_change_of_speed_is_followed() {
        let mut meter = SpeedMeter::default();
        (0..200).for_each(|_| meter.push(0.01));
        (0..300).for_each(|_| meter.push(0.1));
        let speed = meter.tokens_per_sec().expect("many steps");
        assert!((speed.value - 10.0).abs() < 0.1, "{speed:?}");
    }

    #[test]
    fn durations_that_make_no_sense_are_ignored() {
        let mut meter = SpeedMeter::default();
        [f64::NAN, -1.0, 0.0, f64::INFINITY].into_iter().for_each(|secs| meter.push(secs));
        assert_eq!(meter.tokens_per_sec(), None);
    }
}
