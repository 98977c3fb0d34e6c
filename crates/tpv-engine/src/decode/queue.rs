//! Prompts that wait, are being read, or were read and still have samples to start.

use std::time::Instant;

use tpv_core::event::{FinishEvent, FinishReason};
use tpv_core::phase::PhaseTracker;

use super::request::{DecodeSink, SampleId, SampleRequest};
use crate::engine::SequenceId;

/// The samples of one prompt that do not generate yet.
pub(super) struct Group {
    pub tokens: Vec<u32>,
    pub phase: PhaseTracker,
    pub samples: Vec<Queued>,
    pub submitted: Instant,
    /// The reading of the prompt, once a sample has been given a slot.
    pub prefill: Option<Prefill>,
}

/// A sample that does not generate yet.
pub(super) struct Queued {
    pub id: SampleId,
    pub request: SampleRequest,
    /// Whether a slot and KV memory are set aside for it.
    pub admitted: bool,
    pub cancelled: bool,
    /// Whether its thinking is to be closed with its first token.
    pub end_asked: bool,
}

/// A prompt that is being read or was read: its samples are forks of its sequence.
pub(super) struct Prefill {
    pub sequence: SequenceId,
    pub tokens_read: usize,
    /// Tokens read in the step under way.
    pub chunk: usize,
    /// The final state after the prompt, `[d]`, once all of it is read.
    pub hidden_post_norm: Vec<f32>,
    /// The logits of the first token, `[V]`, once all of the prompt is read.
    pub logits: Vec<f32>,
}

impl Prefill {
    /// Nothing read yet.
    pub fn new(sequence: SequenceId) -> Self {
        Self { sequence, tokens_read: 0, chunk: 0, hidden_post_norm: Vec::new(), logits: Vec::new() }
    }
}

impl Group {
    /// The samples that have a slot.
    pub fn admitted(&self) -> impl Iterator<Item = &Queued> {
        self.samples.iter().filter(|queued| queued.admitted)
    }

    /// Samples that have no slot yet.
    pub fn waiting(&self) -> usize {
        self.samples.len() - self.admitted().count()
    }

    /// Tokens of the prompt that are not read, and its reading, once that has begun.
    pub fn left_to_read(&mut self) -> Option<(usize, &mut Prefill)> {
        let prefill = self.prefill.as_mut()?;
        Some((self.tokens.len() - prefill.tokens_read, prefill))
    }

    /// Whether all of the prompt is read.
    pub fn is_read(&self) -> bool {
        self.prefill.as_ref().is_some_and(|prefill| prefill.tokens_read == self.tokens.len())
    }

    /// Ends the samples that were cancelled before they began.
    pub fn drop_cancelled(&mut self, sink: &mut dyn DecodeSink) {
        let (prompt_tokens, submitted) = (self.tokens.len() as u32, self.submitted);
        self.samples.retain(|queued| {
            if queued.cancelled {
                let elapsed_secs = submitted.elapsed().as_secs_f64();
                let event = FinishEvent { prompt_tokens, elapsed_secs, ..FinishEvent::empty(FinishReason::Cancelled) };
                sink.finish(queued.id, event);
            }
            !queued.cancelled
        });
    }
}
