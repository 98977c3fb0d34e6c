//! The vector: theta, the other heads fitted from the same sums, and where they come from.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the vector format.
pub const VECTOR_FORMAT: &str = "tpv-vector";
/// Version of the vector format.
pub const VECTOR_VERSION: u32 = 1;
/// Where the state is taken: the final hidden state after the last norm, HF's `hidden_states[-1]`.
pub const STATE_TAP: &str = "final_post_norm";

/// A linear function of the final hidden state, `weights . h + intercept`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LinearHead {
    /// `[d]`
    pub weights: Vec<f32>,
    /// 0 for a head without intercept.
    pub intercept: f32,
}

impl LinearHead {
    /// `weights . h + intercept` for a state `[d]`, accumulated in f32 over eight lanes; see [`dots`] for its panic.
    pub fn apply(&self, hidden: &[f32]) -> f32 {
        dot(&self.weights, hidden) + self.intercept
    }
}

/// Partial sums of a dot product.
const LANES: usize = 8;

/// The dot product of two slices of equal length, in eight partial sums so that it vectorises.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let [product] = dots([a], b);
    product
}

/// The dot products of several vectors with one state, all `[d]`, in one pass over the state. Each has eight partial sums,
/// so that it vectorises, and is bit for bit what [`dot`] gives for its vector alone.
///
/// # Panics
/// Where a vector is not as long as the state: it would be read as another one.
pub fn dots<const N: usize>(vectors: [&[f32]; N], state: &[f32]) -> [f32; N] {
    assert!(vectors.iter().all(|vector| vector.len() == state.len()), "dot product of slices of different length");
    let vectors = vectors.map(|vector| vector.as_chunks::<LANES>());
    let (blocks, rest) = state.as_chunks::<LANES>();
    let mut lanes = [[0f32; LANES]; N];
    for (k, block) in blocks.iter().enumerate() {
        for (sums, (weights, _)) in lanes.iter_mut().zip(&vectors) {
            for lane in 0..LANES {
                sums[lane] += weights[k][lane] * block[lane];
            }
        }
    }
    std::array::from_fn(|n| {
        let tail: f32 = vectors[n].1.iter().zip(rest).map(|(x, y)| x * y).sum();
        lanes[n].iter().sum::<f32>() + tail
    })
}

/// Which model a run, data set or vector belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The name as the user gave it: a hub id, a path, or `thinker`.
    pub name: String,
    /// The hub's commit, if known.
    pub revision: Option<String>,
    /// Width of the hidden state, d.
    pub hidden_size: usize,
    /// Length of the logits, V.
    pub vocab_size: usize,
    /// SHA-256 of `tokenizer.json`, hexadecimal.
    pub tokenizer_sha256: String,
    /// SHA-256 over what of the config changes the computation, all norms and biases, some rows of the embedding and the first
    /// and the last row of every other matrix, hexadecimal; names the model independently of the folder it lies in.
    pub fingerprint: String,
}

/// Everything that the vector file says about itself in words and figures.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct VectorInfo {
    /// The model whose states were read.
    pub model: ModelIdentity,
    /// Where the states were taken; see [`STATE_TAP`].
    pub state_tap: String,
    /// The data set's name.
    pub dataset: String,
    /// Traces that the final fit saw.
    pub traces: usize,
    /// Thinking tokens (rows) that the final fit saw.
    pub rows: usize,
    /// Ridge strength.
    pub epsilon: f64,
    /// The program version that wrote the file.
    pub tpv_version: String,
    /// The lengths of the thoughts in thinking tokens, where no calibration holds them: what baselines know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lengths: Vec<u32>,
    /// Figures on held-out problems, by name, as written to `metrics.json`.
    pub figures: BTreeMap<String, serde_json::Value>,
}

/// A thinking progress vector with the heads fitted beside it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProgressVector {
    /// The direction: ridge fit without intercept, `[d]` (the reference's `tpv_linear_weights.npy`).
    pub theta: Vec<f32>,
    /// The reading head: the fit with intercept; better at reading, useless as a direction.
    pub progress: LinearHead,
    /// Predicts `ln(1 + remaining thinking tokens)`.
    pub log_remaining: Option<LinearHead>,
    /// The pattern direction cov(h, y) (Haufe 2014), `[d]`.
    pub pattern: Option<Vec<f32>>,
    /// How raw readings become percent and time left, as JSON written by [`crate::reading`].
    pub calibration: Option<serde_json::Value>,
    /// Calibrated effort levels, name to alpha.
    pub efforts: BTreeMap<String, f32>,
    /// Where it comes from.
    pub info: VectorInfo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_the_sums_of_the_products() {
        // Small whole numbers, so that every order of addition gives the same sum.
        for width in [0, 1, 7, 8, 9, 192, 203] {
            let numbers = |step: usize| (0..width).map(|k| (k * step % 11) as f32 - 5.0).collect::<Vec<f32>>();
            let (vectors, state) = ([numbers(3), numbers(5), numbers(7)], numbers(2));
            let plain = |vector: &Vec<f32>| vector.iter().zip(&state).map(|(x, y)| x * y).sum::<f32>();
            assert_eq!(dots(vectors.each_ref().map(Vec::as_slice), &state), vectors.each_ref().map(plain), "{width}");
            assert_eq!(dot(&vectors[1], &state), plain(&vectors[1]));
        }
    }

    #[test]
    fn together_and_alone_are_the_same_bit_for_bit() {
        let numbers = |step: f32| (0..203).map(|k| (step * k as f32).sin()).collect::<Vec<f32>>();
        let (vectors, state) = ([numbers(0.3), numbers(0.7)], numbers(1.1));
        let together = dots(vectors.each_ref().map(Vec::as_slice), &state);
        assert_eq!(together.map(f32::to_bits), vectors.each_ref().map(|vector| dot(vector, &state).to_bits()));
    }
}
