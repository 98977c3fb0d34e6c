//! The decode loop: the one place where tokens are made, for every command and for the server.
//!
//! ```text
//! admit   waiting prompts while there is room (slots, KV memory)
//! run     engine.step: prompt chunks, the last token of every active sample and what is guessed to follow it
//!                      -> (hidden_post_norm, logits) after each
//! read    reading = reader(hidden_post_norm)             before any shift, only while thinking
//! control (alpha, ..) = policy(reading, logits)          only while thinking, unless asked otherwise
//! sample  token = sampler(logits + alpha * shift)        one seed for each sample, whatever its neighbours do
//! collect state, phase, text, end; one event for each token
//!         while the next token had been guessed: read, control and sample after it
//! ```
//!
//! Samples of one prompt share its prefill: the prompt is read once, and its sequence is forked. Samples enter and
//! leave at any step, one by one. Alpha 0 takes the same path as no vector at all.

mod admission;
mod draft;
mod queue;
mod request;
mod sample;
mod stop_texts;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use tpv_core::event::FinishReason;
use tpv_core::phase::Phase;
use tpv_core::policy::Policy;

use crate::engine::{Engine, ModelSpec, SequenceId, StepInput, StepOutput};
use crate::error::{EngineError, Result};
use crate::vocabulary::Vocabulary;
pub use draft::{DraftCounts, DraftLimits};
use draft::{Drafter, Ngrams};
use queue::{Group, Queued};
pub use request::{DecodeLimits, DecodeSink, IntervenePhase, PromptRequest, SampleId, SampleRequest, StateSink};
use sample::{Active, Start, StepLoad};
pub use stop_texts::StopText;

/// Logits of a step from which on threads are woken to choose the tokens.
const MANY_LOGITS: usize = 1 << 16;

/// The decode loop over one engine.
pub struct Decoder {
    engine: Box<dyn Engine>,
    vocabulary: Arc<dyn Vocabulary>,
    limits: DecodeLimits,
    /// Prompts with samples that do not generate yet, in the order in which they came.
    groups: VecDeque<Group>,
    /// Whether a sample that does not generate yet was cancelled since the last step.
    has_cancelled: bool,
    active: Vec<Active>,
    /// What samples guess from, where they share that.
    ngrams: Ngrams,
    draft_counts: DraftCounts,
    pauses: u64,
    output: StepOutput,
    next_id: u64,
}

impl Decoder {
    /// A loop that owns `engine`.
    pub fn new(engine: Box<dyn Engine>, vocabulary: Arc<dyn Vocabulary>, limits: DecodeLimits) -> Self {
        let (max_batch, prefill_chunk) = (limits.max_batch.max(1), limits.prefill_chunk.max(1));
        let limits = DecodeLimits { max_batch, prefill_chunk, ..limits };
        Self {
            engine,
            vocabulary,
            limits,
            groups: VecDeque::new(),
            has_cancelled: false,
            active: Vec::new(),
            ngrams: Ngrams::default(),
            draft_counts: DraftCounts::default(),
            pauses: 0,
            output: StepOutput::default(),
            next_id: 0,
        }
    }

    /// Gives the engine back; what is in flight is dropped.
    pub fn into_engine(mut self) -> Box<dyn Engine> {
        let prompts = self.groups.iter().filter_map(|group| group.prefill.as_ref()).map(|prefill| prefill.sequence);
        let sequences: Vec<SequenceId> = self.active.iter().map(|active| active.sequence).chain(prompts).collect();
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

    /// Guesses since the loop began.
    pub fn draft_counts(&self) -> DraftCounts {
        self.draft_counts
    }

    /// How often since the loop began a sample gave up its KV memory for others and had its tokens read again later.
    pub fn pauses(&self) -> u64 {
        self.pauses
    }

    /// Most samples in flight at once.
    pub fn max_batch(&self) -> usize {
        self.limits.max_batch
    }

    /// Samples that wait, read their prompt or generate.
    pub fn samples_in_flight(&self) -> usize {
        self.active.len() + self.groups.iter().map(|group| group.samples.len()).sum::<usize>()
    }

    /// Samples that wait for a slot.
    pub fn samples_waiting(&self) -> usize {
        self.groups.iter().map(Group::waiting).sum()
    }

    /// Samples that have given up their KV memory for others and wait until there is room again.
    pub fn samples_paused(&self) -> usize {
        self.active.iter().filter(|active| active.is_paused).count()
    }

    /// Stops a sample; its [`DecodeSink::finish`] comes with the next step. Unknown samples are ignored.
    pub fn cancel(&mut self, sample: SampleId) {
        if let Some(active) = self.active_mut(sample) {
            active.finished = Some((FinishReason::Cancelled, None));
            return;
        }
        if let Some(queued) = self.queued_mut(sample) {
            queued.cancelled = true;
            self.has_cancelled = true;
        }
    }

    /// Replaces the policy of a sample. Returns whether it can still act there.
    pub fn set_policy(&mut self, sample: SampleId, policy: Box<dyn Policy>) -> bool {
        if let Some(active) = self.active_mut(sample) {
            active.request.policy = policy;
            return active.may_think() || active.request.intervene == IntervenePhase::All;
        }
        let queued = self.queued_mut(sample).filter(|queued| !queued.cancelled);
        queued.map(|queued| queued.request.policy = policy).is_some()
    }

    /// Closes the thinking of a sample with its next token, the first one where it waits still, and asks for the answer.
    /// Returns whether it thinks or will.
    pub fn end_thinking(&mut self, sample: SampleId) -> bool {
        if let Some(active) = self.active_mut(sample) {
            active.end_asked = active.may_think();
            return active.end_asked;
        }
        let thinking = self.groups.iter_mut().filter(|group| group.phase.next_phase() != Phase::Answer);
        let queued = thinking.flat_map(|group| &mut group.samples).find(|queued| queued.id == sample);
        queued.filter(|queued| !queued.cancelled).map(|queued| queued.end_asked = true).is_some()
    }

    fn active_mut(&mut self, sample: SampleId) -> Option<&mut Active> {
        self.active.iter_mut().find(|active| active.id == sample && active.finished.is_none())
    }

    fn queued_mut(&mut self, sample: SampleId) -> Option<&mut Queued> {
        self.groups.iter_mut().flat_map(|group| &mut group.samples).find(|queued| queued.id == sample)
    }

    /// Runs until nothing is in flight.
    pub fn run(&mut self, sink: &mut dyn DecodeSink) -> Result<()> {
        while self.step(sink)? {}
        Ok(())
    }

    /// One step of everything in flight. Returns whether anything is left to do.
    pub fn step(&mut self, sink: &mut dyn DecodeSink) -> Result<bool> {
        self.retire(sink);
        self.drop_cancelled(sink);
        self.admit()?;
        if self.slots_taken() == 0 {
            return Ok(!self.groups.is_empty());
        }
        self.run_engine()?;
        self.collect(sink)?;
        self.retire(sink);
        Ok(self.samples_in_flight() > 0)
    }

    /// One step of the engine, for which the youngest make room where memory is short.
    fn run_engine(&mut self) -> Result<()> {
        loop {
            self.prepare_inputs();
            match self.step_engine() {
                Err(EngineError::KvMemoryFull { .. }) if self.make_room() => {}
                result => return result,
            }
        }
    }

    fn step_engine(&mut self) -> Result<()> {
        let decodes = self.active.iter().filter(|active| !active.input.is_empty()).map(|active| StepInput {
            sequence: active.sequence,
            tokens: &active.input,
            outputs: active.outputs,
        });
        let prefills = self.groups.iter().filter_map(|group| group.prefill.as_ref().map(|prefill| (group, prefill)));
        let prefills = prefills.filter(|(_, prefill)| prefill.chunk > 0).map(|(group, prefill)| {
            let end = prefill.tokens_read + prefill.chunk;
            let tokens = &group.tokens[prefill.tokens_read..end];
            StepInput { sequence: prefill.sequence, tokens, outputs: usize::from(end == group.tokens.len()) }
        });
        let inputs: Vec<StepInput<'_>> = decodes.chain(prefills).collect();
        if inputs.is_empty() { Ok(()) } else { self.engine.step(&inputs, &mut self.output) }
    }

    /// The last token of each sample, and guesses while there is room for rows, in equal shares; what paused samples have to
    /// read again, and then prompts, while there is room for that.
    fn prepare_inputs(&mut self) {
        let (limits, max_positions) = (self.limits.drafts, self.engine.spec().max_positions);
        let mut to_read = self.limits.prefill_chunk;
        let running = self.active.iter().filter(|active| !active.is_paused).count();
        let mut room = limits.rows.saturating_sub(running);
        let mut left = running;
        for active in &mut self.active {
            if active.is_paused {
                active.input.clear();
                active.outputs = 0;
                continue;
            }
            let held = self.engine.length(active.sequence);
            if held < active.tokens_held() {
                to_read -= active.catch_up(held, to_read);
            } else {
                active.prepare_input(&self.ngrams, limits.tokens.min(room / left), max_positions);
                room -= active.input.len() - 1;
            }
            left -= 1;
        }
        // Half of the room goes to prompts that end with it, so that a short one does not wait for all long ones before it.
        let mut for_short = to_read / 2;
        for (left, prefill) in self.groups.iter_mut().filter_map(Group::left_to_read) {
            prefill.chunk = if left <= for_short { left } else { 0 };
            for_short -= prefill.chunk;
            to_read -= prefill.chunk;
        }
        for (left, prefill) in self.groups.iter_mut().filter_map(Group::left_to_read) {
            if prefill.chunk == 0 {
                prefill.chunk = to_read.min(left);
                to_read -= prefill.chunk;
            }
        }
    }

    /// Counts what was read of each prompt and keeps what its samples begin with.
    fn note_prompts(&mut self, sink: &mut dyn DecodeSink) {
        let (d, v) = (self.engine.spec().hidden_size, self.engine.spec().vocab_size);
        let mut row = self.active.iter().map(|active| active.outputs).sum::<usize>();
        for group in &mut self.groups {
            let Some(prefill) = group.prefill.as_mut().filter(|prefill| prefill.chunk > 0) else { continue };
            prefill.tokens_read += std::mem::take(&mut prefill.chunk);
            let total = group.tokens.len();
            group.samples.iter().for_each(|queued| sink.prompt(queued.id, prefill.tokens_read, total));
            if prefill.tokens_read == total {
                prefill.hidden_post_norm = self.output.hidden_post_norm[row * d..(row + 1) * d].to_vec();
                prefill.logits = self.output.logits[row * v..(row + 1) * v].to_vec();
                row += 1;
            }
        }
    }

    /// What the next step reads of its active samples.
    fn step_load(&self) -> StepLoad {
        StepLoad {
            positions: self.active.iter().filter(|active| !active.is_paused).map(Active::tokens_held).sum(),
            position_bytes: self.engine.kv_bytes_per_token() as f64,
            weight_bytes: self.engine.step_bytes().map(|bytes| bytes as f64),
        }
    }

    /// Turns the rows of the last engine step into tokens.
    fn collect(&mut self, sink: &mut dyn DecodeSink) -> Result<()> {
        let now = Instant::now();
        let load = self.step_load();
        self.note_prompts(sink);
        let outputs: Vec<usize> = self.active.iter().map(|active| active.outputs).collect();
        let beginnings = self.start_samples()?;
        let (d, v) = (self.engine.spec().hidden_size, self.engine.spec().vocab_size);
        let max_positions = self.engine.spec().max_positions;
        let (mut states, mut logits) = (&self.output.hidden_post_norm[..], &self.output.logits[..]);
        let decoded = outputs.into_iter().map(|count| {
            let rows = (states.split_off(..count * d), logits.split_off(..count * v));
            (rows.0.expect("each output has a state"), rows.1.expect("and logits"))
        });
        let begun = beginnings.into_iter().filter_map(|place| self.groups[place].prefill.as_ref());
        let begun = begun.map(|prefill| (&prefill.hidden_post_norm[..], &prefill.logits[..]));
        let rows: Vec<(&[f32], &[f32])> = decoded.chain(begun).collect();
        let vocabulary = &*self.vocabulary;
        let take_rows = |(active, &(states, logits)): (&mut Active, &(&[f32], &[f32]))| {
            let rows = states.chunks_exact(d).zip(logits.chunks_exact(v));
            let take_rows = || active.take_rows(rows, vocabulary, max_positions, now, load);
            // A panic of a reader, a policy, the sampler or whatever keeps states costs its own sample and nobody else
            // anything.
            if catch_unwind(AssertUnwindSafe(take_rows)).is_err() {
                let why = "its reading, its policy, its sampling or the keeping of its states broke".to_owned();
                active.finished = Some((FinishReason::Failed, Some(why)));
            }
        };
        if rows.len() > 1 && rows.len() * v >= MANY_LOGITS {
            self.active.par_iter_mut().zip(&rows).for_each(take_rows);
        } else {
            // Others are not woken for so little, but may be awake.
            let share = rows.len().div_ceil(self.engine.threads_awake()).max(1);
            let jobs = self.active.chunks_mut(share).zip(rows.chunks(share)).map(|(active, rows)| {
                let mut samples = active.iter_mut().zip(rows);
                move || samples.by_ref().for_each(take_rows)
            });
            let mut jobs: Vec<_> = jobs.collect();
            let mut jobs: Vec<&mut (dyn FnMut() + Send)> = jobs.iter_mut().map(|job| job as _).collect();
            self.engine.side_by_side(&mut jobs);
        }
        for active in &mut self.active {
            active.learn(&mut self.ngrams, &mut self.draft_counts);
            for event in active.events.drain(..) {
                sink.token(active.id, event);
            }
            // What was guessed wrongly.
            self.engine.truncate(active.sequence, active.tokens_held());
        }
        self.drop_empty_groups();
        Ok(())
    }

    /// Starts the admitted samples of the prompts that are read; for each, where its prompt is.
    fn start_samples(&mut self) -> Result<Vec<usize>> {
        let mut places = Vec::new();
        for place in 0..self.groups.len() {
            let group = &self.groups[place];
            let Some(prefill) = group.prefill.as_ref().filter(|_| group.is_read()) else { continue };
            let (sequence, count) = (prefill.sequence, group.admitted().count());
            for _ in 0..count {
                let sequence = self.engine.fork(sequence)?;
                self.start_sample(place, sequence);
                places.push(place);
            }
        }
        Ok(places)
    }

    /// Starts the first sample of a prompt with a sequence that holds the prompt.
    fn start_sample(&mut self, place: usize, sequence: SequenceId) {
        let group = &mut self.groups[place];
        let Queued { id, request, end_asked, .. } = group.samples.remove(0);
        let (tokens, phase, submitted) = (group.tokens.len(), group.phase.clone(), group.submitted);
        let longest = self.longest(tokens, &request);
        let prompt = &self.groups[place].tokens;
        let drafter = (self.limits.drafts.tokens > 0).then(|| {
            let mut drafter = Drafter::new(self.limits.drafts);
            drafter.learn(&mut self.ngrams, prompt.iter().copied());
            drafter
        });
        let start = Start { sequence, prompt, phase, longest, submitted, end_asked, drafter };
        self.active.push(Active::new(id, request, start));
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
