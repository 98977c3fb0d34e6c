//! Collects what the decode loop makes of each sample until the sample is finished.

use half::f16;
use half::slice::HalfFloatSliceExt;
use std::collections::HashMap;
use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::phase::Phase;
use tpv_core::reading::Reading;
use tpv_data::run::StatesDtype;
use tpv_data::trace::States;
use tpv_engine::decode::{DecodeSink, SampleId};

/// Which states are collected, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Precision, or no states at all.
    pub states: Option<StatesDtype>,
    /// Only those of the thinking.
    pub thinking_only: bool,
}

impl Keep {
    /// No states.
    pub const NOTHING: Self = Self { states: None, thinking_only: false };
}

/// One sample, as far as it has come.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Generated tokens.
    pub token_ids: Vec<u32>,
    /// Text before and inside the thinking, `</think>` included.
    pub thinking_text: String,
    /// Text after `</think>`.
    pub answer_text: String,
    /// 0-based generated token that is the first of the thinking.
    pub thinking_start: Option<usize>,
    /// 0-based generated token that the first kept state predicts.
    pub first_state: usize,
    /// When each token of the thinking came, seconds since the prompt was submitted.
    pub thinking_secs: Vec<f64>,
    /// The readings of the thinking, in order.
    pub readings: Vec<Reading>,
    /// Kept states, `[S, d]`.
    pub states: States,
    /// Whether the last thinking token was forced: `</think>`, once the thinking has ended.
    pub end_forced: bool,
}

impl Recording {
    fn new(keep: Keep) -> Self {
        let states = match keep.states {
            Some(StatesDtype::F32) => States::F32(Vec::new()),
            _ => States::F16(Vec::new()),
        };
        Self {
            token_ids: Vec::new(),
            thinking_text: String::new(),
            answer_text: String::new(),
            thinking_start: None,
            first_state: 0,
            thinking_secs: Vec::new(),
            readings: Vec::new(),
            states,
            end_forced: false,
        }
    }

    /// All of the text.
    pub fn text(&self) -> String {
        format!("{}{}", self.thinking_text, self.answer_text)
    }

    fn push(&mut self, event: TokenEvent, hidden_post_norm: &[f32], keep: Keep) {
        let thinking = event.phase == Phase::Thinking;
        if thinking {
            self.thinking_start.get_or_insert(event.index as usize);
            self.thinking_secs.push(event.elapsed_secs);
            self.end_forced = event.forced;
        }
        if keep.states.is_some() && (thinking || !keep.thinking_only) {
            if self.no_states() {
                self.first_state = event.index as usize;
            }
            match &mut self.states {
                States::F16(values) => {
                    let kept = values.len();
                    values.resize(kept + hidden_post_norm.len(), f16::ZERO);
                    values[kept..].convert_from_f32_slice(hidden_post_norm);
                }
                States::F32(values) => values.extend_from_slice(hidden_post_norm),
            }
        }
        self.token_ids.push(event.token);
        let text = if event.phase == Phase::Answer { &mut self.answer_text } else { &mut self.thinking_text };
        text.push_str(&event.text);
        self.readings.extend(event.reading);
    }

    fn no_states(&self) -> bool {
        match &self.states {
            States::F16(values) => values.is_empty(),
            States::F32(values) => values.is_empty(),
        }
    }
}

/// Collects samples by the key that each was started under.
pub struct Recorder<K> {
    keep: Keep,
    open: HashMap<SampleId, (K, Recording)>,
    finished: Vec<(K, Recording, FinishEvent)>,
    /// Tokens generated so far, all samples together.
    pub tokens: u64,
}

impl<K> Recorder<K> {
    /// A recorder without samples.
    pub fn new(keep: Keep) -> Self {
        Self { keep, open: HashMap::new(), finished: Vec::new(), tokens: 0 }
    }

    /// Starts to record a sample.
    pub fn start(&mut self, sample: SampleId, key: K) {
        self.open.insert(sample, (key, Recording::new(self.keep)));
    }

    /// Bytes of the states that are held here.
    pub fn state_bytes(&self) -> usize {
        let open = self.open.values().map(|(_, recording)| recording);
        let finished = self.finished.iter().map(|(_, recording, _)| recording);
        open.chain(finished).map(|recording| recording.states.bytes()).sum()
    }

    /// The samples that have finished since the last call.
    pub fn take_finished(&mut self) -> Vec<(K, Recording, FinishEvent)> {
        std::mem::take(&mut self.finished)
    }
}

impl<K> DecodeSink for Recorder<K> {
    fn token(&mut self, sample: SampleId, event: TokenEvent, hidden_post_norm: &[f32]) {
        self.tokens += 1;
        if let Some((_, recording)) = self.open.get_mut(&sample) {
            recording.push(event, hidden_post_norm, self.keep);
        }
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        if let Some((key, recording)) = self.open.remove(&sample) {
            self.finished.push((key, recording, event));
        }
    }
}
