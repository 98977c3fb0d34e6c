//! Rotary position embedding: `(a, b) -> (a cos t - b sin t, b cos t + a sin t)` with `t = position * frequency`.
//!
//! Frequencies are computed once per model; cos and sin of a position are computed in f32 from an f32 angle, as
//! transformers does, so that long positions agree with it.

use std::f64::consts::PI;

use crate::config::{DecoderConfig, RopePairing, RopeScaling};

/// The frequencies of a model's rotary embedding.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// Angle per position of each pair, [head_dim / 2].
    frequencies: Vec<f32>,
    /// Factor on cos and sin.
    amplitude: f32,
    pairing: RopePairing,
}

impl Rotary {
    /// The rotary embedding that the configuration asks for.
    pub fn new(config: &DecoderConfig) -> Self {
        let plain = plain_frequencies(config);
        let (frequencies, amplitude) = match &config.rope.scaling {
            RopeScaling::None => (plain, 1.0),
            RopeScaling::Linear { factor } => (plain.iter().map(|f| f / *factor as f32).collect(), 1.0),
            RopeScaling::Factors(factors) => (plain.iter().zip(factors).map(|(f, by)| f / by).collect(), 1.0),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let bounds = (*low_freq_factor, *high_freq_factor);
                let stretched =
                    plain.iter().map(|&f| llama3_frequency(f.into(), *factor, bounds, *original_max_positions));
                (stretched.collect(), 1.0)
            }
            RopeScaling::Yarn { attention_factor, .. } => (yarn_frequencies(config, &plain), *attention_factor as f32),
        };
        Self { frequencies, amplitude, pairing: config.rope.pairing }
    }

    /// Writes cos and sin of one position, [head_dim / 2] each.
    pub fn angles(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        for ((frequency, cos), sin) in self.frequencies.iter().zip(cos).zip(sin) {
            let angle = position as f32 * frequency;
            *cos = angle.cos() * self.amplitude;
            *sin = angle.sin() * self.amplitude;
        }
    }

    /// Turns one head, [head_dim], in place.
    pub fn turn(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        match self.pairing {
            RopePairing::Halves => {
                let (left, right) = head.split_at_mut(cos.len());
                for (((a, b), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
            RopePairing::Neighbours => {
                for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                    (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
                }
            }
        }
    }
}

/// `theta ^ (-2 i / head_dim)`.
fn plain_frequencies(config: &DecoderConfig) -> Vec<f32> {
    let width = config.head_dim as f32;
    (0..config.head_dim).step_by(2).map(|i| 1.0 / (config.rope.theta as f32).powf(i as f32 / width)).collect()
}

fn llama3_frequency(frequency: f64, factor: f64, (low, high): (f64, f64), original: f64) -> f32 {
    let wavelength = 2.0 * PI / frequency;
    let stretched = if wavelength > original / low {
        frequency / factor
    } else if wavelength < original / high {
        frequency
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    };
    stretched as f32
}

fn yarn_frequencies(config: &DecoderConfig, plain: &[f32]) -> Vec<f32> {
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_positions, truncate, .. } = config.rope.scaling
    else {
        return plain.to_vec();
    };
    let width = config.head_dim as f64;
    let dimension_of = |rotations: f64| {
        width * (original_max_positions / (rotations * 2.0 * PI)).ln() / (2.0 * config.rope.theta.ln())
    };
    let (mut low, mut high) = (dimension_of(beta_fast), dimension_of(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(width - 1.0));
    if low == high {
        high += 0.001;
    }
    let kept = |i: usize| 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
    let stretched = plain.iter().enumerate().map(|(i, &frequency)| {
        let frequency = f64::from(frequency);
        (frequency / factor * (1.0 - kept(i)) + frequency * kept(i)) as f32
    });
    stretched.collect()
}
