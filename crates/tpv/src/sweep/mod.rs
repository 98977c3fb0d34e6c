//! The parts of `tpv sweep`: what is compared, how it is run, and what comes out.

pub mod arm;
pub mod effort;
pub mod figures;
pub mod landing;
pub mod result;
pub mod runner;
pub mod tables;
