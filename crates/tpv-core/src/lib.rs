//! The words and the mathematics of Thinking Progress Vectors (TPV).
//!
//! A reasoning model's final hidden state `h_j` in R^d (after the last RMSNorm, exactly what the `lm_head` reads)
//! predicts the j-th thinking token. One linear vector `theta` reads from it how far the thinking is,
//! `theta . h_j ~ j / N`, and adding `alpha * theta` to it makes the thinking shorter or longer
//! ("Overclocking LLM Reasoning", arXiv 2506.07240).
//!
//! This crate promises pure functions and plain data: no files, no network, no clock, no threads of its own and no
//! source of randomness but the seeds it is given. Everything else is left to the crates above it.

pub mod baseline;
pub mod bootstrap;
pub mod event;
pub mod fit;
pub mod grade;
pub mod gram;
pub mod metrics;
pub mod phase;
pub mod policy;
pub mod quiet;
pub mod reading;
pub mod sampling;
pub mod split;
pub mod text;
pub mod vector;

mod registers;
mod seed;
