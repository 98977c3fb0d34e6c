//! Prompts that wait or are being read, with the samples to be drawn for them.

use std::time::Instant;

use tpv_core::event::{FinishEvent, FinishReason};
use tpv_core::phase::PhaseTracker;

use super::request::{DecodeSink, SampleId, SampleRequest};
use crate::engine::SequenceId;

/// The samples of one prompt before its prefill is complete.
pub(super) struct Group {
    pub tokens: Vec<u32>,
    pub phase: PhaseTracker,
    pub samples: Vec<Queued>,
    pub submitted: Instant,
}

/// A sample whose prompt is not read yet.
pub(super) struct Queued {
    pub id: SampleId,
    pub request: SampleRequest,
    pub cancelled: bool,
}

/// A prompt that is being read.
pub(super) struct PrefillGroup {
    pub group: Group,
    pub sequence: SequenceId,
    pub tokens_read: usize,
    /// Tokens read in the step under way.
    pub chunk: usize,
}

/// Ends the samples of a group that were cancelled before they began.
pub(super) fn drop_cancelled(group: &mut Group, sink: &mut dyn DecodeSink) {
    let (prompt_tokens, submitted) = (group.tokens.len() as u32, group.submitted);
    group.samples.retain(|queued| {
        if queued.cancelled {
            let elapsed_secs = submitted.elapsed().as_secs_f64();
            let event = FinishEvent { prompt_tokens, elapsed_secs, ..FinishEvent::empty(FinishReason::Cancelled) };
            sink.finish(queued.id, event);
        }
        !queued.cancelled
    });
}
