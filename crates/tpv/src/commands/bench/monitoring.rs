//! What reading, shift and state capture add to a step of the decode loop.
//!
//! One run, in which monitoring is switched on for every other step (off, on, on, off, and one that is not counted, so that
//! what a sequence does every 32 steps, to begin a new page of its KV memory, meets all of them): neighbouring steps have the
//! same sequences, caches and clock speed. Some steps, or many where they are short, make a round, so that what is done once in
//! many steps (states are written to the disk when a buffer is full) is in nearly every round; its steps with monitoring
//! over those without are its ratio, and the cost is the median of the rounds' ratios. Tokens are chosen greedily, so that
//! the flat distributions of random weights, the worst case of top-p sampling, hide nothing.

use super::{CONTEXT_TOKENS, made_up_tokens};
use crate::model::advice_on_failure;
use crate::reading_cost::made_up_reading;
use crate::recorder::{KeptStates, Recorder};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tpv_core::bootstrap::median;
use tpv_core::event::TokenEvent;
use tpv_core::phase::{PhaseTracker, ThinkingMarkers};
use tpv_core::policy::{Control, Observation, Policy};
use tpv_core::reading::{BlindReader, Reader, Reading, StateView};
use tpv_core::sampling::SamplingParams;
use tpv_data::run::StatesDtype;
use tpv_data::states::Spill;
use tpv_engine::decode::{Decoder, PromptRequest, SampleId, SampleRequest, StateSink};

/// Rounds are collected for at least so long.
const LEAST_SECS: f64 = 3.0;
/// A round takes about so long, but at least four steps.
const ROUND_SECS: f64 = 20e-3;
/// Samples of a problem, which share a buffer of states.
const SAMPLES_OF_A_PROBLEM: usize = 5;
/// Steps before the first round of a run.
const WARM_UP: usize = 4;
/// Steps that a run may take until all its sequences generate.
const MOST_PREFILL_STEPS: usize = 64;

/// Steps of the loop, bare and monitored: of each round the milliseconds of a step.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Monitoring {
    /// Median milliseconds of a bare step.
    pub bare_ms: f64,
    /// Median milliseconds of a monitored step.
    pub monitored_ms: f64,
    /// Median of monitored over bare within rounds, minus 1.
    pub cost: f64,
    /// Its interval of 95 %, from the ranks of the rounds.
    pub cost_interval: (f64, f64),
    /// Rounds measured.
    pub rounds: usize,
}

/// Measures at least so many steps of either kind, which take `step_secs` each.
pub fn measure(decoder: &mut Decoder, batch: usize, steps: usize, step_secs: f64) -> Result<Monitoring> {
    let start = Instant::now();
    let fours = ((ROUND_SECS / step_secs) as usize).clamp(4, (2 * steps).max(4)) / 4;
    let rounds = Rounds { fours, count: (2 * steps).div_ceil(4 * fours) };
    let (mut bare, mut monitored) = (Vec::new(), Vec::new());
    // As in a run of many problems, whose temporary files are used again: the first of them does not count.
    let spill = Spill::new(&std::env::temp_dir());
    run(decoder, batch, rounds, &spill, &mut Vec::new(), &mut Vec::new())?;
    while bare.is_empty() || start.elapsed().as_secs_f64() < LEAST_SECS {
        run(decoder, batch, rounds, &spill, &mut bare, &mut monitored)?;
    }
    let mut ratios: Vec<f64> = bare.iter().zip(&monitored).map(|(bare, monitored)| monitored / bare - 1.0).collect();
    ratios.sort_by(f64::total_cmp);
    let median = |values| median(values).context("no round was made");
    Ok(Monitoring {
        bare_ms: median(bare)?,
        monitored_ms: median(monitored)?,
        cost: median(ratios.clone())?,
        cost_interval: median_interval(&ratios),
        rounds: ratios.len(),
    })
}

/// The 95 % interval of the median of sorted values: the number below the median is binomial, whatever they are.
fn median_interval(sorted: &[f64]) -> (f64, f64) {
    let (middle, reach) = (sorted.len() as f64 / 2.0, 0.98 * (sorted.len() as f64).sqrt());
    let at = |rank: f64| sorted[(rank.max(0.0) as usize).min(sorted.len() - 1)];
    (at((middle - reach).floor()), at((middle + reach).ceil()))
}

/// How a run is divided.
#[derive(Clone, Copy)]
struct Rounds {
    /// Fours of steps in a round.
    fours: usize,
    count: usize,
}

fn run(
    decoder: &mut Decoder,
    batch: usize,
    rounds: Rounds,
    spill: &Arc<Spill>,
    bare: &mut Vec<f64>,
    monitored: &mut Vec<f64>,
) -> Result<()> {
    let switch = Arc::new(AtomicBool::new(false));
    let max_new_tokens = WARM_UP + 5 * rounds.fours * rounds.count + MOST_PREFILL_STEPS;
    let mut kept = Vec::new();
    while kept.len() < batch {
        let log = spill.log(StatesDtype::F16, decoder.spec().hidden_size);
        let count = SAMPLES_OF_A_PROBLEM.min(batch - kept.len());
        kept.extend((0..count).map(|_| KeptStates::new(log.writer(), false)));
    }
    let samples = submit(decoder, &kept, max_new_tokens, &switch)?;
    let mut sink = Recorder::new();
    samples.iter().zip(kept).for_each(|(&sample, kept)| sink.start(sample, (), Some(kept)));
    loop {
        let before = sink.tokens;
        decoder.step(&mut sink)?;
        if sink.tokens - before >= batch as u64 {
            break;
        }
        if decoder.samples_in_flight() < batch {
            let advice = advice_on_failure(&decoder.spec().dtype);
            bail!("the model's scores are no numbers: nothing can be measured; {advice}");
        }
    }
    for _ in 0..WARM_UP {
        decoder.step(&mut sink)?;
    }
    for _ in 0..rounds.count {
        let mut millis = [0.0; 2];
        for _ in 0..rounds.fours {
            for on in [false, true, true, false] {
                switch.store(on, Ordering::Relaxed);
                let start = Instant::now();
                decoder.step(&mut sink)?;
                millis[usize::from(on)] += start.elapsed().as_secs_f64() * 1e3;
            }
            decoder.step(&mut sink)?;
        }
        let [off, on] = millis.map(|millis| millis / (2 * rounds.fours) as f64);
        bare.push(off);
        monitored.push(on);
    }
    samples.into_iter().for_each(|sample| decoder.cancel(sample));
    Ok(decoder.run(&mut sink)?)
}

fn submit(
    decoder: &mut Decoder,
    kept: &[Arc<KeptStates>],
    max_new_tokens: usize,
    switch: &Arc<AtomicBool>,
) -> Result<Vec<SampleId>> {
    let spec = decoder.spec().clone();
    let theta: Vec<f32> = (0..spec.hidden_size).map(|i| ((i % 7) as f32 - 3.0) * 1e-4).collect();
    let shift: Arc<[f32]> = decoder.project(&theta)?.into();
    let reading = made_up_reading(spec.hidden_size)?;
    let mut samples = Vec::new();
    for (seed, kept) in kept.iter().enumerate() {
        let request = SampleRequest {
            shift: Some(Arc::clone(&shift)),
            reader: Box::new(Switched { switch: Arc::clone(switch), inner: reading.reader(None) }),
            policy: Box::new(Switched { switch: Arc::clone(switch), inner: Control::alpha(1.0) }),
            states: Some(Arc::new(Switched { switch: Arc::clone(switch), inner: Arc::clone(kept) })),
            ..SampleRequest::new(SamplingParams::GREEDY, seed as u64, max_new_tokens)
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

impl StateSink for Switched<Arc<KeptStates>> {
    fn keep(&self, event: &TokenEvent, hidden_post_norm: &[f32]) -> Result<(), String> {
        if self.switch.load(Ordering::Relaxed) { self.inner.keep(event, hidden_post_norm) } else { Ok(()) }
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
