//! In f32 a sequence's states and logits are the same bits whatever its neighbours and however its tokens were fed in.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::{ALL, load, on_cpu, with_options};
use std::collections::BTreeMap;
use std::sync::Arc;
use tpv_core::event::{FinishEvent, TokenEvent};
use tpv_core::phase::{PhaseTracker, ThinkingMarkers};
use tpv_core::sampling::SamplingParams;
use tpv_engine::decode::{DecodeLimits, DecodeSink, Decoder, DraftLimits, PromptRequest, SampleId, SampleRequest};
use tpv_engine::device::DtypeChoice;
use tpv_engine::engine::{Engine, SequenceId, StepInput, StepOutput};
use tpv_engine::error::EngineError;
use tpv_engine::kv::PAGE_TOKENS;
use tpv_engine::load::LoadOptions;
use tpv_engine::scripted::ScriptedVocabulary;

/// Tokens of a made-up sequence.
fn tokens(seed: usize, length: usize) -> Vec<u32> {
    (0..length).map(|i| ((seed * 31 + i * 17 + i * i) % 94 + 2) as u32).collect()
}

fn one_step(engine: &mut dyn Engine, sequence: SequenceId, tokens: &[u32]) -> StepOutput {
    let mut output = StepOutput::default();
    engine.step(&[StepInput { sequence, tokens, outputs: 1 }], &mut output).unwrap();
    output
}

/// The outputs after the prompt and after each further token, one sequence alone.
fn alone(engine: &mut dyn Engine, prompt: &[u32], further: &[u32]) -> Vec<StepOutput> {
    let sequence = engine.open().unwrap();
    let mut outputs = vec![one_step(engine, sequence, prompt)];
    outputs.extend(further.iter().map(|token| one_step(engine, sequence, &[*token])));
    engine.close(sequence);
    outputs
}

fn assert_same_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    assert!(got.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}");
}

#[test]
fn a_trace_is_the_same_alone_and_among_eight() {
    for name in ALL {
        let mut engine = load(name).engine;
        let (d, v) = (engine.spec().hidden_size, engine.spec().vocab_size);
        let prompts: Vec<Vec<u32>> = (0..8).map(|s| tokens(s, 1 + 11 * s)).collect();
        let further: Vec<Vec<u32>> = (0..8).map(|s| tokens(s + 100, 6)).collect();
        let expected: Vec<_> = prompts.iter().zip(&further).map(|(p, f)| alone(engine.as_mut(), p, f)).collect();
        let sequences: Vec<_> = prompts.iter().map(|_| engine.open().unwrap()).collect();
        let mut output = StepOutput::default();
        for step in 0..7 {
            let portion = |s: usize| if step == 0 { &prompts[s][..] } else { &further[s][step - 1..step] };
            let inputs: Vec<_> =
                (0..8).map(|s| StepInput { sequence: sequences[s], tokens: portion(s), outputs: 1 }).collect();
            engine.step(&inputs, &mut output).unwrap();
            for (s, expected) in expected.iter().enumerate() {
                let what = format!("{name}, sequence {s}, step {step}");
                assert_same_bits(&what, &output.hidden_post_norm[s * d..(s + 1) * d], &expected[step].hidden_post_norm);
                assert_same_bits(&what, &output.logits[s * v..(s + 1) * v], &expected[step].logits);
            }
        }
    }
}

/// A resumed trace feeds prompt and answer at once; a chunked prefill feeds the prompt in portions.
#[test]
fn a_trace_is_the_same_in_any_portions() {
    for name in ALL {
        let mut engine = load(name).engine;
        let (prompt, further) = (tokens(1, 45), tokens(2, 40));
        let expected = alone(engine.as_mut(), &prompt, &further);
        let all = [prompt, further].concat();
        for portion in [1, 7, 32, 85] {
            let sequence = engine.open().unwrap();
            let outputs: Vec<_> = all.chunks(portion).map(|part| one_step(engine.as_mut(), sequence, part)).collect();
            let (last, expected) = (outputs.last().unwrap(), expected.last().unwrap());
            assert_same_bits(&format!("{name} by {portion}"), &last.hidden_post_norm, &expected.hidden_post_norm);
            assert_same_bits(&format!("{name} by {portion}"), &last.logits, &expected.logits);
            engine.close(sequence);
        }
    }
}

#[test]
fn forks_go_their_own_ways_from_a_shared_prompt() {
    for name in ALL {
        let mut engine = load(name).engine;
        let prompt = tokens(3, PAGE_TOKENS + 9);
        let source = engine.open().unwrap();
        one_step(engine.as_mut(), source, &prompt);
        let before = engine.kv_tokens().0;
        let forks: Vec<_> = (0..4).map(|_| engine.fork(source).unwrap()).collect();
        assert_eq!(engine.kv_tokens().0, before, "{name}: forks share the prompt's memory");
        for (index, &fork) in forks.iter().enumerate() {
            let further = tokens(index + 50, 5);
            let expected = alone(engine.as_mut(), &prompt, &further);
            for (step, token) in further.iter().enumerate() {
                let output = one_step(engine.as_mut(), fork, &[*token]);
                assert_same_bits(&format!("{name}, fork {index}"), &output.logits, &expected[step + 1].logits);
            }
        }
        assert_eq!(engine.length(source), prompt.len());
        let expected = alone(engine.as_mut(), &prompt, &[5]);
        let output = one_step(engine.as_mut(), source, &[5]);
        assert_same_bits(&format!("{name}, source"), &output.logits, &expected[1].logits);
    }
}

#[test]
fn rows_come_only_for_inputs_that_want_output() {
    let mut engine = load("llama").engine;
    let expected = alone(engine.as_mut(), &tokens(1, 20), &[]);
    let sequences: Vec<_> = (0..3).map(|_| engine.open().unwrap()).collect();
    let parts: Vec<_> = (0..3).map(|s| tokens(s, 20)).collect();
    let inputs: Vec<_> =
        (0..3).map(|s| StepInput { sequence: sequences[s], tokens: &parts[s], outputs: usize::from(s == 1) }).collect();
    let mut output = StepOutput::default();
    engine.step(&inputs, &mut output).unwrap();
    assert_same_bits("the middle one", &output.logits, &expected[0].logits);
    let silent = StepInput { sequence: sequences[0], tokens: &[4], outputs: 0 };
    engine.step(&[silent], &mut output).unwrap();
    assert!(output.logits.is_empty() && output.hidden_post_norm.is_empty());
    assert_eq!(engine.length(sequences[0]), 21);
}

#[test]
fn a_full_memory_is_an_error_that_changes_nothing() {
    let options = LoadOptions { dtype: Some(DtypeChoice::F32), kv_tokens: Some(2 * PAGE_TOKENS), ..on_cpu() };
    let mut engine = with_options("llama", &options).engine;
    let (a, b) = (engine.open().unwrap(), engine.open().unwrap());
    one_step(engine.as_mut(), a, &tokens(0, PAGE_TOKENS));
    let too_much = tokens(1, PAGE_TOKENS + 1);
    let inputs =
        [StepInput { sequence: a, tokens: &[5], outputs: 1 }, StepInput { sequence: b, tokens: &too_much, outputs: 1 }];
    let result = engine.step(&inputs, &mut StepOutput::default());
    assert!(matches!(result, Err(EngineError::KvMemoryFull { .. })));
    assert_eq!((engine.length(a), engine.length(b)), (PAGE_TOKENS, 0));
    assert_eq!(engine.kv_tokens(), (PAGE_TOKENS, Some(2 * PAGE_TOKENS)));
    let after = one_step(engine.as_mut(), a, &[5]);
    let expected = load("llama").engine;
    let mut expected = expected;
    let expected = alone(expected.as_mut(), &tokens(0, PAGE_TOKENS), &[5]);
    assert_same_bits("after the refusal", &after.logits, &expected[1].logits);
}

/// Samples that were paused, and read their tokens again, write what they write in a memory that is large enough.
#[test]
fn what_was_admitted_never_runs_out_of_memory() {
    let vocabulary = || Arc::new(ScriptedVocabulary::new(&["x"; 96], 96, &[1]));
    let limits = DecodeLimits {
        drafts: DraftLimits { tokens: 9, rows: usize::MAX, shared: true },
        tokens_ahead: 1,
        prefill_chunk: 20,
        ..DecodeLimits::default()
    };
    let write = |name: &str, dtype, pages: usize| {
        let kv_tokens = Some(pages * PAGE_TOKENS);
        let options = LoadOptions { dtype: Some(dtype), kv_tokens, ..on_cpu() };
        let mut decoder = Decoder::new(with_options(name, &options).engine, vocabulary(), limits);
        for prompt in 0..3 {
            let sampling = SamplingParams { temperature: 0.8, top_p: 0.95, top_k: 0 };
            let samples = (0..2).map(|seed| SampleRequest::new(sampling, seed, 3 * PAGE_TOKENS)).collect();
            let phase = PhaseTracker::after_prompt(&ThinkingMarkers::default(), "<think>");
            let tokens = tokens(prompt, PAGE_TOKENS / 2 + 1 + prompt);
            decoder.submit(PromptRequest { tokens, phase, samples }).unwrap();
        }
        let mut written = Written::default();
        while decoder.step(&mut written).unwrap() {
            assert!(decoder.kv_tokens().0 <= pages * PAGE_TOKENS);
        }
        (written.0, decoder.pauses())
    };
    for (name, dtype) in [("llama", DtypeChoice::F32), ("qwen2_window", DtypeChoice::F32), ("llama", DtypeChoice::Q8_0)]
    {
        let (expected, pauses) = write(name, dtype, 100);
        assert_eq!(pauses, 0);
        assert!(expected.len() == 6 && expected.values().all(|tokens| tokens.len() == 3 * PAGE_TOKENS));
        for pages in [4, 6, 9] {
            let (written, pauses) = write(name, dtype, pages);
            assert!(pauses > 0, "{pages} pages");
            assert!(written == expected, "{name} {dtype:?}, {pages} pages");
        }
    }
}

/// The tokens of each sample.
#[derive(Default)]
struct Written(BTreeMap<SampleId, Vec<u32>>);

impl DecodeSink for Written {
    fn token(&mut self, sample: SampleId, event: TokenEvent) {
        self.0.entry(sample).or_default().push(event.token);
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        assert_eq!(event.generated_tokens as usize, self.0[&sample].len());
    }
}

#[test]
fn impossible_steps_are_refused_in_words() {
    let mut engine = load("llama").engine;
    let a = engine.open().unwrap();
    let mut refused = |inputs: &[(SequenceId, &[u32])]| {
        let inputs: Vec<_> =
            inputs.iter().map(|&(sequence, tokens)| StepInput { sequence, tokens, outputs: 1 }).collect();
        engine.step(&inputs, &mut StepOutput::default()).unwrap_err().to_string()
    };
    assert!(refused(&[(a, &[])]).contains("without tokens"));
    assert!(refused(&[(a, &[96])]).contains("outside the vocabulary"));
    assert!(refused(&[(a, &[3]), (a, &[4])]).contains("two inputs"));
    assert!(refused(&[(SequenceId(77), &[3])]).contains("no sequence 77"));
    assert!(refused(&[(a, &[2; 257])]).contains("256 positions"));
    assert_eq!(engine.length(a), 0);
}
