//! Collects what the decode loop makes of each sample until the sample is finished.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::phase::Phase;
use tpv_core::reading::Reading;
use tpv_data::error::DataError;
use tpv_data::states::{States, StatesWriter};
use tpv_engine::decode::{DecodeSink, SampleId, StateSink};

/// The states that are kept of a sample: the decode loop puts them in, whoever asked for the sample takes them out.
#[derive(Debug)]
pub struct KeptStates(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    writer: StatesWriter,
    thinking_only: bool,
    /// 0-based generated token that the first kept state predicts.
    first_state: usize,
    refused: Option<DataError>,
}

impl KeptStates {
    /// Keeps all states, or those of the thinking alone.
    pub fn new(writer: StatesWriter, thinking_only: bool) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Kept { writer, thinking_only, first_state: 0, refused: None })))
    }

    /// The states, and the 0-based generated token that the first of them predicts. What comes later is not kept.
    pub fn take(&self) -> Result<(States, usize), DataError> {
        let kept = &mut *self.lock();
        kept.refused.take().map_or(Ok(()), Err)?;
        Ok((kept.writer.take(), kept.first_state))
    }

    fn bytes_in_memory(&self) -> usize {
        self.lock().writer.bytes_in_memory()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateSink for KeptStates {
    fn keep(&self, event: &TokenEvent, hidden_post_norm: &[f32]) -> Result<(), String> {
        let kept = &mut *self.lock();
        if kept.thinking_only && event.phase != Phase::Thinking {
            return Ok(());
        }
        if kept.writer.is_empty() {
            kept.first_state = event.index as usize;
        }
        kept.writer.push(hidden_post_norm).map_err(|error| {
            let text = error.to_string();
            kept.refused = Some(error);
            text
        })
    }
}

/// One sample, as far as it has come.
#[derive(Debug)]
pub struct Recording {
    /// Generated tokens.
    pub token_ids: Vec<u32>,
    /// Text before and inside the thinking, `</think>` included.
    pub thinking_text: String,
    /// Text after `</think>`.
    pub answer_text: String,
    /// 0-based generated token that is the first of the thinking.
    pub thinking_start: Option<usize>,
    /// When each token of the thinking came, seconds since the prompt was submitted.
    pub thinking_secs: Vec<f64>,
    /// The readings of the thinking, in order.
    pub readings: Vec<Reading>,
    /// Its states, where they are kept.
    pub states: Option<Arc<KeptStates>>,
    /// Whether the last thinking token was forced: `</think>`, once the thinking has ended.
    pub end_forced: bool,
}

impl Recording {
    fn new(states: Option<Arc<KeptStates>>) -> Self {
        Self {
            token_ids: Vec::new(),
            thinking_text: String::new(),
            answer_text: String::new(),
            thinking_start: None,
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

    fn push(&mut self, event: TokenEvent) {
        if event.phase == Phase::Thinking {
            self.thinking_start.get_or_insert(event.index as usize);
            self.thinking_secs.push(event.elapsed_secs);
            self.end_forced = event.forced;
        }
        self.token_ids.push(event.token);
        let text = if event.phase == Phase::Answer { &mut self.answer_text } else { &mut self.thinking_text };
        text.push_str(&event.text);
        self.readings.extend(event.reading);
    }
}

/// Collects samples by the key that each was started under.
pub struct Recorder<K> {
    open: HashMap<SampleId, (K, Recording)>,
    finished: Vec<(K, Recording, FinishEvent)>,
    /// Tokens generated so far, all samples together.
    pub tokens: u64,
}

impl<K> Recorder<K> {
    /// A recorder without samples.
    pub fn new() -> Self {
        Self { open: HashMap::new(), finished: Vec::new(), tokens: 0 }
    }

    /// Starts to record a sample; without `states` its states are not kept.
    pub fn start(&mut self, sample: SampleId, key: K, states: Option<Arc<KeptStates>>) {
        self.open.insert(sample, (key, Recording::new(states)));
    }

    /// Bytes of memory that the states of the samples take that have not been taken, beside their logs' buffers.
    pub fn state_bytes(&self) -> usize {
        let open = self.open.values().map(|(_, recording)| recording);
        let finished = self.finished.iter().map(|(_, recording, _)| recording);
        open.chain(finished)
            .filter_map(|recording| recording.states.as_ref())
            .map(|states| states.bytes_in_memory())
            .sum()
    }

    /// The samples that have finished since the last call.
    pub fn take_finished(&mut self) -> Vec<(K, Recording, FinishEvent)> {
        std::mem::take(&mut self.finished)
    }
}

impl<K> DecodeSink for Recorder<K> {
    fn token(&mut self, sample: SampleId, event: TokenEvent) {
        self.tokens += 1;
        if let Some((_, recording)) = self.open.get_mut(&sample) {
            recording.push(event);
        }
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        if let Some((key, recording)) = self.open.remove(&sample) {
            self.finished.push((key, recording, event));
        }
    }
}
