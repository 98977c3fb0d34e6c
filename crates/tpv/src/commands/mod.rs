//! One file for each command.

pub mod demo;
pub mod generate;
pub mod intervene;
pub mod prepare;
pub mod run;
pub mod sweep;
pub mod train;
