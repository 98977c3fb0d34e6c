//! Llama, Qwen2 and Qwen3 as one decoder with switches.
//!
//! A layer is `x += O attend(rope(norm(Q n)), rope(norm(K n)), V n)` with `n = norm(x)`, then
//! `x += D (silu(G m) * U m)` with `m = norm(x)`. All tokens of all sequences of a step are one matrix `[T, d]` for the
//! linear layers; attention goes row by row over the pages of the row's own sequence.

mod attention;
mod cpu;
mod kernels;
mod linear;
mod packed;
mod rope;
mod source;
mod tensor;

pub(crate) use cpu::{CpuDecoder, CpuOptions};
pub(crate) use linear::{Linear, quantise};
pub(crate) use source::{EmbeddingTable, LinearShape, WeightSource};
pub(crate) use tensor::TensorDecoder;

use crate::engine::ModelSpec;
use crate::error::{EngineError, Result};

/// Refuses a vector that is not as wide as the model's states.
fn check_width(spec: &ModelSpec, v: &[f32]) -> Result<()> {
    if v.len() == spec.hidden_size {
        return Ok(());
    }
    Err(EngineError::Request(format!("a vector of width {} for a model of width {}", v.len(), spec.hidden_size)))
}
