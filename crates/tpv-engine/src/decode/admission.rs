//! Who may enter the decode loop: requests are checked, and prompts wait until slots and KV memory are free for them.
//!
//! A sample enters when there is room for its prompt and for what it is likely to write soon, since few become as long as they
//! may. Where they do and the KV memory is full, the youngest give up theirs: a prompt that was read for samples that wait, or
//! a sample, which keeps its slot and all it is, and once there is room reads its tokens again and goes on as if nothing had
//! been. A sample whose longest possible sequence has no room alone is refused, so the oldest one always goes on.
//!
//! Prompts take their turn in the order in which they came: a prompt is read once its first sample has a slot, its other
//! samples enter one by one as slots become free, and the next prompt is read when no sample of those before it waits.

use std::time::Instant;

use super::Decoder;
use super::queue::{Group, Prefill, Queued};
use super::request::{DecodeSink, PromptRequest, SampleId, SampleRequest};
use crate::error::{EngineError, Result};
use crate::kv::PAGE_TOKENS;

impl Decoder {
    /// Queues a prompt with its samples; the ids are in the order of the samples.
    pub fn submit(&mut self, request: PromptRequest) -> Result<Vec<SampleId>> {
        self.check(&request)?;
        let submitted = Instant::now();
        let first = self.next_id;
        self.next_id += request.samples.len() as u64;
        let ids: Vec<SampleId> = (first..self.next_id).map(SampleId).collect();
        let queued = request.samples.into_iter().zip(&ids);
        let queued =
            queued.map(|(request, &id)| Queued { id, request, admitted: false, cancelled: false, end_asked: false });
        let samples: Vec<Queued> = queued.collect();
        if !samples.is_empty() {
            let PromptRequest { tokens, phase, .. } = request;
            self.groups.push_back(Group { tokens, phase, samples, submitted, prefill: None });
        }
        Ok(ids)
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
            let needed = self.longest(prompt_tokens, sample);
            if needed > capacity {
                let message = format!(
                    "a sample may come to {needed} tokens, but the KV memory holds {capacity}; lower --max_new_tokens, free memory, or give more with --kv_memory"
                );
                return Err(EngineError::Request(message));
            }
        }
        Ok(())
    }

    /// KV tokens that a sample may come to hold, in whole pages, as they are given out.
    pub(super) fn longest(&self, prompt_tokens: usize, sample: &SampleRequest) -> usize {
        let tokens = prompt_tokens.saturating_add(sample.max_new_tokens).min(self.engine.spec().max_positions);
        tokens.next_multiple_of(PAGE_TOKENS)
    }

    /// Samples that generate or are about to.
    pub(super) fn slots_taken(&self) -> usize {
        self.active.len() + self.open_groups().map(|group| group.admitted().count()).sum::<usize>()
    }

    /// The prompts of which samples have been admitted: the first ones.
    fn open_groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().take_while(|group| group.prefill.is_some() || group.admitted().next().is_some())
    }

    /// KV tokens, in whole pages, that a sample needs for now: what it holds and what it writes soon.
    fn claim(&self, held: usize, longest: usize) -> usize {
        held.saturating_add(self.limits.tokens_ahead.max(1)).next_multiple_of(PAGE_TOKENS).min(longest)
    }

    /// Whether all that is admitted and not paused has room.
    fn fits(&self) -> bool {
        let Some(capacity) = self.engine.kv_tokens().1 else { return true };
        let active = self.active.iter().filter(|active| !active.is_paused);
        let active = active.map(|active| self.claim(active.tokens_held(), active.longest)).sum::<usize>();
        active + self.open_groups().map(|group| self.group_claim(group)).sum::<usize>() <= capacity
    }

    /// KV tokens for the admitted samples of a group, and for the prompt, which is kept for those that are not.
    fn group_claim(&self, group: &Group) -> usize {
        let tokens = group.tokens.len();
        let admitted = group.admitted().map(|queued| self.claim(tokens, self.longest(tokens, &queued.request)));
        let prompt = if group.waiting() > 0 { tokens.next_multiple_of(PAGE_TOKENS) } else { 0 };
        admitted.sum::<usize>() + prompt
    }

    /// Lets paused samples go on while there is room, the oldest first. Whether none is left.
    fn resume(&mut self) -> bool {
        let mut is_idle = self.active.iter().all(|active| active.is_paused);
        for place in 0..self.active.len() {
            if self.active[place].is_paused {
                self.active[place].is_paused = false;
                if !is_idle && !self.fits() {
                    self.active[place].is_paused = true;
                    return false;
                }
                is_idle = false;
            }
        }
        true
    }

    /// Frees KV memory for a step: that of the last prompt whose samples wait, or else of the last sample that is not alone.
    /// Whether there was one.
    pub(super) fn make_room(&mut self) -> bool {
        if let Some(group) = self.groups.iter_mut().rfind(|group| group.prefill.is_some()) {
            group.samples.iter_mut().for_each(|queued| queued.admitted = false);
            group.prefill.take().into_iter().for_each(|prefill| self.engine.close(prefill.sequence));
            return true;
        }
        let mut running = self.active.iter_mut().filter(|active| !active.is_paused);
        let (Some(_), Some(last)) = (running.next(), running.next_back()) else { return false };
        last.pause();
        self.engine.truncate(last.sequence, 0);
        self.pauses += 1;
        true
    }

    /// Lets go of the samples that were cancelled before they generated.
    pub(super) fn drop_cancelled(&mut self, sink: &mut dyn DecodeSink) {
        if std::mem::take(&mut self.has_cancelled) {
            self.groups.iter_mut().for_each(|group| group.drop_cancelled(sink));
            self.drop_empty_groups();
        }
    }

    /// Lets go of the prompts that have no samples left.
    pub(super) fn drop_empty_groups(&mut self) {
        let engine = &mut self.engine;
        self.groups.retain(|group| {
            let is_wanted = !group.samples.is_empty();
            if let Some(prefill) = group.prefill.as_ref().filter(|_| !is_wanted) {
                engine.close(prefill.sequence);
            }
            is_wanted
        });
    }

    /// Admits samples while there is room, those first that have been in flight, then those of earlier prompts.
    pub(super) fn admit(&mut self) -> Result<()> {
        if !self.resume() {
            return Ok(());
        }
        for place in 0..self.groups.len() {
            while self.admit_one(place)? {}
            if self.groups[place].waiting() > 0 {
                break;
            }
        }
        Ok(())
    }

    /// Admits the next sample of the prompt at this place, if there is one and room for it.
    fn admit_one(&mut self, place: usize) -> Result<bool> {
        let Some(next) = self.groups[place].samples.iter().position(|queued| !queued.admitted) else {
            return Ok(false);
        };
        if self.slots_taken() >= self.limits.max_batch {
            return Ok(false);
        }
        let is_first = self.slots_taken() == 0;
        self.groups[place].samples[next].admitted = true;
        if !is_first && !self.fits() {
            self.groups[place].samples[next].admitted = false;
            return Ok(false);
        }
        if self.groups[place].prefill.is_none() {
            self.groups[place].prefill = Some(Prefill::new(self.engine.open()?));
        }
        Ok(true)
    }
}
