//! The whole pipeline through the real program, offline, on the bundled thinker.

mod algebra;
mod bad_input;
mod data_sets;
mod demo;
mod json;
mod kill;
mod python;
mod reference;
mod rooms;
mod workplace;
