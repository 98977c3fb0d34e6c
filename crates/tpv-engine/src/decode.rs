//! The decode loop: the one place where tokens are made, for every command and for the server.
//!
//! ```text
//! admit   waiting prompts while there is room (slots, KV memory)
//! run     engine.step: prompt chunks and one token of every active sample -> (hidden_post_norm, logits)
//! read    reading = reader(hidden_post_norm)             before any shift, only while thinking
//! control (alpha, ..) = policy(reading, logits)          only while thinking, unless asked otherwise
//! sample  token = sampler(logits + alpha * shift)        one seed for each sample, whatever its neighbours do
//! collect phase, text, end; one event for each token
//! ```
//!
//! Samples of one prompt share its prefill: the prompt is read once, and its sequence is forked. Samples enter and
//! leave at any step. Alpha 0 takes the same path as no vector at all.

use crate::engine::{Engine, ModelSpec, SequenceId, StepInput, StepOutput};
use crate::error::{EngineError, Result};
use crate::text_stream::TextStream;
use crate::vocabulary::Vocabulary;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_core::phase::{Phase, PhaseTracker};
use tpv_core::policy::{Control, Observation, Policy};
use tpv_core::reading::{Estimate, Reader, Reading, SpeedMeter, StateView, Verdict, remaining_secs};
use tpv_core::sampling::{Sampler, SamplingParams};

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
    /// Added to the logits of these tokens at every step.
    pub logit_bias: Vec<(u32, f32)>,
    /// Generation stops when one of these texts appears in the answer; the text itself is not part of it.
    pub stop_texts: Vec<String>,
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

/// Takes what the loop makes.
pub trait DecodeSink {
    /// Part of a sample's prompt was read.
    fn prompt(&mut self, _sample: SampleId, _tokens_read: usize, _tokens: usize) {}

    /// A token was generated; `hidden_post_norm` is the state that predicted it, `[d]`, as the model made it.
    fn token(&mut self, sample: SampleId, event: TokenEvent, hidden_post_norm: &[f32]);

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
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_batch: 32, prefill_chunk: 512 }
    }
}

/// The decode loop over one engine.
pub struct Decoder {
    engine: Box<dyn Engine>,
    vocabulary: Arc<dyn Vocabulary>,
    limits: DecodeLimits,
    waiting: VecDeque<Group>,
    reading_prompt: Vec<PrefillGroup>,
    active: Vec<Active>,
    output: StepOutput,
    next_id: u64,
}

/// The samples of one prompt before its prefill is complete.
struct Group {
    tokens: Vec<u32>,
    phase: PhaseTracker,
    samples: Vec<Queued>,
    submitted: Instant,
}

struct Queued {
    id: SampleId,
    request: SampleRequest,
    cancelled: bool,
}

struct PrefillGroup {
    group: Group,
    sequence: SequenceId,
    tokens_read: usize,
    /// Tokens read in the step under way.
    chunk: usize,
}

struct Active {
    id: SampleId,
    sequence: SequenceId,
    request: SampleRequest,
    sampler: Sampler,
    phase: PhaseTracker,
    text: TextStream,
    stop: StopTexts,
    forced: VecDeque<u32>,
    last_token: u32,
    prompt_tokens: usize,
    generated: usize,
    reserved_tokens: usize,
    submitted: Instant,
    first_token: Option<Instant>,
    thinking_started: Option<Instant>,
    thinking_secs: f64,
    speed: SpeedMeter,
    last_step: Option<Instant>,
    end_asked: bool,
    finished: Option<(FinishReason, Option<String>)>,
}

impl Decoder {
    /// A loop that owns `engine`.
    pub fn new(engine: Box<dyn Engine>, vocabulary: Arc<dyn Vocabulary>, limits: DecodeLimits) -> Self {
        let limits = DecodeLimits { max_batch: limits.max_batch.max(1), prefill_chunk: limits.prefill_chunk.max(1) };
        Self {
            engine,
            vocabulary,
            limits,
            waiting: VecDeque::new(),
            reading_prompt: Vec::new(),
            active: Vec::new(),
            output: StepOutput::default(),
            next_id: 0,
        }
    }

    /// Gives the engine back; what is in flight is dropped.
    pub fn into_engine(mut self) -> Box<dyn Engine> {
        let active = self.active.iter().map(|active| active.sequence);
        let sequences: Vec<SequenceId> =
            active.chain(self.reading_prompt.iter().map(|prefill| prefill.sequence)).collect();
        sequences.into_iter().for_each(|sequence| self.engine.close(sequence));
        self.engine
    }

    /// The model that is run.
    pub fn spec(&self) -> &ModelSpec {
        self.engine.spec()
    }

    /// `W v`: the logit shift that adding `v` to the final state means, `[V]`.
    pub fn project(&self, v: &[f32]) -> Result<Vec<f32>> {
        self.engine.project(v)
    }

    /// Bytes of KV memory that one token of one sequence takes.
    pub fn kv_bytes_per_token(&self) -> usize {
        self.engine.kv_bytes_per_token()
    }

    /// Tokens of KV memory in use and in all; see [`Engine::kv_tokens`].
    pub fn kv_tokens(&self) -> (usize, Option<usize>) {
        self.engine.kv_tokens()
    }

    /// Samples that wait, read their prompt or generate.
    pub fn samples_in_flight(&self) -> usize {
        self.waiting.iter().map(|g| g.samples.len()).sum::<usize>() + self.slots_taken()
    }

    /// Samples that wait for a slot.
    pub fn samples_waiting(&self) -> usize {
        self.waiting.iter().map(|g| g.samples.len()).sum()
    }

    /// Queues a prompt with its samples; the ids are in the order of the samples.
    pub fn submit(&mut self, request: PromptRequest) -> Result<Vec<SampleId>> {
        self.check(&request)?;
        let submitted = Instant::now();
        let first = self.next_id;
        self.next_id += request.samples.len() as u64;
        let ids: Vec<SampleId> = (first..self.next_id).map(SampleId).collect();
        let queued = request.samples.into_iter().zip(&ids);
        let mut samples: Vec<Queued> = queued.map(|(request, &id)| Queued { id, request, cancelled: false }).collect();
        while !samples.is_empty() {
            let rest = samples.split_off(self.group_size(&request.tokens, &samples));
            let (tokens, phase) = (request.tokens.clone(), request.phase.clone());
            self.waiting.push_back(Group { tokens, phase, samples, submitted });
            samples = rest;
        }
        Ok(ids)
    }

    /// How many of these samples can be in flight together at most.
    fn group_size(&self, prompt: &[u32], samples: &[Queued]) -> usize {
        let Some(capacity) = self.engine.kv_tokens().1 else { return samples.len().min(self.limits.max_batch) };
        let mut reserved = 0;
        let fits = samples.iter().take_while(|queued| {
            reserved += self.reservation(prompt.len(), &queued.request);
            reserved <= capacity
        });
        fits.count().clamp(1, self.limits.max_batch)
    }

    fn check(&self, request: &PromptRequest) -> Result<()> {
        let spec = self.engine.spec();
        if request.tokens.is_empty() {
            return Err(EngineError::Request("the prompt is empty; give at least one token".into()));
        }
        if let Some(token) = request.tokens.iter().find(|&&token| token as usize >= spec.vocab_size) {
            let message = format!("token {token} is outside the model's vocabulary of {} tokens", spec.vocab_size);
            return Err(EngineError::Request(message));
        }
        if request.tokens.len() >= spec.max_positions {
            let message = format!(
                "the prompt has {} tokens, and the model's {} positions leave no room for an answer; shorten the prompt",
                request.tokens.len(),
                spec.max_positions
            );
            return Err(EngineError::Request(message));
        }
        for sample in &request.samples {
            self.check_sample(request.tokens.len(), sample)?;
        }
        Ok(())
    }

    fn check_sample(&self, prompt_tokens: usize, sample: &SampleRequest) -> Result<()> {
        sample.sampling.validate().map_err(|error| EngineError::Request(error.to_string()))?;
        if let Some(shift) = &sample.shift
            && shift.len() != self.engine.spec().vocab_size
        {
            let (found, expected) = (shift.len(), self.engine.spec().vocab_size);
            return Err(EngineError::Request(format!("the shift has {found} entries, the logits have {expected}")));
        }
        if let (_, Some(capacity)) = self.engine.kv_tokens() {
            let needed = self.reservation(prompt_tokens, sample);
            if needed > capacity {
                let message = format!(
                    "a sample needs room for {needed} tokens, but the KV memory holds {capacity}; lower --max_new_tokens or raise --kv_memory"
                );
                return Err(EngineError::Request(message));
            }
        }
        Ok(())
    }

    /// KV tokens that a sample may come to hold.
    fn reservation(&self, prompt_tokens: usize, sample: &SampleRequest) -> usize {
        (prompt_tokens + sample.max_new_tokens).min(self.engine.spec().max_positions)
    }

    /// Stops a sample; its [`DecodeSink::finish`] comes with the next step. Unknown samples are ignored.
    pub fn cancel(&mut self, sample: SampleId) {
        if let Some(active) = self.active.iter_mut().find(|active| active.id == sample) {
            active.finished = Some((FinishReason::Cancelled, None));
            return;
        }
        if let Some(queued) = self.queued_mut(sample) {
            queued.cancelled = true;
        }
    }

    /// Replaces the policy of a sample. Returns whether the sample is in flight.
    pub fn set_policy(&mut self, sample: SampleId, policy: Box<dyn Policy>) -> bool {
        match self.request_mut(sample) {
            Some(request) => {
                request.policy = policy;
                true
            }
            None => false,
        }
    }

    /// Closes the thinking of a sample with its next token and asks for the answer. Returns whether it is generating.
    pub fn end_thinking(&mut self, sample: SampleId) -> bool {
        match self.active.iter_mut().find(|active| active.id == sample) {
            Some(active) => {
                active.end_asked = true;
                true
            }
            None => false,
        }
    }

    fn request_mut(&mut self, sample: SampleId) -> Option<&mut SampleRequest> {
        match self.active.iter().position(|active| active.id == sample) {
            Some(place) => Some(&mut self.active[place].request),
            None => self.queued_mut(sample).map(|queued| &mut queued.request),
        }
    }

    fn queued_mut(&mut self, sample: SampleId) -> Option<&mut Queued> {
        let prefilling = self.reading_prompt.iter_mut().map(|prefill| &mut prefill.group);
        let mut queued = self.waiting.iter_mut().chain(prefilling).flat_map(|group| &mut group.samples);
        queued.find(|queued| queued.id == sample)
    }

    /// Runs until nothing is in flight.
    pub fn run(&mut self, sink: &mut dyn DecodeSink) -> Result<()> {
        while self.step(sink)? {}
        Ok(())
    }

    /// One step of everything in flight. Returns whether anything is left to do.
    pub fn step(&mut self, sink: &mut dyn DecodeSink) -> Result<bool> {
        self.retire(sink);
        self.admit(sink)?;
        if self.active.is_empty() && self.reading_prompt.is_empty() {
            return Ok(!self.waiting.is_empty());
        }
        self.run_engine()?;
        self.collect(sink)?;
        self.retire(sink);
        Ok(self.samples_in_flight() > 0)
    }

    fn slots_taken(&self) -> usize {
        self.active.len() + self.reading_prompt.iter().map(|prefill| prefill.group.samples.len()).sum::<usize>()
    }

    fn tokens_reserved(&self) -> usize {
        let prefilling = self.reading_prompt.iter().map(|prefill| self.group_reservation(&prefill.group));
        self.active.iter().map(|active| active.reserved_tokens).sum::<usize>() + prefilling.sum::<usize>()
    }

    fn group_reservation(&self, group: &Group) -> usize {
        group.samples.iter().map(|queued| self.reservation(group.tokens.len(), &queued.request)).sum()
    }

    fn has_room(&self, group: &Group) -> bool {
        let slots = self.slots_taken() + group.samples.len() <= self.limits.max_batch;
        let capacity = self.engine.kv_tokens().1.unwrap_or(usize::MAX);
        slots && self.tokens_reserved() + self.group_reservation(group) <= capacity
    }

    fn admit(&mut self, sink: &mut dyn DecodeSink) -> Result<()> {
        while let Some(mut group) = self.waiting.pop_front() {
            drop_cancelled(&mut group, sink);
            if group.samples.is_empty() {
                continue;
            }
            if !self.has_room(&group) {
                self.waiting.push_front(group);
                break;
            }
            let sequence = self.engine.open()?;
            self.reading_prompt.push(PrefillGroup { group, sequence, tokens_read: 0, chunk: 0 });
        }
        Ok(())
    }

    fn run_engine(&mut self) -> Result<()> {
        let mut room = self.limits.prefill_chunk;
        for prefill in &mut self.reading_prompt {
            prefill.chunk = room.min(prefill.group.tokens.len() - prefill.tokens_read);
            room -= prefill.chunk;
        }
        let decodes = self.active.iter().map(|active| StepInput {
            sequence: active.sequence,
            tokens: std::slice::from_ref(&active.last_token),
            wants_output: true,
        });
        let prefills = self.reading_prompt.iter().filter(|prefill| prefill.chunk > 0).map(|prefill| {
            let end = prefill.tokens_read + prefill.chunk;
            let tokens = &prefill.group.tokens[prefill.tokens_read..end];
            StepInput { sequence: prefill.sequence, tokens, wants_output: end == prefill.group.tokens.len() }
        });
        let inputs: Vec<StepInput<'_>> = decodes.chain(prefills).collect();
        self.engine.step(&inputs, &mut self.output)
    }

    /// Turns the rows of the last engine step into tokens.
    fn collect(&mut self, sink: &mut dyn DecodeSink) -> Result<()> {
        let now = Instant::now();
        let decoded = self.active.len();
        let mut row = decoded;
        let mut rows: Vec<usize> = (0..decoded).collect();
        for mut prefill in std::mem::take(&mut self.reading_prompt) {
            prefill.tokens_read += prefill.chunk;
            let total = prefill.group.tokens.len();
            if prefill.chunk > 0 {
                prefill.group.samples.iter().for_each(|queued| sink.prompt(queued.id, prefill.tokens_read, total));
            }
            if prefill.tokens_read < total {
                self.reading_prompt.push(prefill);
                continue;
            }
            let before = self.active.len();
            self.start_samples(prefill, sink)?;
            rows.extend(std::iter::repeat_n(row, self.active.len() - before));
            row += 1;
        }
        let (d, v) = (self.engine.spec().hidden_size, self.engine.spec().vocab_size);
        let max_positions = self.engine.spec().max_positions;
        let (hidden, logits) = (&self.output.hidden_post_norm, &self.output.logits);
        let vocabulary = &*self.vocabulary;
        let events: Vec<Option<TokenEvent>> = self
            .active
            .par_iter_mut()
            .zip(rows.par_iter())
            .map(|(active, &row)| {
                let state = &hidden[row * d..(row + 1) * d];
                active.advance(state, &logits[row * v..(row + 1) * v], vocabulary, max_positions, now)
            })
            .collect();
        for ((active, row), event) in self.active.iter().zip(rows).zip(events) {
            if let Some(event) = event {
                sink.token(active.id, event, &hidden[row * d..(row + 1) * d]);
            }
        }
        Ok(())
    }

    fn start_samples(&mut self, prefill: PrefillGroup, sink: &mut dyn DecodeSink) -> Result<()> {
        let PrefillGroup { mut group, sequence, .. } = prefill;
        drop_cancelled(&mut group, sink);
        if group.samples.is_empty() {
            self.engine.close(sequence);
            return Ok(());
        }
        let last_token = *group.tokens.last().expect("checked when the prompt was submitted");
        let last_sample = group.samples.len() - 1;
        for (number, Queued { id, request, .. }) in group.samples.into_iter().enumerate() {
            let sequence = if number == last_sample { sequence } else { self.engine.fork(sequence)? };
            let reserved_tokens = self.reservation(group.tokens.len(), &request);
            self.active.push(Active {
                id,
                sequence,
                sampler: Sampler::new(request.sampling, request.seed)
                    .expect("the parameters were checked when the prompt was submitted"),
                stop: StopTexts::new(&request.stop_texts),
                request,
                phase: group.phase.clone(),
                text: TextStream::default(),
                forced: VecDeque::new(),
                last_token,
                prompt_tokens: group.tokens.len(),
                generated: 0,
                reserved_tokens,
                submitted: group.submitted,
                first_token: None,
                thinking_started: None,
                thinking_secs: 0.0,
                speed: SpeedMeter::default(),
                last_step: None,
                end_asked: false,
                finished: None,
            });
        }
        Ok(())
    }

    /// Removes the samples that have ended.
    fn retire(&mut self, sink: &mut dyn DecodeSink) {
        let engine = &mut self.engine;
        self.active.retain_mut(|active| {
            let Some((reason, error)) = active.finished.take() else { return true };
            engine.close(active.sequence);
            sink.finish(active.id, active.finish_event(reason, error));
            false
        });
    }
}

/// Ends the samples of a group that were cancelled before they began.
fn drop_cancelled(group: &mut Group, sink: &mut dyn DecodeSink) {
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

impl Active {
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
        self.generated += 1;
        self.last_token = token;
        self.first_token.get_or_insert(now);
        if let Some(before) = self.last_step.replace(now) {
            self.speed.push((now - before).as_secs_f64());
        }
        if phase == Phase::Thinking {
            let started = *self.thinking_started.get_or_insert(self.submitted.max(now));
            self.thinking_secs = (now - started).as_secs_f64();
        }
        let is_last = is_end
            || self.generated >= self.request.max_new_tokens
            || self.prompt_tokens + self.generated >= max_positions;
        let text = self.push_text(token, phase, is_end, is_last, vocabulary);
        self.end_if_due(is_end, is_last);
        let reading = reading.map(|reading| self.with_verdict(reading));
        Some(TokenEvent {
            index: self.generated as u32 - 1,
            token,
            text,
            phase,
            thinking_tokens: self.phase.thinking_tokens() as u32,
            remaining_secs: reading.and_then(|reading| self.remaining_secs(&reading)),
            reading,
            alpha: if forced.is_none() && self.request.shift.is_some() { control.alpha.0 } else { 0.0 },
            forced: forced.is_some(),
            elapsed_secs: (now - self.submitted).as_secs_f64(),
            tokens_per_sec: self.tokens_per_sec(now),
        })
    }

    fn read(&mut self, hidden_post_norm: &[f32], now: Instant) -> Option<Reading> {
        if self.phase.next_phase() != Phase::Thinking {
            return None;
        }
        self.thinking_started.get_or_insert(now);
        let position = self.phase.thinking_tokens() as u32 + 1;
        Some(self.request.reader.read(StateView { hidden_post_norm, position, last_token: self.last_token }))
    }

    fn control(
        &mut self,
        reading: Option<&Reading>,
        logits: &[f32],
        vocabulary: &dyn Vocabulary,
        now: Instant,
    ) -> Control {
        let unread = Reading::default();
        let thinking = self.phase.next_phase() == Phase::Thinking;
        if !thinking && self.request.intervene == IntervenePhase::Thinking {
            return Control::default();
        }
        let started = self.thinking_started.unwrap_or(now);
        let mut control = self.request.policy.control(&Observation {
            reading: reading.unwrap_or(&unread),
            logits_before_shift: logits,
            elapsed_secs: (now - started).as_secs_f64(),
            tokens_per_sec: self.tokens_per_sec(now),
        });
        if !control.alpha.0.is_finite() || !control.think_end_bias.is_finite() {
            control = Control { end_thinking: control.end_thinking, ..Control::default() };
        }
        if thinking && (control.end_thinking || self.end_asked) && self.forced.is_empty() {
            self.forced.extend(vocabulary.think_end_tokens());
        }
        control
    }

    fn sample(
        &mut self,
        logits: &[f32],
        control: &Control,
        vocabulary: &dyn Vocabulary,
    ) -> Result<u32, tpv_core::sampling::SamplingError> {
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
        if phase == Phase::Thinking { text } else { self.stop.push(text, is_last) }
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
        Some(remaining_secs(reading.remaining_tokens?, self.speed.tokens_per_sec()?))
    }

    /// Speed since the first token; unknown before the second.
    fn tokens_per_sec(&self, now: Instant) -> Option<f32> {
        let seconds = (now - self.first_token?).as_secs_f64();
        (self.generated > 1 && seconds > 0.0).then(|| ((self.generated - 1) as f64 / seconds) as f32)
    }

    fn finish_event(&self, reason: FinishReason, error: Option<String>) -> FinishEvent {
        FinishEvent {
            reason,
            error,
            prompt_tokens: self.prompt_tokens as u32,
            generated_tokens: self.generated as u32,
            thinking_tokens: self.phase.thinking_tokens() as u32,
            thinking_ended: self.phase.thinking_ended(),
            elapsed_secs: self.submitted.elapsed().as_secs_f64(),
            thinking_secs: self.thinking_secs,
        }
    }
}

/// Watches the text for the request's stop texts and holds back what may be the beginning of one.
struct StopTexts {
    texts: Vec<String>,
    held: String,
    found: bool,
}

impl StopTexts {
    fn new(texts: &[String]) -> Self {
        let texts = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
        Self { texts, held: String::new(), found: false }
    }

    /// Takes the next piece of text and returns what can be shown.
    fn push(&mut self, piece: String, is_last: bool) -> String {
        if self.texts.is_empty() {
            return piece;
        }
        self.held.push_str(&piece);
        if let Some(at) = self.texts.iter().filter_map(|text| self.held.find(text.as_str())).min() {
            self.found = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = if is_last { 0 } else { self.longest_beginning() };
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Bytes at the end of the held text that begin one of the stop texts.
    fn longest_beginning(&self) -> usize {
        let begins = |keep: &usize| {
            let start = self.held.len() - keep;
            self.held.is_char_boundary(start) && self.texts.iter().any(|text| text.starts_with(&self.held[start..]))
        };
        (1..=self.held.len()).rev().find(begins).unwrap_or(0)
    }
}
