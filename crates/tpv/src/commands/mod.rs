//! One file for each command.

pub mod bench;
pub mod demo;
pub mod evaluate;
pub mod explain;
pub mod generate;
pub mod intervene;
pub mod learn;
pub mod prepare;
pub mod race;
pub mod report;
pub mod run;
pub mod serve;
pub mod sweep;
pub mod train;
pub mod train_sums;
pub mod vectors;
