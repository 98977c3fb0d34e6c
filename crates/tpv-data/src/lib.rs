//! Files and the hub: everything that is read or written, and nothing about models.
//!
//! Files are written all or nothing ([`atomic`]); every format states its name and version; what is read is checked,
//! and an error names the path, what is wrong and the next step ([`error`]).

pub mod atomic;
pub mod dataset;
pub mod error;
pub mod files;
pub mod floats;
pub mod hub;
pub mod identity;
pub mod joined;
pub mod library;
pub mod model_files;
pub mod npy;
pub mod problems;
pub mod reference;
pub mod run;
pub mod source;
pub mod states;
pub mod sums;
pub mod tensors;
pub mod timings;
pub mod trace;
pub mod traces;
pub mod vector;
