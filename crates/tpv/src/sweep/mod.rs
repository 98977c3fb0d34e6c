//! The parts of `tpv sweep`: what is compared, and what comes out.

pub mod arm;
pub mod effort;
pub mod figures;
pub mod result;
