//! What the decode loop tells a view, and what a view asks of the decode loop.

use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::policy::Policy;

/// News from the decode loop. Samples are numbered as in the request.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// Part of a sample's prompt was read; samples of one prompt share the reading.
    Prompt {
        /// The sample.
        sample: usize,
        /// Tokens read.
        read: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token came.
    Token(usize, TokenEvent),
    /// A sample ended.
    Finish(usize, FinishEvent),
}

/// What is asked of the decode loop.
pub enum Wish {
    /// Another policy for every sample.
    Policy(Box<dyn Fn() -> Box<dyn Policy> + Send>),
    /// Close the thinking of every sample.
    EndThinking,
    /// Stop every sample.
    Cancel,
}
