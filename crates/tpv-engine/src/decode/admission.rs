//! Who may enter the decode loop: requests are checked, and prompts wait until slots and KV memory are free for them.
//!
//! A sample enters only when its longest possible sequence has room, so nothing in flight ever runs out of memory. Prompts
//! take their turn in the order in which they came: a prompt is read once its first sample has a slot, its other samples
//! enter one by one as slots become free, and the next prompt is read when no sample of those before it waits.

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
        let mut samples: Vec<Queued> = queued.collect();
        while !samples.is_empty() {
            let rest = samples.split_off(self.group_size(&request.tokens, &samples));
            let (tokens, phase) = (request.tokens.clone(), request.phase.clone());
            self.groups.push_back(Group { tokens, phase, samples, submitted, prefill: None });
            samples = rest;
        }
        Ok(ids)
    }

    /// How many of these samples the KV memory can hold together: no more may share a prompt, which is kept until the last
    /// of them has entered.
    fn group_size(&self, prompt: &[u32], samples: &[Queued]) -> usize {
        let Some(capacity) = self.engine.kv_tokens().1 else { return samples.len() };
        let mut reserved = 0;
        let fits = samples.iter().take_while(|queued| {
            reserved += self.reservation(prompt.len(), &queued.request);
            reserved <= capacity
        });
        fits.count().max(1)
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

    /// KV tokens that a sample may come to hold, in whole pages, as they are given out.
    pub(super) fn reservation(&self, prompt_tokens: usize, sample: &SampleRequest) -> usize {
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

    fn tokens_reserved(&self) -> usize {
        let active = self.active.iter().map(|active| active.reserved_tokens).sum::<usize>();
        active + self.open_groups().map(|group| self.group_reservation(group)).sum::<usize>()
    }

    /// KV tokens for the admitted samples of a group, and for the prompt, which is kept for those that are not.
    fn group_reservation(&self, group: &Group) -> usize {
        let admitted = group.admitted().map(|queued| self.reservation(group.tokens.len(), &queued.request));
        let prompt = if group.waiting() > 0 { group.tokens.len().next_multiple_of(PAGE_TOKENS) } else { 0 };
        admitted.sum::<usize>() + prompt
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

    /// Admits samples while there is room, those of earlier prompts first.
    pub(super) fn admit(&mut self) -> Result<()> {
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
        self.groups[place].samples[next].admitted = true;
        if self.engine.kv_tokens().1.is_some_and(|capacity| self.tokens_reserved() > capacity) {
            self.groups[place].samples[next].admitted = false;
            return Ok(false);
        }
        if self.groups[place].prefill.is_none() {
            self.groups[place].prefill = Some(Prefill::new(self.engine.open()?));
        }
        Ok(true)
    }
}
