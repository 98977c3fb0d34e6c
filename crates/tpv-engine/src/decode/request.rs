//! What is asked of the decode loop, and what takes its output.

use std::sync::Arc;

use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::phase::PhaseTracker;
use tpv_core::policy::{Constant, Policy};
use tpv_core::reading::{BlindReader, Reader};
use tpv_core::sampling::SamplingParams;

use super::draft::DraftLimits;
use super::stop_texts::StopText;

/// When the control acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IntervenePhase {
    /// Only on thinking tokens.
    #[default]
    Thinking,
    /// On every generated token, as the paper's scripts do.
    All,
}

/// One sample to draw for a prompt.
pub struct SampleRequest {
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Determines the draws; see [`tpv_core::sampling::sample_seed`].
    pub seed: u64,
    /// Most tokens to generate, thinking and answer together.
    pub max_new_tokens: usize,
    /// `W theta`, `[V]`; without it alpha has no effect.
    pub shift: Option<Arc<[f32]>>,
    /// When the control acts.
    pub intervene: IntervenePhase,
    /// Reads the states of the thinking.
    pub reader: Box<dyn Reader>,
    /// Chooses alpha.
    pub policy: Box<dyn Policy>,
    /// Keeps the states, where they are kept.
    pub states: Option<Arc<dyn StateSink>>,
    /// Added to the logits of these tokens at every step.
    pub logit_bias: Vec<(u32, f32)>,
    /// Generation stops when one of these texts appears in the answer; the text itself is not part of it.
    pub stop_texts: Arc<[StopText]>,
    /// Whether it stops as well when they appear in the thinking.
    pub stop_in_thinking: bool,
}

impl SampleRequest {
    /// A sample of the model as it is: nothing is read, pushed or kept.
    pub fn new(sampling: SamplingParams, seed: u64, max_new_tokens: usize) -> Self {
        Self {
            sampling,
            seed,
            max_new_tokens,
            shift: None,
            intervene: IntervenePhase::Thinking,
            reader: Box::new(BlindReader),
            policy: Box::new(Constant::default()),
            states: None,
            logit_bias: Vec::new(),
            stop_texts: Arc::new([]),
            stop_in_thinking: false,
        }
    }
}

/// A prompt and the samples that are to be drawn for it.
pub struct PromptRequest {
    /// The prompt's tokens.
    pub tokens: Vec<u32>,
    /// The phase that the prompt leaves behind.
    pub phase: PhaseTracker,
    /// One entry for each sample.
    pub samples: Vec<SampleRequest>,
}

/// Names a sample of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleId(pub u64);

/// Takes the states of one sample, on the thread that has just read them: what it does is done for several samples at once.
pub trait StateSink: Send + Sync {
    /// The state that predicted the token of this event, `[d]`, as the model made it. An error ends the sample as failed.
    fn keep(&self, event: &TokenEvent, hidden_post_norm: &[f32]) -> std::result::Result<(), String>;
}

/// Takes what the loop makes.
pub trait DecodeSink {
    /// Part of a sample's prompt was read.
    fn prompt(&mut self, _sample: SampleId, _tokens_read: usize, _tokens: usize) {}

    /// A token was generated.
    fn token(&mut self, sample: SampleId, event: TokenEvent);

    /// A sample ended. Nothing more comes for it.
    fn finish(&mut self, sample: SampleId, event: FinishEvent);
}

/// Bounds of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most samples in flight at once.
    pub max_batch: usize,
    /// Most prompt tokens read in one step, beside the decoding of the active samples.
    pub prefill_chunk: usize,
    /// How much is guessed.
    pub drafts: DraftLimits,
    /// Tokens that a sample is reckoned to write soon: it enters when there is KV memory for these, though it may write more.
    pub tokens_ahead: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_batch: 32, prefill_chunk: 512, drafts: DraftLimits::default(), tokens_ahead: 512 }
    }
}
