//! Thinking Progress Vectors: how far a reasoning model's thinking is, and a throttle for it.
//!
//! This crate is the command line, and a facade over the libraries: [`core`] holds the words and the mathematics,
//! [`engine`] runs models, [`data`] reads and writes files.

pub use tpv_core as core;
pub use tpv_data as data;
pub use tpv_engine as engine;
