//! An OpenAI-compatible server for one model, with progress and a throttle in its streams, and the page that shows them.
//!
//! The way of a request: `connection` holds the client to its times; `routes` and `guard` decide who may ask what;
//! `body` and `request` parse and name the field that is wrong; `admission` and `submission` make room and samples;
//! `worker`, the one thread that owns the decode loop, makes tokens; `thought` divides their text into reasoning and
//! content; `response` and `progress` write chunks, and `answer` sends them. Nothing else in the workspace names HTTP.
//!
//! Promises: a request's panic, bad input or slow reader never touches another's; a client that leaves frees its slot with
//! the next token; prompts and answers are not logged; an end marker of the thinking appears in neither text. An engine
//! that panics in the middle of a batch has no single culprit: everything under way is told so, and the server goes on.

mod admission;
mod answer;
mod app;
mod body;
pub mod config;
mod connection;
mod control;
mod error;
mod fields;
mod guard;
mod metrics;
mod models;
mod page;
mod policy;
mod progress;
mod request;
mod response;
mod routes;
mod server;
mod socket;
mod submission;
mod thought;
mod worker;

pub use config::ConfigError;
pub use server::{LoadedServer, Served, ServedVector, Server, ServerError};
