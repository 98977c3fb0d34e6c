//! Reports: plots as SVG, made by hand so that no font or drawing library is needed, and the page around them.

pub mod page;
pub mod plot;
pub mod readings;
pub mod sweep;
