//! An OpenAI-compatible server for one model, with progress and a throttle in its streams, and the page that shows them.
//!
//! The way of a request: [`config`] and `guard` decide who may ask; `request` parses and names the field that is wrong;
//! `worker`, the one thread that owns the decode loop, makes tokens; `thought` divides their text into reasoning and
//! content; `response` and `progress` write chunks. Nothing else in the workspace names HTTP.
//!
//! Promises: a request's panic, bad input or slow reader never touches another's; a client that leaves frees its slot with
//! the next token; prompts and answers are not logged; an end marker of the thinking appears in neither text.

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
mod submission;
mod thought;
mod worker;

pub use server::{Served, ServedVector, Server, ServerError};
