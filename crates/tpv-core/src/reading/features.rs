//! The causal summary of a thought: what the two heads have said so far, at three time scales, and where it stands.
//!
//! With p the progress head, r the head for `ln(1 + remaining)` and j the position, the series
//!
//! ```text
//! p,  r,  n = ln(j + e^r)  (the whole length that r implies),  q = ln(j / p)  (the one that p implies)
//! ```
//!
//! are averaged exponentially (weight 0.1), over a window that grows with the thought (about its last quarter), and over
//! all of it. The averages, with `ln j` and a few products, are the [`FEATURES`] columns that
//! [`Calibration`](super::calibration::Calibration) weighs. Every column depends on the past alone.

/// How many columns [`FeatureFilter::push`] gives.
pub const FEATURES: usize = 23;

/// Weight of the newest value in the exponential average.
const FAST_WEIGHT: f64 = 0.1;
/// The growing window gives the newest of k values the weight `WINDOW / (k + WINDOW - 1)`.
const WINDOW: f64 = 4.0;
/// The range that a progress head's value is clamped to before it is used.
const PROGRESS_RANGE: (f64, f64) = (-1.0, 2.0);
/// The lowest value of the second head that is told apart; the true ones start at 0.
const LEAST_LOG_REMAINING: f64 = -1.0;
/// The lowest progress from which a whole length is inferred.
const LEAST_PROGRESS: f64 = 0.02;

/// One series averaged at three time scales.
#[derive(Debug, Clone, Copy, Default)]
struct Averages {
    fast: f64,
    window: f64,
    all: f64,
}

impl Averages {
    /// Takes the value number `count`, 1-based.
    fn push(&mut self, value: f64, count: f64) {
        self.fast += FAST_WEIGHT.max(1.0 / count) * (value - self.fast);
        self.window += (WINDOW / (count + WINDOW - 1.0)) * (value - self.window);
        self.all += (value - self.all) / count;
    }
}

/// Follows the heads' values of one thought and keeps the averages; constant memory and time per token.
#[derive(Debug, Clone)]
pub struct FeatureFilter {
    /// Bound of the second head's values, ln(1 + tokens).
    pub(super) log_remaining_max: f64,
    count: f64,
    progress: Averages,
    remaining: Averages,
    length: Averages,
    length_by_progress: Averages,
}

impl FeatureFilter {
    /// A filter at the start of a thought; `log_remaining_max` bounds the second head's values, ln(1 + tokens).
    pub fn new(log_remaining_max: f64) -> Self {
        Self {
            log_remaining_max,
            count: 0.0,
            progress: Averages::default(),
            remaining: Averages::default(),
            length: Averages::default(),
            length_by_progress: Averages::default(),
        }
    }

    /// Takes the heads' values at `position` (1-based) and returns the columns. `None` where a value is not finite; such
    /// a token leaves no trace in the averages.
    pub fn push(&mut self, position: u32, progress_head: f32, log_remaining_head: f32) -> Option<[f64; FEATURES]> {
        if !(progress_head.is_finite() && log_remaining_head.is_finite()) {
            return None;
        }
        let j = f64::from(position.max(1));
        let p = f64::from(progress_head).clamp(PROGRESS_RANGE.0, PROGRESS_RANGE.1);
        let r = f64::from(log_remaining_head).clamp(LEAST_LOG_REMAINING, self.log_remaining_max);
        let length = (j + r.max(0.0).exp()).ln();
        self.count += 1.0;
        self.progress.push(p, self.count);
        self.remaining.push(r, self.count);
        self.length.push(length, self.count);
        let length_by_progress = (j / self.progress.fast.clamp(LEAST_PROGRESS, 1.0)).ln();
        self.length_by_progress.push(length_by_progress, self.count);
        Some(self.columns(j.ln(), [p, r, length, length_by_progress]))
    }

    fn columns(&self, log_position: f64, newest: [f64; 4]) -> [f64; FEATURES] {
        let [p, r, length, length_by_progress] = newest;
        let (progress, remaining) = (self.progress.fast, self.remaining.fast);
        [
            1.0,
            log_position,
            log_position * log_position,
            p,
            r,
            progress,
            remaining,
            self.progress.window,
            self.remaining.window,
            self.progress.all,
            self.remaining.all,
            length,
            self.length.fast,
            self.length.window,
            self.length.all,
            length_by_progress,
            self.length_by_progress.window,
            self.length_by_progress.all,
            progress * progress,
            progress * remaining,
            remaining * remaining,
            progress * log_position,
            remaining * log_position,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_of_a_constant_are_the_constant() {
        let mut averages = Averages::default();
        for count in 1..=50 {
            averages.push(0.375, f64::from(count));
        }
        assert_eq!((averages.fast, averages.window, averages.all), (0.375, 0.375, 0.375));
    }

    #[test]
    fn averages_agree_with_their_definitions() {
        let values: Vec<f64> = (0..40).map(|k| f64::from(k * k % 17)).collect();
        let mut averages = Averages::default();
        let mut count = 0.0;
        for &value in &values {
            count += 1.0;
            averages.push(value, count);
        }
        let mean = values.iter().sum::<f64>() / count;
        assert!((averages.all - mean).abs() < 1e-12);
        // A weight of 4 / (k + 3) gives the value number i the weight (i)(i+1)(i+2) up to a factor.
        let weight = |i: f64| i * (i + 1.0) * (i + 2.0);
        let (mut sum, mut weights) = (0.0, 0.0);
        for (k, &value) in values.iter().enumerate() {
            sum += weight(k as f64 + 1.0) * value;
            weights += weight(k as f64 + 1.0);
        }
        assert!((averages.window - sum / weights).abs() < 1e-9);
    }

    #[test]
    fn a_value_that_is_not_finite_leaves_no_trace() {
        let (mut one, mut other) = (FeatureFilter::new(8.0), FeatureFilter::new(8.0));
        one.push(1, 0.1, 5.0);
        other.push(1, 0.1, 5.0);
        assert_eq!(other.push(2, f32::NAN, 5.0), None);
        assert_eq!(other.push(2, 0.2, f32::INFINITY), None);
        assert_eq!(one.push(3, 0.2, 4.5), other.push(3, 0.2, 4.5));
    }

    #[test]
    fn huge_values_give_finite_columns() {
        let mut filter = FeatureFilter::new(9.0);
        for (position, value) in [(1, f32::MAX), (2, f32::MIN), (u32::MAX, 1e30), (0, -1e30)] {
            let columns = filter.push(position, value, value).expect("finite values");
            assert!(columns.iter().all(|x| x.is_finite()), "{columns:?}");
        }
    }
}
