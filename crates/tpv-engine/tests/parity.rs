//! The decoder against transformers on tiny random models: see `golden/make_golden.py` for what was computed.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::{ALL, Golden, argmax, device, largest_relative_error, load_on, on_cpu, with_options};
use tpv_engine::device::{DeviceChoice, DtypeChoice};
use tpv_engine::engine::{Engine, SequenceId, StepInput, StepOutput};
use tpv_engine::load::LoadOptions;

const TOLERANCE: f32 = 1e-4;

/// Greedy decoding of all prompts as one ragged batch; every step adds `shift` to the logits.
fn check_traces(name: &str, engine: &mut dyn Engine, golden: &Golden, steered: bool) {
    let spec = engine.spec().clone();
    let shift: Vec<f32> = golden.projected.iter().map(|w| if steered { w * golden.alpha } else { 0.0 }).collect();
    let traces = if steered { &golden.steered } else { &golden.plain };
    let sequences: Vec<SequenceId> = golden.prompts.iter().map(|_| engine.open().unwrap()).collect();
    let mut portions = golden.prompts.clone();
    let mut output = StepOutput::default();
    for step in 0..traces[0].tokens.len() {
        let inputs = sequences.iter().zip(&portions);
        let inputs: Vec<_> = inputs.map(|(&sequence, tokens)| StepInput { sequence, tokens, outputs: 1 }).collect();
        engine.step(&inputs, &mut output).unwrap();
        let states = output.hidden_post_norm.chunks(spec.hidden_size);
        let logits = output.logits.chunks(spec.vocab_size);
        for (index, (state, logits)) in states.zip(logits).enumerate() {
            let trace = &traces[index];
            for (row, at) in [0, trace.tokens.len() - 1].into_iter().enumerate() {
                if step == at {
                    let state_error = largest_relative_error(state, &trace.states[row]);
                    let logit_error = largest_relative_error(logits, &trace.logits[row]);
                    assert!(state_error < TOLERANCE, "{name}: state of prompt {index}, step {step}: {state_error}");
                    assert!(logit_error < TOLERANCE, "{name}: logits of prompt {index}, step {step}: {logit_error}");
                }
            }
            let shifted: Vec<f32> = logits.iter().zip(&shift).map(|(logit, shift)| logit + shift).collect();
            let token = argmax(&shifted);
            assert_eq!(token, trace.tokens[step], "{name}: prompt {index}, step {step}, steered {steered}");
            portions[index] = vec![token];
        }
    }
    sequences.into_iter().for_each(|sequence| engine.close(sequence));
    assert_eq!(engine.kv_tokens().0, 0, "{name}: closed sequences keep no memory");
}

#[test]
fn states_logits_and_greedy_tokens_are_those_of_transformers() {
    for name in ALL {
        let golden = Golden::read(name);
        let mut engine = load_on(device(), name).engine;
        check_traces(name, engine.as_mut(), &golden, false);
        check_traces(name, engine.as_mut(), &golden, true);
    }
}

#[test]
fn the_projection_is_the_head() {
    for name in ALL {
        let golden = Golden::read(name);
        let engine = load_on(device(), name).engine;
        let error = largest_relative_error(&engine.project(&golden.theta).unwrap(), &golden.projected);
        assert!(error < TOLERANCE, "{name}: {error}");
        assert!(engine.project(&golden.theta[1..]).is_err());
    }
}

/// How far the states after the prompts are from the golden ones: the length of the difference in units of theirs.
fn distance_of_states(name: &str, options: &LoadOptions) -> f32 {
    let golden = Golden::read(name);
    let mut engine = with_options(name, options).engine;
    let mut output = StepOutput::default();
    let sequences: Vec<SequenceId> = golden.prompts.iter().map(|_| engine.open().unwrap()).collect();
    let inputs = sequences.iter().zip(&golden.prompts);
    let inputs: Vec<_> = inputs.map(|(&sequence, tokens)| StepInput { sequence, tokens, outputs: 1 }).collect();
    engine.step(&inputs, &mut output).unwrap();
    let expected: Vec<f32> = golden.plain.iter().flat_map(|trace| trace.states[0].clone()).collect();
    let square = |sum: f32, x: f32| sum + x * x;
    let error = output.hidden_post_norm.iter().zip(&expected).map(|(a, b)| a - b).fold(0.0, square);
    (error / expected.iter().copied().fold(0.0, square)).sqrt()
}

/// Rounding to 8 bits leaves a small trace in states; a wrong layout would leave nothing of them.
#[test]
fn quantised_weights_stay_close() {
    for name in ALL {
        let q8_0 = LoadOptions { dtype: Some(DtypeChoice::Q8_0), ..on_cpu() };
        let distance = distance_of_states(name, &q8_0);
        assert!(distance > 1e-4 && distance < 0.1, "{name}: {distance}");
    }
}

/// Half floats, which CPUs do not compute with, round states in the same way.
#[test]
fn half_floats_stay_close() {
    if device() == DeviceChoice::Cpu {
        return eprintln!("skipped: half floats are for GPUs, and TPV_TEST_DEVICE names none");
    }
    for (name, (dtype, most)) in
        ALL.iter().flat_map(|name| [(DtypeChoice::F16, 0.01), (DtypeChoice::Bf16, 0.05)].map(|half| (name, half)))
    {
        let half = LoadOptions { dtype: Some(dtype), device: device(), ..on_cpu() };
        let distance = distance_of_states(name, &half);
        assert!(distance > 1e-5 && distance < most, "{name} in {dtype:?}: {distance}");
    }
}
