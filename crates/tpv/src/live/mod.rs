//! One prompt being answered, as it is seen: a live line under the streaming text, plain lines, or JSON lines.
//!
//! The model decodes on a thread of its own ([`session`]), so keys are heard and the line moves however slow a step is.
//! Every number shown is a field of a [`TokenEvent`](tpv_core::event::TokenEvent) or
//! [`FinishEvent`](tpv_core::event::FinishEvent).

pub mod exchange;
pub mod ink;
pub mod line;
pub mod screen;
pub mod session;
pub mod terminal;
pub mod text;
pub mod view;
