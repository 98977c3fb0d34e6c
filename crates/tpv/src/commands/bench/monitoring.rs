//! What reading, shift and state capture add to a step of the decode loop.
//!
//! One run, in which monitoring is switched on for every other step (off, on, on, off, ...): two neighbouring steps make a
//! pair with the same sequences, caches and clock speed, and the cost is the median of the pairs' ratios. Tokens are
//! chosen greedily, so that the flat distributions of random weights, the worst case of top-p sampling, hide nothing.

use super::{CONTEXT_TOKENS, made_up_tokens, median};
use crate::reading_cost::made_up_reading;
use crate::recorder::{KeptStates, Recorder};
use anyhow::Result;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::phase::{PhaseTracker, ThinkingMarkers};
use tpv_core::policy::{Control, Observation, Policy};
use tpv_core::reading::{BlindReader, Reader, Reading, StateView};
use tpv_core::sampling::SamplingParams;
use tpv_data::run::StatesDtype;
use tpv_data::states::Spill;
use tpv_engine::decode::{DecodeSink, Decoder, IntervenePhase, PromptRequest, SampleId, SampleRequest};

/// Pairs are collected for at least so long.
const LEAST_SECS: f64 = 2.0;
/// Steps before the first pair of a run.
const WARM_UP: usize = 4;
/// Steps that a run may take until all its sequences generate.
const MOST_PREFILL_STEPS: usize = 64;

/// Steps of the loop, bare and monitored.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Monitoring {
    /// Median milliseconds of a bare step.
    pub bare_ms: f64,
    /// Median milliseconds of a monitored step.
    pub monitored_ms: f64,
    /// Median of monitored over bare within pairs, minus 1.
    pub cost: f64,
    /// Its interval of 95 %, from the ranks of the pairs.
    pub cost_interval: (f64, f64),
    /// Pairs measured.
    pub pairs: usize,
}

/// Measures at least `pairs` pairs of steps.
pub fn measure(decoder: &mut Decoder, batch: usize, pairs: usize) -> Result<Monitoring> {
    let start = Instant::now();
    let (mut bare, mut monitored) = (Vec::new(), Vec::new());
    while bare.len() < pairs || start.elapsed().as_secs_f64() < LEAST_SECS {
        run(decoder, batch, pairs, &mut bare, &mut monitored)?;
    }
    let mut ratios: Vec<f64> = bare.iter().zip(&monitored).map(|(bare, monitored)| monitored / bare - 1.0).collect();
    let cost = median(&mut ratios);
    Ok(Monitoring {
        bare_ms: median(&mut bare),
        monitored_ms: median(&mut monitored),
        cost,
        cost_interval: median_interval(&ratios),
        pairs: ratios.len(),
    })
}

/// The 95 % interval of the median of sorted values: the number below the median is binomial, whatever they are.
fn median_interval(sorted: &[f64]) -> (f64, f64) {
    let (middle, reach) = (sorted.len() as f64 / 2.0, 0.98 * (sorted.len() as f64).sqrt());
    let at = |rank: f64| sorted[(rank.max(0.0) as usize).min(sorted.len() - 1)];
    (at((middle - reach).floor()), at((middle + reach).ceil()))
}

fn run(decoder: &mut Decoder, batch: usize, pairs: usize, bare: &mut Vec<f64>, monitored: &mut Vec<f64>) -> Result<()> {
    let switch = Arc::new(AtomicBool::new(false));
    let mut sink = Sink { switch: Arc::clone(&switch), with_states: Recorder::new(), without: Recorder::new() };
    let samples = submit(decoder, batch, WARM_UP + 2 * pairs + MOST_PREFILL_STEPS, &switch)?;
    // As in a run, but that there is no folder of a run: most states go to the system's folder of temporary files.
    let spill = Spill::new(&std::env::temp_dir());
    let width = decoder.spec().hidden_size;
    for (number, &sample) in samples.iter().enumerate() {
        let mut writer = spill.writer(StatesDtype::F16, width);
        // Samples that began at different times do not fill their buffers in the same step.
        (0..number).try_for_each(|_| writer.push(&vec![0.0; width]))?;
        sink.with_states.start(sample, (), Some(KeptStates { writer, thinking_only: false }));
        sink.without.start(sample, (), None);
    }
    while sink.tokens_of(|sink| decoder.step(sink))? < batch as u64 {}
    for _ in 0..WARM_UP {
        decoder.step(&mut sink)?;
    }
    for step in 0..2 * pairs {
        let on = matches!(step % 4, 1 | 2);
        switch.store(on, Ordering::Relaxed);
        let start = Instant::now();
        decoder.step(&mut sink)?;
        let millis = start.elapsed().as_secs_f64() * 1e3;
        sink.with_states.check()?;
        if on { monitored.push(millis) } else { bare.push(millis) }
    }
    samples.into_iter().for_each(|sample| decoder.cancel(sample));
    Ok(decoder.run(&mut sink)?)
}

fn submit(
    decoder: &mut Decoder,
    batch: usize,
    max_new_tokens: usize,
    switch: &Arc<AtomicBool>,
) -> Result<Vec<SampleId>> {
    let spec = decoder.spec().clone();
    let theta: Vec<f32> = (0..spec.hidden_size).map(|i| ((i % 7) as f32 - 3.0) * 1e-4).collect();
    let shift: Arc<[f32]> = decoder.project(&theta)?.into();
    let reading = made_up_reading(spec.hidden_size)?;
    let mut samples = Vec::new();
    for seed in 0..batch {
        let request = SampleRequest {
            sampling: SamplingParams::GREEDY,
            seed: seed as u64,
            max_new_tokens,
            shift: Some(Arc::clone(&shift)),
            intervene: IntervenePhase::Thinking,
            reader: Box::new(Switched { switch: Arc::clone(switch), inner: reading.reader(None) }),
            policy: Box::new(Switched { switch: Arc::clone(switch), inner: Control::alpha(1.0) }),
            logit_bias: Vec::new(),
            stop_texts: Vec::new(),
        };
        let phase = PhaseTracker::after_prompt(&ThinkingMarkers::default(), "<think>");
        let tokens = made_up_tokens(&spec, seed, CONTEXT_TOKENS);
        samples.extend(decoder.submit(PromptRequest { tokens, phase, samples: vec![request] })?);
    }
    Ok(samples)
}

/// Acts while the switch is on; else like no vector at all.
struct Switched<T> {
    switch: Arc<AtomicBool>,
    inner: T,
}

impl<R: Reader> Reader for Switched<R> {
    fn read(&mut self, state: StateView<'_>) -> Reading {
        if self.switch.load(Ordering::Relaxed) { self.inner.read(state) } else { BlindReader.read(state) }
    }
}

impl Policy for Switched<Control> {
    fn control(&mut self, _: &Observation<'_>) -> Control {
        if self.switch.load(Ordering::Relaxed) { self.inner } else { Control::default() }
    }
}

/// Keeps states while the switch is on.
struct Sink {
    switch: Arc<AtomicBool>,
    with_states: Recorder<()>,
    without: Recorder<()>,
}

impl Sink {
    /// Tokens that came during an action.
    fn tokens_of<T, E>(&mut self, action: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<u64, E> {
        let tokens = |sink: &Self| sink.with_states.tokens + sink.without.tokens;
        let before = tokens(self);
        action(self)?;
        Ok(tokens(self) - before)
    }

    fn active(&mut self) -> &mut Recorder<()> {
        if self.switch.load(Ordering::Relaxed) { &mut self.with_states } else { &mut self.without }
    }
}

impl DecodeSink for Sink {
    fn token(&mut self, sample: SampleId, event: TokenEvent, hidden_post_norm: &[f32]) {
        self.active().token(sample, event, hidden_post_norm);
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        self.active().finish(sample, event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_median_is_made_of_ranks() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(median_interval(&values), (40.0, 60.0));
        assert_eq!(median_interval(&values[..3]), (0.0, 2.0));
    }
}
