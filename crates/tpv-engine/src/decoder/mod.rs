//! Llama, Qwen2 and Qwen3 as one decoder with switches.
//!
//! A layer is `x += O attend(rope(norm(Q n)), rope(norm(K n)), V n)` with `n = norm(x)`, then
//! `x += D (silu(G m) * U m)` with `m = norm(x)`. All tokens of all sequences of a step are one matrix `[T, d]` for the
//! linear layers; attention goes row by row over the pages of the row's own sequence.

mod attention;
mod cpu;
mod crew;
mod division;
mod kernels;
mod linear;
mod packed;
mod paged;
mod pages;
mod quantised;
mod rope;
mod source;
mod tensor;

pub(crate) use cpu::{CpuDecoder, CpuOptions};
pub(crate) use linear::Linear;
pub(crate) use source::{EmbeddingTable, LinearShape, WeightSource};
pub(crate) use tensor::TensorDecoder;
