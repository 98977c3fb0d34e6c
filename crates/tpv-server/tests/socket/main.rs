//! The server over real sockets: answers, refusals, faults and the end.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

mod answers;
mod faults;
mod models;
mod refusals;
mod server;
mod splits;
