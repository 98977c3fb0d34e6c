//! Made-up thoughts for tests: the heads see the truth through noise that lasts, as real ones do.

use super::heads::{HeadTrace, HeadValues};
use super::speed::TokenTimes;
use crate::vector::{LinearHead, ProgressVector};

/// Pseudo-random numbers in [0, 1) (a linear congruential generator, upper bits).
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0, spread 1.
    pub(super) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// Two thoughts each of `problems` problems, 30 to 300 tokens long.
pub(super) fn traces(problems: usize, seed: u64) -> Vec<HeadTrace> {
    let mut noise = Noise::new(seed);
    (0..2 * problems).map(|k| trace(k / 2, &mut noise)).collect()
}

fn trace(problem: usize, noise: &mut Noise) -> HeadTrace {
    let thinking_tokens = 30 + (270.0 * noise.next() * noise.next()) as usize;
    let (mut slow, constant) = (0.0, 0.3 * noise.normal());
    let values = (1..=thinking_tokens).map(|j| {
        slow = 0.95 * slow + 0.3 * noise.normal();
        let remaining = ((thinking_tokens - j) as f64).ln_1p();
        let progress = j as f64 / thinking_tokens as f64 + 0.08 * noise.normal() - 0.04 * slow;
        let log_remaining = remaining + constant + 0.2 * slow + 0.3 * noise.normal();
        HeadValues { theta: progress as f32, progress: progress as f32, log_remaining: log_remaining as f32 }
    });
    HeadTrace { problem, values: values.collect(), thinking_tokens, times: TokenTimes::default() }
}

/// A vector of width 3 whose heads read the first two components.
pub(super) fn vector() -> ProgressVector {
    let unit = |k: usize| (0..3).map(|i| if i == k { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    ProgressVector {
        theta: unit(0),
        progress: LinearHead { weights: unit(0), intercept: 0.0 },
        log_remaining: Some(LinearHead { weights: unit(1), intercept: 3.0 }),
        ..ProgressVector::default()
    }
}
