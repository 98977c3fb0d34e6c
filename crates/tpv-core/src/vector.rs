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
    /// `weights . h + intercept`, accumulated in f32 over eight lanes.
    pub fn apply(&self, hidden: &[f32]) -> f32 {
        dot(&self.weights, hidden) + self.intercept
    }
}

/// The dot product of two slices of equal length, in eight partial sums so that it vectorises.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len(), "dot product of slices of different length");
    let mut lanes = [0f32; 8];
    let (chunks_a, chunks_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = chunks_a.remainder().iter().zip(chunks_b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in chunks_a.zip(chunks_b) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Which model a run, data set or vector belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The name that the user gave: a hub id, a folder's base name, or `thinker`.
    pub name: String,
    /// The hub's commit, if known.
    pub revision: Option<String>,
    /// Width of the hidden state, d.
    pub hidden_size: usize,
    /// Length of the logits, V.
    pub vocab_size: usize,
    /// SHA-256 of `tokenizer.json`, hexadecimal.
    pub tokenizer_sha256: String,
    /// SHA-256 over `config.json`'s shape-giving keys and the `lm_head` weights' first bytes, hexadecimal; names the model
    /// independently of the folder it lies in.
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
