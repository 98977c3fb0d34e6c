//! The whole pipeline through the real program, offline, on the bundled thinker.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

mod algebra;
mod bad_input;
mod data_sets;
mod demo;
mod fit;
mod hub;
mod json;
mod kill;
mod python;
mod reference;
mod rooms;
mod sweep;
mod vectors;
mod workplace;
