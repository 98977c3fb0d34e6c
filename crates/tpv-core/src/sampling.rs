//! Choosing the next token from logits: greedy, temperature, top-k, top-p; one seed per (run, problem, generation).

use serde::{Deserialize, Serialize};

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// Divides the logits; 0 means greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens with at least this probability, the token that crosses the bound included; 1 keeps all.
    pub top_p: f32,
    /// Only the k most probable tokens; 0 keeps all.
    pub top_k: usize,
}

impl SamplingParams {
    /// Always the most probable token; the lowest id among equals.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0 };
}
