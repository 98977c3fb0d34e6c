//! Collects what the decode loop makes of each sample until the sample is finished.

use std::collections::HashMap;
use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::phase::Phase;
use tpv_core::reading::Reading;
use tpv_data::error::DataError;
use tpv_data::states::StatesWriter;
use tpv_engine::decode::{DecodeSink, SampleId};

/// The states that are kept of a sample.
#[derive(Debug)]
pub struct KeptStates {
    /// Takes them.
    pub writer: StatesWriter,
    /// Whether those of the thinking alone are kept.
    pub thinking_only: bool,
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
    /// 0-based generated token that the first kept state predicts.
    pub first_state: usize,
    /// When each token of the thinking came, seconds since the prompt was submitted.
    pub thinking_secs: Vec<f64>,
    /// The readings of the thinking, in order.
    pub readings: Vec<Reading>,
    /// Its states, where they are kept.
    pub states: Option<KeptStates>,
    /// Whether the last thinking token was forced: `</think>`, once the thinking has ended.
    pub end_forced: bool,
}

impl Recording {
    fn new(states: Option<KeptStates>) -> Self {
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

    fn push(&mut self, event: TokenEvent, hidden_post_norm: &[f32]) -> Result<(), DataError> {
        let thinking = event.phase == Phase::Thinking;
        if thinking {
            self.thinking_start.get_or_insert(event.index as usize);
            self.thinking_secs.push(event.elapsed_secs);
            self.end_forced = event.forced;
        }
        self.token_ids.push(event.token);
        let text = if event.phase == Phase::Answer { &mut self.answer_text } else { &mut self.thinking_text };
        text.push_str(&event.text);
        self.readings.extend(event.reading);
        match &mut self.states {
            Some(states) if thinking || !states.thinking_only => {
                if states.writer.is_empty() {
                    self.first_state = event.index as usize;
                }
                states.writer.push(hidden_post_norm)
            }
            _ => Ok(()),
        }
    }
}

/// Collects samples by the key that each was started under.
pub struct Recorder<K> {
    open: HashMap<SampleId, (K, Recording)>,
    finished: Vec<(K, Recording, FinishEvent)>,
    refused: Option<DataError>,
    /// Tokens generated so far, all samples together.
    pub tokens: u64,
}

impl<K> Recorder<K> {
    /// A recorder without samples.
    pub fn new() -> Self {
        Self { open: HashMap::new(), finished: Vec::new(), refused: None, tokens: 0 }
    }

    /// Starts to record a sample; without `states` its states are not kept.
    pub fn start(&mut self, sample: SampleId, key: K, states: Option<KeptStates>) {
        self.open.insert(sample, (key, Recording::new(states)));
    }

    /// What takes the states of the samples that have not been taken.
    pub fn state_writers(&self) -> impl Iterator<Item = &StatesWriter> {
        let open = self.open.values().map(|(_, recording)| recording);
        let finished = self.finished.iter().map(|(_, recording, _)| recording);
        open.chain(finished).filter_map(|recording| recording.states.as_ref().map(|states| &states.writer))
    }

    /// The first error of keeping states since the last call, to be asked for after each step: the loop's sinks have no
    /// way to stop it.
    pub fn check(&mut self) -> Result<(), DataError> {
        self.refused.take().map_or(Ok(()), Err)
    }

    /// The samples that have finished since the last call.
    pub fn take_finished(&mut self) -> Vec<(K, Recording, FinishEvent)> {
        std::mem::take(&mut self.finished)
    }
}

impl<K> DecodeSink for Recorder<K> {
    fn token(&mut self, sample: SampleId, event: TokenEvent, hidden_post_norm: &[f32]) {
        self.tokens += 1;
        let recorded = self.open.get_mut(&sample).map(|(_, recording)| recording.push(event, hidden_post_norm));
        if let Some(Err(error)) = recorded {
            self.refused.get_or_insert(error);
        }
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        if let Some((key, recording)) = self.open.remove(&sample) {
            self.finished.push((key, recording, event));
        }
    }
}
