//! One sample that generates: its state is read, its next token chosen, its text, phase and end kept.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_core::phase::{Phase, PhaseTracker};
use tpv_core::policy::{Control, Observation};
use tpv_core::reading::{Estimate, Reading, SpeedMeter, StateView, Verdict};
use tpv_core::sampling::{Sampler, SamplingError};

use super::draft::{DraftCounts, Drafter, Ngrams};
use super::request::{IntervenePhase, SampleId, SampleRequest};
use super::stop_texts::StopTexts;
use crate::engine::SequenceId;
use crate::text_stream::TextStream;
use crate::vocabulary::Vocabulary;

/// A sample in flight.
pub(super) struct Active {
    pub id: SampleId,
    pub sequence: SequenceId,
    pub request: SampleRequest,
    sampler: Sampler,
    phase: PhaseTracker,
    text: TextStream,
    stop: StopTexts,
    forced: VecDeque<u32>,
    /// Whether what is forced closes the thinking.
    closing: bool,
    /// What the next step appends to its sequence: its last token and what is guessed to follow, or what it has to read again.
    pub input: Vec<u32>,
    /// After how many of the last of these the state and the logits are wanted.
    pub outputs: usize,
    drafter: Option<Drafter>,
    /// The events of a step, until they are handed over.
    pub events: Vec<TokenEvent>,
    /// Prompt and what was generated.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// KV tokens that it may come to hold.
    pub longest: usize,
    /// Whether it has given up its KV memory and waits until there is room for it again.
    pub is_paused: bool,
    /// Since when it writes nothing for that, until it has read its tokens again.
    paused_at: Option<Instant>,
    /// For how long it has been so.
    paused: Duration,
    submitted: Instant,
    first_token: Option<Instant>,
    thinking_started: Option<Instant>,
    thinking_secs: f64,
    speed: SpeedMeter,
    last_step: Option<Instant>,
    /// Tokens of the last step.
    step_tokens: usize,
    /// Whether the thinking is to be closed with the next token.
    pub end_asked: bool,
    pub finished: Option<(FinishReason, Option<String>)>,
}

/// What a sample takes over from the prompt that was read for it.
pub(super) struct Start<'a> {
    pub sequence: SequenceId,
    pub prompt: &'a [u32],
    pub phase: PhaseTracker,
    /// KV tokens that it may come to hold.
    pub longest: usize,
    pub submitted: Instant,
    /// Whether its thinking is to be closed with its first token.
    pub end_asked: bool,
    /// Guesses its tokens; it has seen the prompt.
    pub drafter: Option<Drafter>,
}

/// What a step reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepLoad {
    /// Positions of all active samples together.
    pub positions: usize,
    /// Bytes of keys and values of one position.
    pub position_bytes: f64,
    /// Bytes of the weights, where they are known.
    pub weight_bytes: Option<f64>,
}

impl StepLoad {
    /// By what share each position of a sample with `own` positions makes a step longer, where the time is that of what is
    /// read.
    fn growth(self, own: usize) -> f64 {
        let others = self.positions.saturating_sub(own) as f64 * self.position_bytes;
        self.weight_bytes.map_or(0.0, |weights| self.position_bytes / (weights + others))
    }
}

impl Active {
    /// A sample that is about to choose its first token.
    pub fn new(id: SampleId, request: SampleRequest, start: Start<'_>) -> Self {
        Self {
            id,
            sequence: start.sequence,
            sampler: Sampler::new(request.sampling, request.seed)
                .expect("the parameters were checked when the prompt was submitted"),
            stop: StopTexts::new(&request.stop_texts),
            request,
            phase: start.phase,
            text: TextStream::default(),
            forced: VecDeque::new(),
            closing: false,
            input: Vec::new(),
            outputs: 0,
            drafter: start.drafter,
            events: Vec::new(),
            tokens: start.prompt.to_vec(),
            prompt_tokens: start.prompt.len(),
            longest: start.longest,
            is_paused: false,
            paused_at: None,
            paused: Duration::ZERO,
            submitted: start.submitted,
            first_token: None,
            thinking_started: None,
            thinking_secs: 0.0,
            speed: SpeedMeter::default(),
            last_step: None,
            step_tokens: 0,
            end_asked: start.end_asked,
            finished: None,
        }
    }

    /// Whether its thinking goes on or may still begin.
    pub fn may_think(&self) -> bool {
        self.phase.next_phase() != Phase::Answer
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    fn last_token(&self) -> u32 {
        *self.tokens.last().expect("the prompt was checked when it was submitted")
    }

    /// Tokens that its sequence holds, unless it was paused: all but the last one.
    pub fn tokens_held(&self) -> usize {
        self.tokens.len() - 1
    }

    /// Stops for a while. The time until it goes on says nothing about its speed.
    pub fn pause(&mut self) {
        self.is_paused = true;
        self.paused_at.get_or_insert_with(Instant::now);
        self.last_step = None;
        self.step_tokens = 0;
    }

    /// Fills [`Self::input`] with up to `most` of the tokens that its sequence lacks, which holds the first `held`; how many.
    /// Once the last one is among them the sample goes on.
    pub fn catch_up(&mut self, held: usize, most: usize) -> usize {
        let end = self.tokens.len().min(held + most);
        self.input.clear();
        self.input.extend_from_slice(&self.tokens[held..end]);
        self.outputs = usize::from(end == self.tokens.len());
        end - held
    }

    /// Fills [`Self::input`] with the last token and up to `most` draft tokens; the last token that it may write is not among
    /// them.
    pub fn prepare_input(&mut self, shared: &Ngrams, most: usize, max_positions: usize) {
        self.input.clear();
        self.input.push(self.last_token());
        let most_tokens = self.request.max_new_tokens.min(max_positions - self.prompt_tokens);
        let most = most.min(most_tokens.saturating_sub(self.generated() + 1));
        if let Some(drafter) = &self.drafter {
            drafter.guess(shared, self.forced.iter().copied(), most, &mut self.input);
        }
        self.outputs = self.input.len();
    }

    /// Learns from the last step's events: what was written, and how much of it had been guessed.
    pub fn learn(&mut self, shared: &mut Ngrams, counts: &mut DraftCounts) {
        let (guessed, right) = (self.outputs.saturating_sub(1), self.events.len().saturating_sub(1));
        counts.guessed += guessed as u64;
        counts.right += right as u64;
        if let Some(drafter) = &mut self.drafter {
            drafter.learn(shared, self.events.iter().map(|event| event.token));
            drafter.note(guessed, right);
        }
    }

    /// Takes the rows of a step: the state `[d]` and the logits `[V]` after each of the input's outputs, or those after the
    /// prompt. Each makes a token, as long as what was guessed to come there is what came.
    pub fn take_rows<'a>(
        &mut self,
        rows: impl ExactSizeIterator<Item = (&'a [f32], &'a [f32])>,
        vocabulary: &dyn Vocabulary,
        max_positions: usize,
        now: Instant,
        load: StepLoad,
    ) {
        if rows.len() == 0 {
            return;
        }
        self.paused += self.paused_at.take().map_or(Duration::ZERO, |since| now - since);
        self.note_speed(now, load);
        let first_guess = self.input.len() + 1 - rows.len();
        for (place, (hidden_post_norm, logits)) in rows.enumerate() {
            let Some(event) = self.advance(hidden_post_norm, logits, vocabulary, max_positions, now) else { break };
            if let Some(Err(error)) = self.request.states.as_ref().map(|states| states.keep(&event, hidden_post_norm)) {
                self.finished = Some((FinishReason::Failed, Some(error)));
            }
            self.events.push(event);
            self.step_tokens += 1;
            if self.finished.is_some() || self.input.get(first_guess + place) != Some(&self.last_token()) {
                break;
            }
        }
    }

    /// The time since the last step is that of its tokens, in equal shares.
    fn note_speed(&mut self, now: Instant, load: StepLoad) {
        let tokens = std::mem::take(&mut self.step_tokens);
        if let Some(before) = self.last_step.replace(now) {
            let secs = (now - before).as_secs_f64() / tokens.max(1) as f64;
            let end = self.tokens.len();
            let growth = load.growth(self.tokens_held());
            (end - tokens..end).for_each(|position| self.speed.push(secs, position, growth));
        }
    }

    /// Reads the state, chooses the next token and returns its event; `None` once the sample has ended.
    fn advance(
        &mut self,
        hidden_post_norm: &[f32],
        logits: &[f32],
        vocabulary: &dyn Vocabulary,
        max_positions: usize,
        now: Instant,
    ) -> Option<TokenEvent> {
        if self.finished.is_some() {
            return None;
        }
        let reading = self.read(hidden_post_norm, now);
        let control = self.control(reading.as_ref(), logits, vocabulary, now);
        let forced = self.forced.pop_front();
        let token = match forced {
            Some(token) => token,
            None => match self.sample(logits, &control, vocabulary) {
                Ok(token) => token,
                Err(error) => {
                    self.finished = Some((FinishReason::Failed, Some(error.to_string())));
                    return None;
                }
            },
        };
        let phase = self.phase.push(vocabulary.token_bytes(token));
        let is_end = vocabulary.is_end_of_sequence(token);
        self.tokens.push(token);
        self.first_token.get_or_insert(now);
        if phase == Phase::Thinking {
            self.thinking_secs = self.thinking_started.map_or(0.0, |started| (now - started).as_secs_f64());
        }
        let is_last = is_end || self.generated() >= self.request.max_new_tokens || self.tokens.len() >= max_positions;
        let text = self.push_text(token, phase, is_end, is_last, vocabulary);
        self.end_if_due(is_end, is_last);
        let reading = reading.map(|reading| self.with_verdict(reading));
        Some(TokenEvent {
            index: self.generated() as u32 - 1,
            token,
            text,
            phase,
            thinking_tokens: self.phase.thinking_tokens() as u32,
            remaining_secs: reading.and_then(|reading| self.remaining_secs(&reading)),
            reading,
            alpha: if forced.is_none() && self.request.shift.is_some() { control.alpha.0 } else { 0.0 },
            forced: forced.is_some(),
            elapsed_secs: (now - self.submitted).as_secs_f64(),
            tokens_per_sec: self.tokens_per_sec(self.generated() - 1, now),
        })
    }

    fn read(&mut self, hidden_post_norm: &[f32], now: Instant) -> Option<Reading> {
        if self.phase.next_phase() != Phase::Thinking {
            return None;
        }
        self.thinking_started.get_or_insert(now);
        let position = self.phase.thinking_tokens() as u32 + 1;
        Some(self.request.reader.read(StateView { hidden_post_norm, position, last_token: self.last_token() }))
    }

    fn control(
        &mut self,
        reading: Option<&Reading>,
        logits: &[f32],
        vocabulary: &dyn Vocabulary,
        now: Instant,
    ) -> Control {
        let unread = Reading { position: self.phase.thinking_tokens() as u32, ..Reading::default() };
        let thinking = self.phase.next_phase() == Phase::Thinking;
        if !thinking && self.request.intervene == IntervenePhase::Thinking {
            return Control::default();
        }
        let started = self.thinking_started.unwrap_or(now);
        let mut control = self.request.policy.control(&Observation {
            reading: reading.unwrap_or(&unread),
            logits_before_shift: logits,
            elapsed_secs: (now - started).as_secs_f64(),
            tokens_per_sec: self.tokens_per_sec(self.generated(), now),
        });
        if !control.alpha.0.is_finite() || !control.think_end_bias.is_finite() {
            control = Control { end_thinking: control.end_thinking, wait: control.wait, ..Control::default() };
        }
        if thinking && (control.end_thinking || self.end_asked) && !self.closing {
            self.forced = vocabulary.think_end_tokens().to_vec().into();
        } else if thinking && control.wait && self.forced.is_empty() {
            self.forced.extend(vocabulary.wait_tokens());
        }
        if !thinking {
            control.think_end_bias = 0.0; // there is no thinking to end
        }
        self.closing = thinking && (self.closing || control.end_thinking || self.end_asked);
        control
    }

    fn sample(&mut self, logits: &[f32], control: &Control, vocabulary: &dyn Vocabulary) -> Result<u32, SamplingError> {
        let shift = self.request.shift.as_deref().map(|shift| (control.alpha.0, shift));
        let end = vocabulary.think_end_tokens().first().filter(|_| control.think_end_bias != 0.0);
        match end {
            None => self.sampler.sample(logits, shift, &self.request.logit_bias),
            Some(&end) => {
                let mut bias = self.request.logit_bias.clone();
                bias.push((end, control.think_end_bias));
                self.sampler.sample(logits, shift, &bias)
            }
        }
    }

    /// The text that can be shown after this token; after the last one nothing is held back.
    fn push_text(
        &mut self,
        token: u32,
        phase: Phase,
        is_end: bool,
        is_last: bool,
        vocabulary: &dyn Vocabulary,
    ) -> String {
        let mut text = String::new();
        if !is_end {
            text.push_str(self.text.push(vocabulary.token_bytes(token)));
        }
        if is_last {
            text.push_str(self.text.finish());
        }
        match phase {
            Phase::Thinking if !self.request.stop_in_thinking => self.stop.release() + &text,
            _ => self.stop.push(text, is_last),
        }
    }

    fn end_if_due(&mut self, is_end: bool, is_last: bool) {
        let reason = match (is_end, self.stop.found, is_last) {
            (true, _, _) => FinishReason::Stop,
            (_, true, _) => FinishReason::StopText,
            (_, _, true) => FinishReason::Length,
            _ => return,
        };
        self.finished = Some((reason, None));
    }

    fn with_verdict(&self, mut reading: Reading) -> Reading {
        if self.phase.thinking_ended() {
            reading.progress = reading.progress.map(|_| 1.0);
            reading.remaining_tokens = reading.remaining_tokens.map(|_| Estimate { value: 0.0, low: 0.0, high: 0.0 });
            reading.verdict = Verdict::Done;
        }
        reading
    }

    /// Seconds of thinking still to come, where the tokens are estimated and the speed is known.
    fn remaining_secs(&self, reading: &Reading) -> Option<Estimate> {
        self.speed.remaining_secs(reading.remaining_tokens?)
    }

    /// Speed over the steps since the first token, pauses aside; unknown before the first of them.
    fn tokens_per_sec(&self, steps: usize, now: Instant) -> Option<f32> {
        let seconds = (now - self.first_token?).saturating_sub(self.paused).as_secs_f64();
        (steps > 0 && seconds > 0.0).then(|| (steps as f64 / seconds) as f32)
    }

    pub fn finish_event(&self, reason: FinishReason, error: Option<String>) -> FinishEvent {
        FinishEvent {
            reason,
            error,
            prompt_tokens: self.prompt_tokens as u32,
            generated_tokens: self.generated() as u32,
            thinking_tokens: self.phase.thinking_tokens() as u32,
            thinking_ended: self.phase.thinking_ended(),
            elapsed_secs: self.submitted.elapsed().as_secs_f64(),
            thinking_secs: self.thinking_secs,
            step_growth: self.speed.mean_growth(),
            paused_secs: (self.paused + self.paused_at.map_or(Duration::ZERO, |since| since.elapsed())).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_by_the_weights_and_the_other_sequences() {
        let load = StepLoad { positions: 100, position_bytes: 6.0, weight_bytes: Some(3000.0) };
        assert_eq!(load.growth(100), 6.0 / 3000.0, "alone");
        assert_eq!(load.growth(40), 6.0 / 3360.0, "beside 60 positions of others");
        assert_eq!(load.growth(120), 6.0 / 3000.0, "a sample that is not counted yet");
        assert_eq!(StepLoad { weight_bytes: None, ..load }.growth(40), 0.0);
    }
}
