//! The conformance suite: what every [`Engine`] must do, as functions that any implementation's tests can call.

use crate::engine::{Engine, SequenceId, StepInput, StepOutput};
use crate::error::EngineError;

/// How far two computations of the same number may differ, relative to the largest magnitude of the row; 0 in f32 where
/// an engine promises that results do not depend on the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Between the same tokens alone and in a batch, or after a fork.
    pub batch: f32,
    /// Between a prompt read at once and in pieces.
    pub chunk: f32,
    /// Between the logits and `project(hidden)`.
    pub head: f32,
}

/// Runs every check; panics with a sentence on the first that fails. `tokens` must be in the vocabulary.
pub fn check_engine(make: &mut dyn FnMut() -> Box<dyn Engine>, tokens: &[u32], tolerance: Tolerance) {
    assert!(tokens.len() >= 12, "the suite needs at least twelve tokens");
    logits_are_the_projected_state(&mut *make(), tokens, tolerance.head);
    chunks_do_not_matter(&mut *make(), tokens, tolerance.chunk);
    neighbours_do_not_matter(&mut *make(), tokens, tolerance.batch);
    every_token_may_have_its_output(&mut *make(), tokens, tolerance.chunk);
    what_is_taken_back_was_never_there(&mut *make(), tokens, tolerance.chunk);
    forks_equal_their_source(&mut *make(), tokens, tolerance.batch);
    closed_sequences_free_their_memory(&mut *make(), tokens);
    errors_leave_sequences_alone(&mut *make(), tokens);
    projection_is_linear(&mut *make());
}

/// One sequence, one step, one row.
pub fn step_one(engine: &mut dyn Engine, sequence: SequenceId, tokens: &[u32]) -> StepOutput {
    let mut output = StepOutput::default();
    engine.step(&[StepInput { sequence, tokens, outputs: 1 }], &mut output).expect("a valid step");
    output
}

fn open_with(engine: &mut dyn Engine, tokens: &[u32]) -> (SequenceId, StepOutput) {
    let sequence = engine.open().expect("room for a sequence");
    let output = step_one(engine, sequence, tokens);
    (sequence, output)
}

fn assert_close(left: &[f32], right: &[f32], tolerance: f32, what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: lengths differ");
    let scale = left.iter().fold(1e-6f32, |scale, value| scale.max(value.abs()));
    for (place, (l, r)) in left.iter().zip(right).enumerate() {
        let close = (l - r).abs() <= tolerance * scale;
        assert!(close, "{what}: entry {place} is {l} and {r}, scale {scale}, tolerance {tolerance}");
    }
}

fn assert_same_output(left: &StepOutput, right: &StepOutput, tolerance: f32, what: &str) {
    assert_close(&left.hidden_post_norm, &right.hidden_post_norm, tolerance, &format!("{what} (states)"));
    assert_close(&left.logits, &right.logits, tolerance, &format!("{what} (logits)"));
}

fn row(output: &StepOutput, rows: usize, row: usize) -> StepOutput {
    let part = |values: &[f32]| {
        let width = values.len() / rows;
        values[row * width..(row + 1) * width].to_vec()
    };
    StepOutput { hidden_post_norm: part(&output.hidden_post_norm), logits: part(&output.logits) }
}

/// The state that is handed out is the one that the head reads.
fn logits_are_the_projected_state(engine: &mut dyn Engine, tokens: &[u32], tolerance: f32) {
    let (_, output) = open_with(engine, tokens);
    assert_eq!(output.hidden_post_norm.len(), engine.spec().hidden_size, "width of the state");
    assert_eq!(output.logits.len(), engine.spec().vocab_size, "length of the logits");
    let projected = engine.project(&output.hidden_post_norm).expect("a state has the right width");
    assert_close(&output.logits, &projected, tolerance, "logits against project(state)");
}

/// A prompt read token by token or in pieces gives the same as at once.
fn chunks_do_not_matter(engine: &mut dyn Engine, tokens: &[u32], tolerance: f32) {
    let (_, whole) = open_with(engine, tokens);
    for size in [1, 5] {
        let sequence = engine.open().expect("room for a sequence");
        let mut last = StepOutput::default();
        for chunk in tokens.chunks(size) {
            last = step_one(engine, sequence, chunk);
        }
        assert_eq!(engine.length(sequence), tokens.len(), "length after chunks of {size}");
        assert_same_output(&whole, &last, tolerance, &format!("chunks of {size} against the whole prompt"));
    }
}

/// A row does not depend on the other sequences of the step, be they prompts or single tokens.
fn neighbours_do_not_matter(engine: &mut dyn Engine, tokens: &[u32], tolerance: f32) {
    let (half, rest) = tokens.split_at(tokens.len() / 2);
    let (alone, _) = open_with(engine, half);
    let expected = step_one(engine, alone, &rest[..1]);
    let (together, _) = open_with(engine, half);
    let others: Vec<SequenceId> = (0..7).map(|n| open_with(engine, &tokens[n..n + 3]).0).collect();
    let silent = engine.open().expect("room for a sequence");
    let mut inputs = vec![StepInput { sequence: silent, tokens: rest, outputs: 0 }];
    for (n, &sequence) in others.iter().enumerate() {
        inputs.push(StepInput { sequence, tokens: &rest[..1 + n % 3], outputs: 1 });
    }
    inputs.insert(4, StepInput { sequence: together, tokens: &rest[..1], outputs: 1 });
    let mut output = StepOutput::default();
    engine.step(&inputs, &mut output).expect("a valid ragged step");
    assert_eq!(output.logits.len(), 8 * engine.spec().vocab_size, "one row for each input that wants output");
    assert_same_output(&expected, &row(&output, 8, 3), tolerance, "alone against in a ragged batch");
}

/// The rows of several tokens of one step are those of the tokens one by one, beside other inputs too.
fn every_token_may_have_its_output(engine: &mut dyn Engine, tokens: &[u32], tolerance: f32) {
    let (prompt, rest) = tokens.split_at(6);
    let (single, _) = open_with(engine, prompt);
    let expected: Vec<StepOutput> = rest.iter().map(|token| step_one(engine, single, &[*token])).collect();
    let (several, _) = open_with(engine, prompt);
    let (before, _) = open_with(engine, &tokens[..3]);
    let (after, _) = open_with(engine, &tokens[..4]);
    let inputs = [
        StepInput { sequence: before, tokens: &tokens[3..4], outputs: 1 },
        StepInput { sequence: several, tokens: rest, outputs: rest.len() - 1 },
        StepInput { sequence: after, tokens: &tokens[4..7], outputs: 2 },
    ];
    let mut output = StepOutput::default();
    engine.step(&inputs, &mut output).expect("a valid step");
    let rows = rest.len() + 2;
    assert_eq!(output.logits.len(), rows * engine.spec().vocab_size, "one row for each output that is wanted");
    for (place, expected) in expected.iter().enumerate().skip(1) {
        assert_same_output(expected, &row(&output, rows, place), tolerance, "one by one against several outputs");
    }
    let too_many = StepInput { sequence: several, tokens: &tokens[..1], outputs: 2 };
    assert!(engine.step(&[too_many], &mut output).is_err(), "no more outputs than tokens");
}

/// A sequence whose last tokens were taken back continues as if they had never come, and its forks keep theirs.
fn what_is_taken_back_was_never_there(engine: &mut dyn Engine, tokens: &[u32], tolerance: f32) {
    let (prompt, rest) = tokens.split_at(6);
    let (plain, _) = open_with(engine, prompt);
    let (changed, _) = open_with(engine, prompt);
    step_one(engine, changed, &tokens[..5]);
    let fork = engine.fork(changed).expect("a fork of an open sequence");
    engine.truncate(changed, prompt.len());
    assert_eq!((engine.length(changed), engine.length(fork)), (prompt.len(), prompt.len() + 5), "lengths");
    for token in &rest[..3] {
        let (expected, got) = (step_one(engine, plain, &[*token]), step_one(engine, changed, &[*token]));
        assert_same_output(&expected, &got, tolerance, "after tokens were taken back");
    }
    let (reference, _) = open_with(engine, prompt);
    step_one(engine, reference, &tokens[..5]);
    let (expected, got) = (step_one(engine, reference, &rest[..1]), step_one(engine, fork, &rest[..1]));
    assert_same_output(&expected, &got, tolerance, "a fork of what was taken back");
    engine.truncate(changed, 1000);
    assert_eq!(engine.length(changed), prompt.len() + 3, "a length that is not reached changes nothing");
    engine.close(changed);
    engine.truncate(changed, 0);
}

/// A fork continues like its source, and writing to one leaves the other alone.
fn forks_equal_their_source(engine: &mut dyn Engine, tokens: &[u32], tolerance: f32) {
    let (prompt, rest) = tokens.split_at(7);
    let (source, _) = open_with(engine, prompt);
    let fork = engine.fork(source).expect("a fork of an open sequence");
    assert_eq!(engine.length(fork), prompt.len(), "length of a fork");
    step_one(engine, fork, &[tokens[0], tokens[1]]);
    let (fresh, _) = open_with(engine, prompt);
    let expected = step_one(engine, fresh, &rest[..1]);
    let continued = step_one(engine, source, &rest[..1]);
    assert_same_output(&expected, &continued, tolerance, "source after its fork went another way");
    engine.close(source);
    let (other, _) = open_with(engine, prompt);
    step_one(engine, other, &[tokens[0], tokens[1]]);
    let expected = step_one(engine, other, &rest[1..2]);
    let continued = step_one(engine, fork, &rest[1..2]);
    assert_same_output(&expected, &continued, tolerance, "fork after its source was closed");
}

fn closed_sequences_free_their_memory(engine: &mut dyn Engine, tokens: &[u32]) {
    let (before, _) = engine.kv_tokens();
    let (sequence, _) = open_with(engine, tokens);
    assert!(engine.kv_tokens().0 > before, "an open sequence takes memory");
    let fork = engine.fork(sequence).expect("a fork of an open sequence");
    engine.close(sequence);
    engine.close(fork);
    engine.close(fork);
    assert_eq!(engine.kv_tokens().0, before, "closed sequences free their memory");
    assert_eq!(engine.length(sequence), 0, "a closed sequence has no length");
}

fn errors_leave_sequences_alone(engine: &mut dyn Engine, tokens: &[u32]) {
    let (sequence, _) = open_with(engine, &tokens[..5]);
    let (reference, _) = open_with(engine, &tokens[..5]);
    let beyond = [engine.spec().vocab_size as u32];
    let mut output = StepOutput::default();
    let inputs = [
        StepInput { sequence, tokens: &tokens[5..6], outputs: 1 },
        StepInput { sequence: reference, tokens: &beyond, outputs: 1 },
    ];
    let error = engine.step(&inputs, &mut output).expect_err("a token outside the vocabulary");
    assert!(matches!(error, EngineError::Request(_)), "a token outside the vocabulary gives {error:?}");
    assert_eq!(engine.length(sequence), 5, "a failed step appends nothing");
    let (left, right) = (step_one(engine, sequence, &tokens[5..6]), step_one(engine, reference, &tokens[5..6]));
    assert_same_output(&left, &right, 0.0, "after a failed step");
    let closed = engine.open().expect("room for a sequence");
    engine.close(closed);
    let input = [StepInput { sequence: closed, tokens: &tokens[..1], outputs: 1 }];
    assert!(engine.step(&input, &mut output).is_err(), "a closed sequence cannot be stepped");
    assert!(engine.fork(closed).is_err(), "a closed sequence cannot be forked");
}

fn projection_is_linear(engine: &mut dyn Engine) {
    let d = engine.spec().hidden_size;
    let a: Vec<f32> = (0..d).map(|i| ((i * 37 % 19) as f32 - 9.0) / 9.0).collect();
    let twice: Vec<f32> = a.iter().map(|x| 2.0 * x).collect();
    let project = |v: &[f32]| engine.project(v).expect("the width is right");
    let doubled: Vec<f32> = project(&a).iter().map(|x| 2.0 * x).collect();
    assert_close(&doubled, &project(&twice), 1e-5, "project(2 v) against 2 project(v)");
    assert!(project(&vec![0.0; d]).iter().all(|&x| x == 0.0), "project(0) = 0");
    assert!(engine.project(&a[1..]).is_err(), "a vector of another width is refused");
}
