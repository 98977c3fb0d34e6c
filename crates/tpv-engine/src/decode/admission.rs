//! Who may enter the decode loop: requests are checked, and prompts wait until slots and KV memory are free for them.
//!
//! A sample enters only when its longest possible sequence has room, so nothing in flight ever runs out of memory.

use std::time::Instant;

use super::Decoder;
use super::queue::{Group, PrefillGroup, Queued, drop_cancelled};
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

    /// KV tokens that a sample may come to hold, in whole pages, as they are given out.
    pub(super) fn reservation(&self, prompt_tokens: usize, sample: &SampleRequest) -> usize {
        let tokens = prompt_tokens.saturating_add(sample.max_new_tokens).min(self.engine.spec().max_positions);
        tokens.next_multiple_of(PAGE_TOKENS)
    }

    pub(super) fn slots_taken(&self) -> usize {
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

    /// Lets go of the samples that were cancelled before they generated.
    pub(super) fn drop_cancelled(&mut self, sink: &mut dyn DecodeSink) {
        if !std::mem::take(&mut self.has_cancelled) {
            return;
        }
        self.waiting.iter_mut().for_each(|group| drop_cancelled(group, sink));
        self.waiting.retain(|group| !group.samples.is_empty());
        let engine = &mut self.engine;
        self.reading_prompt.retain_mut(|prefill| {
            drop_cancelled(&mut prefill.group, sink);
            let is_wanted = !prefill.group.samples.is_empty();
            if !is_wanted {
                engine.close(prefill.sequence);
            }
            is_wanted
        });
    }

    /// Opens sequences for waiting prompts while there is room.
    pub(super) fn admit(&mut self) -> Result<()> {
        while let Some(group) = self.waiting.pop_front() {
            if !self.has_room(&group) {
                self.waiting.push_front(group);
                break;
            }
            let sequence = self.engine.open()?;
            self.reading_prompt.push(PrefillGroup { group, sequence, tokens_read: 0, chunk: 0 });
        }
        Ok(())
    }
}
