//! Which way alpha pushes: theta, or one of the controls that it must be compared with.

use crate::seed::generator;
use crate::vector::ProgressVector;
use rand_pcg::rand_core::Rng;
use std::fmt;
use std::str::FromStr;

/// What alpha multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// The vector itself.
    #[default]
    Theta,
    /// The pattern cov(h, y), scaled to theta's norm.
    Pattern,
    /// A random direction of theta's norm, by its seed.
    Random(u64),
    /// Only what theta does to the logit of `</think>`.
    EndOnly,
    /// What theta does to all logits but that of `</think>`.
    WithoutEnd,
}

/// Why a direction cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectionError {
    /// Not a direction.
    #[error("unknown direction \"{0}\"; use theta, pattern, random:SEED, end-only or without-end")]
    Unknown(String),
    /// The vector has no pattern.
    #[error("the vector holds no pattern direction; train it again with `tpv train`")]
    NoPattern,
}

impl Direction {
    /// The direction in the space of hidden states, `[d]`; of theta's norm.
    pub fn in_hidden_space(&self, vector: &ProgressVector) -> Result<Vec<f32>, DirectionError> {
        let norm = norm(&vector.theta);
        Ok(match self {
            Self::Theta | Self::EndOnly | Self::WithoutEnd => vector.theta.clone(),
            Self::Pattern => scaled(vector.pattern.clone().ok_or(DirectionError::NoPattern)?, norm),
            Self::Random(seed) => scaled(random(*seed, vector.theta.len()), norm),
        })
    }

    /// Applies what the direction leaves out to its logit shift, `[V]`; `think_end` is the first token of `</think>`.
    pub fn mask(&self, shift: &mut [f32], think_end: u32) {
        let end = think_end as usize;
        match self {
            Self::EndOnly => {
                shift.iter_mut().enumerate().filter(|(i, _)| *i != end).for_each(|(_, value)| *value = 0.0)
            }
            Self::WithoutEnd => shift[end] = 0.0,
            _ => {}
        }
    }
}

fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32
}

fn scaled(mut vector: Vec<f32>, to: f32) -> Vec<f32> {
    let factor = to / norm(&vector).max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|value| *value *= factor);
    vector
}

/// Independent, nearly normal values (sums of twelve uniform ones), so that no axis is preferred.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut generator = generator(seed);
    let mut uniform = || (generator.next_u64() >> 40) as f32 / (1u64 << 24) as f32;
    (0..len).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

impl FromStr for Direction {
    type Err = DirectionError;

    fn from_str(text: &str) -> Result<Self, DirectionError> {
        let unknown = || DirectionError::Unknown(text.to_owned());
        Ok(match text {
            "theta" => Self::Theta,
            "pattern" => Self::Pattern,
            "end-only" => Self::EndOnly,
            "without-end" => Self::WithoutEnd,
            other => {
                Self::Random(other.strip_prefix("random:").and_then(|seed| seed.parse().ok()).ok_or_else(unknown)?)
            }
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Theta => f.write_str("theta"),
            Self::Pattern => f.write_str("pattern"),
            Self::EndOnly => f.write_str("end-only"),
            Self::WithoutEnd => f.write_str("without-end"),
            Self::Random(seed) => write!(f, "random:{seed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector() -> ProgressVector {
        ProgressVector { theta: vec![3.0, 4.0, 0.0], pattern: Some(vec![0.0, 0.0, 2.0]), ..ProgressVector::default() }
    }

    #[test]
    fn all_directions_have_the_norm_of_theta() {
        for text in ["theta", "pattern", "random:7", "end-only", "without-end"] {
            let direction: Direction = text.parse().unwrap();
            assert_eq!(direction.to_string(), text);
            assert!((norm(&direction.in_hidden_space(&vector()).unwrap()) - 5.0).abs() < 1e-5, "{text}");
        }
        let random = |seed| Direction::Random(seed).in_hidden_space(&vector()).unwrap();
        assert_eq!(random(1), random(1));
        assert_ne!(random(1), random(2));
    }

    #[test]
    fn the_two_masks_add_up_to_theta() {
        let shift = [1.0, -2.0, 3.0];
        let masked = |direction: Direction| {
            let mut shift = shift;
            direction.mask(&mut shift, 2);
            shift
        };
        assert_eq!(masked(Direction::EndOnly), [0.0, 0.0, 3.0]);
        assert_eq!(masked(Direction::WithoutEnd), [1.0, -2.0, 0.0]);
        assert_eq!(masked(Direction::Theta), shift);
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let without = ProgressVector { pattern: None, ..vector() };
        assert_eq!(Direction::Pattern.in_hidden_space(&without), Err(DirectionError::NoPattern));
        assert!("random:x".parse::<Direction>().unwrap_err().to_string().contains("random:SEED"));
    }
}
