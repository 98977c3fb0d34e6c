//! The decode loop on the scripted engine: order of reading and shift, phases, ends, batching, control from outside.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_core::phase::{Phase, PhaseTracker, ThinkingMarkers};
use tpv_core::policy::{Constant, Control, Observation, Policy};
use tpv_core::reading::{Reader, Reading, StateView};
use tpv_core::sampling::SamplingParams;
use tpv_core::vector::dot;
use tpv_engine::conformance::{Tolerance, check_engine};
use tpv_engine::decode::{
    DecodeLimits, DecodeSink, Decoder, DraftLimits, IntervenePhase, PromptRequest, SampleId, SampleRequest, StateSink,
    StopText,
};
use tpv_engine::engine::Engine;
use tpv_engine::error::EngineError;
use tpv_engine::scripted::{ScriptedEngine, ScriptedStep, ScriptedVocabulary};

const THINK: u32 = 0;
const THINK_END: u32 = 1;
const ANSWER: u32 = 2;
const END: u32 = 3;
const WAIT: u32 = 5;
const TEXTS: [&str; 6] = ["hm ", "</think>", "42 ", "", "a", "Wait"];

/// Thinks for as many tokens as the first token of the prompt says, then answers with two tokens.
fn script(tokens: &[u32]) -> ScriptedStep {
    think_for(10 + tokens[0] as usize, tokens)
}

/// Thinks for ten times as long.
fn long_script(tokens: &[u32]) -> ScriptedStep {
    think_for(10 + 10 * tokens[0] as usize, tokens)
}

fn think_for(thinking: usize, tokens: &[u32]) -> ScriptedStep {
    let generated = tokens.len().saturating_sub(3);
    let next = match tokens.iter().position(|&token| token == THINK_END) {
        None if generated + 1 < thinking => THINK,
        None => THINK_END,
        Some(end) if tokens.len() - end <= 2 => ANSWER,
        Some(_) => END,
    };
    ScriptedStep { next, progress: (generated + 1) as f32 / thinking as f32 }
}

fn engine() -> ScriptedEngine {
    ScriptedEngine::new(TEXTS.len(), THINK_END, script)
}

fn limits(max_batch: usize, prefill_chunk: usize) -> DecodeLimits {
    DecodeLimits { max_batch, prefill_chunk, ..DecodeLimits::default() }
}

fn long_engine(capacity: usize) -> ScriptedEngine {
    ScriptedEngine::new(TEXTS.len(), THINK_END, long_script).with_capacity(capacity)
}

/// With drafts, so that all that is said of the loop here holds with them.
fn decoder(engine: ScriptedEngine, limits: DecodeLimits) -> Decoder {
    let limits = DecodeLimits { drafts: DRAFTS, ..limits };
    with_limits(engine, limits)
}

const DRAFTS: DraftLimits = DraftLimits { tokens: 4, rows: usize::MAX, shared: true };

fn with_limits(engine: ScriptedEngine, limits: DecodeLimits) -> Decoder {
    Decoder::new(Box::new(engine), Arc::new(ScriptedVocabulary::new(&TEXTS, END, &[THINK_END])), limits)
}

/// Reads the scripted progress from the state that it is shown.
struct ScriptedReader(Vec<f32>);

impl Reader for ScriptedReader {
    fn read(&mut self, state: StateView<'_>) -> Reading {
        let raw = dot(&self.0, state.hidden_post_norm);
        let progress = Some(raw.min(0.99));
        Reading { position: state.position, progress_raw: Some(raw), progress, ..Reading::default() }
    }
}

fn sample(alpha: f32) -> SampleRequest {
    let engine = engine();
    SampleRequest {
        shift: Some(engine.project(&engine.theta()).unwrap().into()),
        reader: Box::new(ScriptedReader(engine.theta())),
        policy: Box::new(Constant(tpv_core::policy::Alpha(alpha))),
        ..SampleRequest::new(SamplingParams::GREEDY, 0, 100)
    }
}

fn prompt(first: u32, samples: Vec<SampleRequest>) -> PromptRequest {
    let phase = PhaseTracker::after_prompt(&ThinkingMarkers::default(), "Why?<think>\n");
    PromptRequest { tokens: vec![first, 4, 5], phase, samples }
}

#[derive(Default)]
struct Record {
    tokens: BTreeMap<SampleId, Vec<TokenEvent>>,
    finishes: BTreeMap<SampleId, FinishEvent>,
    in_flight: usize,
    most_in_flight: usize,
    /// Reports of how much of a prompt was read.
    prompt_reports: usize,
}

impl DecodeSink for Record {
    fn prompt(&mut self, _: SampleId, _: usize, _: usize) {
        self.prompt_reports += 1;
    }

    fn token(&mut self, sample: SampleId, event: TokenEvent) {
        if event.index == 0 {
            self.in_flight += 1;
            self.most_in_flight = self.most_in_flight.max(self.in_flight);
        }
        self.tokens.entry(sample).or_default().push(event);
    }

    fn finish(&mut self, sample: SampleId, event: FinishEvent) {
        self.in_flight -= usize::from(event.generated_tokens > 0);
        assert!(self.finishes.insert(sample, event).is_none(), "a sample ends once");
    }
}

impl Record {
    /// What came of a sample, but for the times.
    fn events(&self, id: SampleId) -> Vec<TokenEvent> {
        self.tokens[&id].iter().cloned().map(without_times).collect()
    }
}

fn run(decoder: &mut Decoder, request: PromptRequest) -> (Vec<SampleId>, Record) {
    let ids = decoder.submit(request).unwrap();
    let mut record = Record::default();
    decoder.run(&mut record).unwrap();
    (ids, record)
}

fn without_times(mut event: TokenEvent) -> TokenEvent {
    event.elapsed_secs = 0.0;
    event.tokens_per_sec = None;
    event.remaining_secs = None;
    event
}

#[test]
fn the_scripted_engine_conforms() {
    let tolerance = Tolerance { batch: 0.0, chunk: 0.0, head: 0.0 };
    check_engine(&mut || Box::new(engine()), &[2, 4, 5, 0, 0, 0, 4, 5, 0, 4, 0, 0, 5, 4], tolerance);
}

#[test]
fn a_thought_is_followed_to_its_answer() {
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![sample(0.0)]));
    let (tokens, finish) = (&record.tokens[&ids[0]], &record.finishes[&ids[0]]);
    assert_eq!((finish.reason, finish.thinking_tokens, finish.generated_tokens), (FinishReason::Stop, 10, 13));
    assert!(finish.thinking_ended);
    let phases: Vec<Phase> = tokens.iter().map(|event| event.phase).collect();
    assert_eq!(phases, [vec![Phase::Thinking; 10], vec![Phase::Answer; 3]].concat());
    let read: Vec<f32> = tokens.iter().filter_map(|event| event.reading?.progress_raw).collect();
    let expected: Vec<f32> = (1..=10).map(|j| j as f32 / 10.0).collect();
    assert_eq!(read, expected, "row j of the states predicts token j, so its label is j / N");
    let text: String = tokens.iter().map(|event| event.text.as_str()).collect();
    assert_eq!(text, "hm ".repeat(9) + "</think>42 42 ");
}

/// Breaks at its third token.
struct Breaking(usize);

impl Policy for Breaking {
    fn control(&mut self, _: &Observation<'_>) -> Control {
        self.0 += 1;
        assert!(self.0 < 3, "broken on purpose");
        Control::default()
    }
}

#[test]
fn a_policy_that_panics_costs_its_own_sample_alone() {
    let (alone, healthy) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![sample(0.0)]));
    let broken = SampleRequest { policy: Box::new(Breaking(0)), ..sample(0.0) };
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![broken, sample(0.0)]));
    assert_eq!((record.finishes[&ids[0]].reason, record.tokens[&ids[0]].len()), (FinishReason::Failed, 2));
    let tokens = |record: &Record, id| record.tokens[id].iter().map(|event| event.token).collect::<Vec<u32>>();
    assert_eq!(tokens(&record, &ids[1]), tokens(&healthy, &alone[0]));
    assert_eq!(record.finishes[&ids[1]].reason, FinishReason::Stop);
}

/// Keeps what each state says of the progress, by the token that it predicts, until there is no room.
#[derive(Default)]
struct Keeping {
    room: usize,
    kept: Mutex<Vec<(u32, f32)>>,
}

impl StateSink for Keeping {
    fn keep(&self, event: &TokenEvent, hidden_post_norm: &[f32]) -> Result<(), String> {
        let kept = &mut *self.kept.lock().unwrap();
        if kept.len() == self.room {
            return Err("no room".into());
        }
        kept.push((event.index, dot(&engine().theta(), hidden_post_norm)));
        Ok(())
    }
}

#[test]
fn states_are_kept_with_the_tokens_that_they_predict_and_unshifted() {
    let [all, full] = [100, 3].map(|room| Arc::new(Keeping { room, ..Keeping::default() }));
    let keeping = |keeping: &Arc<Keeping>, alpha| SampleRequest { states: Some(keeping.clone()), ..sample(alpha) };
    let samples = vec![keeping(&all, 0.1), keeping(&full, 0.0), sample(0.0)];
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, samples));
    let expected: Vec<(u32, f32)> = (0..13).map(|index| (index, (index + 1) as f32 / 10.0)).collect();
    assert_eq!(*all.kept.lock().unwrap(), expected);
    assert_eq!(*full.kept.lock().unwrap(), expected[..3]);
    let failed = &record.finishes[&ids[1]];
    assert_eq!((failed.reason, failed.error.as_deref()), (FinishReason::Failed, Some("no room")));
    assert_eq!([&ids[0], &ids[2]].map(|id| record.finishes[id].reason), [FinishReason::Stop; 2]);
}

#[test]
fn progress_is_complete_only_at_the_end() {
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![sample(0.0)]));
    let progress: Vec<f32> = record.tokens[&ids[0]].iter().filter_map(|event| event.reading?.progress).collect();
    let (last, before) = progress.split_last().unwrap();
    assert_eq!(*last, 1.0);
    assert!(before.iter().all(|&progress| progress < 1.0));
}

#[test]
fn the_reading_is_taken_before_the_shift() {
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![sample(10.0)]));
    let first = &record.tokens[&ids[0]][0];
    assert_eq!(first.alpha, 10.0);
    assert_eq!(first.reading.unwrap().progress_raw, Some(0.1), "the shift does not inflate the reading");
}

#[test]
fn alpha_shortens_and_acts_only_while_thinking() {
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![sample(17.0)]));
    let tokens = &record.tokens[&ids[0]];
    assert_eq!(tokens[0].token, THINK_END);
    assert!(tokens.iter().all(|event| (event.alpha != 0.0) == (event.phase == Phase::Thinking)));
    let everywhere = SampleRequest { intervene: IntervenePhase::All, max_new_tokens: 7, ..sample(17.0) };
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![everywhere]));
    assert!(record.tokens[&ids[0]].iter().all(|event| event.token == THINK_END), "as the paper's scripts do");
}

#[test]
fn alpha_zero_equals_no_vector() {
    let without = SampleRequest { shift: None, ..sample(50.0) };
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(3, vec![sample(0.0), without]));
    assert_eq!(record.events(ids[0]), record.events(ids[1]));
}

#[test]
fn a_sample_does_not_depend_on_its_neighbours_or_the_chunk_size() {
    let alone: Vec<Vec<TokenEvent>> = (0..4)
        .map(|first| {
            let (ids, mut record) =
                run(&mut decoder(engine(), DecodeLimits::default()), prompt(first, vec![sample(0.0)]));
            record.tokens.remove(&ids[0]).unwrap().into_iter().map(without_times).collect()
        })
        .collect();
    for limits in [limits(3, 1), limits(64, 4)] {
        let mut decoder = decoder(engine(), limits);
        let ids: Vec<SampleId> =
            (0..12).map(|number| decoder.submit(prompt(number % 4, vec![sample(0.0)])).unwrap()[0]).collect();
        let mut record = Record::default();
        decoder.run(&mut record).unwrap();
        assert!(record.most_in_flight <= limits.max_batch);
        for (number, id) in ids.iter().enumerate() {
            let events: Vec<TokenEvent> = record.tokens[id].iter().cloned().map(without_times).collect();
            assert_eq!(events, alone[number % 4]);
        }
        assert_eq!(decoder.kv_tokens().0, 0, "everything was freed");
    }
}

#[test]
fn samples_of_one_prompt_share_its_prefill_and_may_outnumber_the_batch() {
    let mut decoder = decoder(engine(), limits(4, 512));
    let (ids, record) = run(&mut decoder, prompt(1, (0..10).map(|_| sample(0.0)).collect()));
    assert_eq!((ids.len(), record.finishes.len()), (10, 10));
    assert_eq!(record.most_in_flight, 4);
    assert_eq!(record.prompt_reports, 10, "each is told of it");
    let engine = engine();
    let read = engine.tokens_read();
    let one = || SampleRequest { max_new_tokens: 1, ..sample(0.0) };
    let request = prompt(1, (0..10).map(|_| one()).collect());
    let length = request.tokens.len();
    let (ids, _) = run(&mut with_limits(engine, limits(4, 512)), request);
    assert_eq!((ids.len(), read.load(Ordering::Relaxed)), (10, length), "the prompt is read once for all of them");
}

#[test]
fn samples_enter_one_by_one_as_slots_become_free() {
    let mut decoder = with_limits(engine(), limits(3, 512));
    let mut record = Record::default();
    // Two prompts whose samples end at different times.
    let limited = |limit| SampleRequest { max_new_tokens: limit, ..sample(0.0) };
    let mut ids = decoder.submit(prompt(5, [2, 9, 4, 7, 3].map(limited).into())).unwrap();
    ids.extend(decoder.submit(prompt(5, [6, 2, 5].map(limited).into())).unwrap());
    let count = |record: &Record| record.tokens.values().map(Vec::len).sum::<usize>();
    while decoder.samples_waiting() > 0 {
        let before = count(&record);
        decoder.step(&mut record).unwrap();
        assert_eq!(count(&record) - before, 3, "no slot is empty while a sample waits");
    }
    decoder.run(&mut record).unwrap();
    let begun: Vec<SampleId> = ids.iter().copied().filter(|id| record.tokens.contains_key(id)).collect();
    assert_eq!(begun, ids);
    let tokens: Vec<usize> = ids.iter().map(|id| record.tokens[id].len()).collect();
    assert_eq!(tokens, [2, 9, 4, 7, 3, 6, 2, 5]);
    assert_eq!((record.most_in_flight, decoder.kv_tokens().0), (3, 0));
    let alone = run(&mut decoder, prompt(5, vec![limited(7)])).1;
    let (id, _) = alone.tokens.first_key_value().unwrap();
    assert_eq!(record.events(ids[3]), alone.events(*id), "a late sample begins where the prompt ended");
}

#[test]
fn a_sample_that_waits_for_a_slot_can_be_cancelled_after_its_prompt_was_read() {
    let mut decoder = decoder(engine(), limits(1, 512));
    let mut record = Record::default();
    let ids = decoder.submit(prompt(5, (0..3).map(|_| sample(0.0)).collect())).unwrap();
    step_until(&mut decoder, &mut record, ids[0], 2);
    decoder.cancel(ids[1]);
    decoder.step(&mut record).unwrap();
    assert_eq!(record.finishes[&ids[1]].reason, FinishReason::Cancelled);
    decoder.cancel(ids[2]);
    decoder.run(&mut record).unwrap();
    assert_eq!(record.finishes[&ids[0]].reason, FinishReason::Stop, "its neighbour goes on");
    assert_eq!((record.finishes.len(), decoder.kv_tokens().0), (3, 0), "the prompt is let go");
}

#[test]
fn kv_memory_bounds_what_is_in_flight() {
    let limits = limits(64, 512);
    let small = |engine: ScriptedEngine| decoder(engine.with_capacity(260), limits);
    let (_, record) = run(&mut small(engine()), prompt(1, (0..6).map(|_| sample(0.0)).collect()));
    assert_eq!(
        (record.finishes.len(), record.most_in_flight),
        (6, 2),
        "two times 103 tokens, 128 in whole pages, fit into 260"
    );
    let too_long = SampleRequest { max_new_tokens: 1000, ..sample(0.0) };
    let error = small(engine()).submit(prompt(1, vec![too_long])).unwrap_err();
    assert!(matches!(&error, EngineError::Request(message) if message.contains("1024 tokens")), "{error}");
}

#[test]
fn samples_enter_by_what_they_write_soon_and_not_by_what_they_may_write() {
    let long = || SampleRequest { max_new_tokens: 400, ..sample(0.0) };
    let request = |first, count| prompt(first, (0..count).map(|_| long()).collect());
    let run_with = |capacity: usize, prefill_chunk: usize| {
        let limits = DecodeLimits { tokens_ahead: 40, ..limits(64, prefill_chunk) };
        let mut decoder = decoder(engine().with_capacity(capacity), limits);
        let mut ids = decoder.submit(request(5, 4)).unwrap();
        ids.extend(decoder.submit(request(3, 3)).unwrap());
        let mut record = Record::default();
        while decoder.step(&mut record).unwrap() {
            assert!(decoder.kv_tokens().0 <= capacity);
        }
        let samples: Vec<_> = ids.iter().map(|id| record.events(*id)).collect();
        (samples, record.most_in_flight, decoder.pauses())
    };
    let (expected, most, pauses) = run_with(1_000_000, 512);
    assert_eq!((most, pauses), (7, 0));
    for capacity in [416, 450, 500] {
        for prefill_chunk in [1, 3, 512] {
            let (samples, most, pauses) = run_with(capacity, prefill_chunk);
            assert_eq!(samples, expected, "{capacity} tokens, {prefill_chunk} in a step");
            assert!(most >= 5, "{most}: two of the longest would not fit");
            assert_eq!(pauses, 0, "thoughts of 15 and 13 tokens need no more than was reckoned");
        }
    }
}

#[test]
fn a_paused_sample_reads_its_tokens_again_and_goes_on() {
    let samples = |count: usize| (0..count).map(|_| SampleRequest { max_new_tokens: 90, ..sample(0.0) }).collect();
    let run_with = |capacity: usize, prefill_chunk: usize| {
        let limits = DecodeLimits { tokens_ahead: 1, ..limits(64, prefill_chunk) };
        let mut decoder = decoder(long_engine(capacity), limits);
        // Thoughts of 60 tokens, and of 10.
        let mut ids = decoder.submit(prompt(5, samples(3))).unwrap();
        ids.extend(decoder.submit(prompt(0, samples(2))).unwrap());
        let mut record = Record::default();
        decoder.run(&mut record).unwrap();
        assert_eq!((decoder.kv_tokens().0, decoder.samples_paused()), (0, 0));
        let waited = ids.iter().filter(|id| record.finishes[id].paused_secs > 0.0).count();
        assert_eq!(
            (waited > 0, record.finishes[&ids[0]].paused_secs),
            (decoder.pauses() > 0, 0.0),
            "the oldest never waits"
        );
        let thoughts: Vec<_> = ids.iter().map(|id| record.events(*id)).collect();
        let order: Vec<usize> = ids.iter().map(|id| record.finishes[id].generated_tokens as usize).collect();
        (thoughts, order, decoder.pauses())
    };
    let (expected, lengths, _) = run_with(1_000_000, 512);
    assert_eq!(lengths, [63, 63, 63, 13, 13]);
    for (capacity, prefill_chunk) in [(96, 512), (96, 5), (128, 512), (128, 1), (160, 7)] {
        let (samples, _, pauses) = run_with(capacity, prefill_chunk);
        assert_eq!(samples, expected, "{capacity} tokens, {prefill_chunk} in a step");
        assert!(pauses > 0, "{capacity}");
    }
}

#[test]
fn a_paused_sample_can_be_cancelled_and_told_to_end() {
    let limits = DecodeLimits { tokens_ahead: 1, ..limits(64, 512) };
    let mut decoder = with_limits(long_engine(96), limits);
    let samples = (0..3).map(|_| SampleRequest { max_new_tokens: 90, ..sample(0.0) }).collect();
    let ids = decoder.submit(prompt(5, samples)).unwrap();
    let mut record = Record::default();
    while decoder.pauses() < 2 {
        decoder.step(&mut record).unwrap();
    }
    let written: Vec<usize> = ids.iter().map(|id| record.tokens[id].len()).collect();
    assert!(written[1] < written[0] && written[2] < written[1], "{written:?}: the youngest were paused first");
    decoder.cancel(ids[1]);
    assert!(decoder.end_thinking(ids[2]));
    decoder.run(&mut record).unwrap();
    assert_eq!(record.finishes[&ids[1]].reason, FinishReason::Cancelled);
    assert_eq!(record.tokens[&ids[2]][written[2]].token, THINK_END);
    assert_eq!((record.finishes[&ids[0]].generated_tokens, decoder.kv_tokens().0), (63, 0));
}

#[test]
fn limits_stop_texts_and_failures_end_a_sample_alone() {
    let short = SampleRequest { max_new_tokens: 4, ..sample(0.0) };
    let stopped = SampleRequest { stop_texts: [StopText::new("2 4")].into(), ..sample(0.0) };
    let broken = SampleRequest { logit_bias: vec![(ANSWER, f32::NAN)], ..sample(0.0) };
    let samples = vec![short, stopped, broken, sample(0.0)];
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, samples));
    let reasons: Vec<FinishReason> = ids.iter().map(|id| record.finishes[id].reason).collect();
    assert_eq!(reasons, [FinishReason::Length, FinishReason::StopText, FinishReason::Failed, FinishReason::Stop]);
    let answer: String = record.tokens[&ids[1]]
        .iter()
        .filter(|event| event.phase == Phase::Answer)
        .map(|event| event.text.as_str())
        .collect();
    assert_eq!(answer, "4", "the stop text is not part of the answer");
    assert!(record.finishes[&ids[2]].error.is_some());
}

#[test]
fn text_held_back_for_a_stop_text_is_shown_at_the_token_limit() {
    let held =
        SampleRequest { stop_texts: [StopText::new("2 nothing like it")].into(), max_new_tokens: 11, ..sample(0.0) };
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![held]));
    assert_eq!(record.finishes[&ids[0]].reason, FinishReason::Length);
    let text: String = record.tokens[&ids[0]].iter().map(|event| event.text.as_str()).collect();
    assert!(text.ends_with("</think>42 "), "{text}");
}

#[test]
fn bad_prompts_are_refused_in_words() {
    let mut decoder = decoder(engine(), DecodeLimits::default());
    let refused = |decoder: &mut Decoder, tokens: Vec<u32>| {
        let request = PromptRequest { tokens, ..prompt(0, vec![sample(0.0)]) };
        decoder.submit(request).unwrap_err().to_string()
    };
    assert!(refused(&mut decoder, vec![]).contains("empty"));
    assert!(refused(&mut decoder, vec![99]).contains("token 99"));
    let foreign = SampleRequest { shift: Some(vec![0.0; 3].into()), ..sample(0.0) };
    assert!(decoder.submit(prompt(0, vec![foreign])).unwrap_err().to_string().contains("3 entries"));
}

/// Steps until the sample has generated `tokens` tokens.
fn step_until(decoder: &mut Decoder, record: &mut Record, id: SampleId, tokens: usize) {
    while record.tokens.get(&id).map_or(0, Vec::len) < tokens {
        decoder.step(record).unwrap();
    }
}

#[test]
fn thinking_can_be_ended_from_outside() {
    let mut decoder = decoder(engine(), DecodeLimits::default());
    let mut record = Record::default();
    let id = decoder.submit(prompt(5, vec![sample(0.0)])).unwrap()[0];
    step_until(&mut decoder, &mut record, id, 3);
    assert!(decoder.end_thinking(id));
    decoder.run(&mut record).unwrap();
    let tokens = &record.tokens[&id];
    assert_eq!((tokens[3].token, tokens[3].forced), (THINK_END, true));
    assert_eq!((record.finishes[&id].thinking_tokens, record.finishes[&id].reason), (4, FinishReason::Stop));
    assert!(!decoder.end_thinking(id), "it has ended");
}

#[test]
fn thinking_that_has_not_begun_is_closed_with_its_first_token() {
    let mut decoder = decoder(engine(), limits(1, 512));
    let mut record = Record::default();
    let ids = decoder.submit(prompt(5, vec![sample(0.0), sample(0.0)])).unwrap();
    let closed = PhaseTracker::after_prompt(&ThinkingMarkers::default(), "<think></think>");
    let answering = PromptRequest { phase: closed, ..prompt(5, vec![sample(0.0)]) };
    let answering = decoder.submit(answering).unwrap()[0];
    step_until(&mut decoder, &mut record, ids[0], 3);
    assert!(decoder.end_thinking(ids[1]) && !decoder.end_thinking(answering));
    decoder.run(&mut record).unwrap();
    let first = &record.tokens[&ids[1]][0];
    assert_eq!((first.token, first.forced, record.finishes[&ids[1]].thinking_tokens), (THINK_END, true, 1));
    assert_eq!(record.finishes[&ids[0]].thinking_tokens, 15, "its neighbour thinks on");
}

#[test]
fn the_policy_can_be_replaced_in_flight() {
    let mut decoder = decoder(engine(), DecodeLimits::default());
    let mut record = Record::default();
    let id = decoder.submit(prompt(5, vec![sample(0.0)])).unwrap()[0];
    step_until(&mut decoder, &mut record, id, 3);
    assert!(decoder.set_policy(id, Box::new(Constant(tpv_core::policy::Alpha(17.0)))));
    decoder.run(&mut record).unwrap();
    assert_eq!(record.finishes[&id].thinking_tokens, 4);
    assert!(!decoder.set_policy(id, Box::new(Constant::default())), "it has ended");
}

#[test]
fn samples_can_be_cancelled_while_they_run_and_while_they_wait() {
    let mut decoder = decoder(engine(), limits(1, 512));
    let mut record = Record::default();
    let ids: Vec<SampleId> = (0..3).map(|_| decoder.submit(prompt(5, vec![sample(0.0)])).unwrap()[0]).collect();
    step_until(&mut decoder, &mut record, ids[0], 3);
    decoder.cancel(ids[0]);
    decoder.cancel(ids[2]);
    decoder.run(&mut record).unwrap();
    let reasons: Vec<FinishReason> = ids.iter().map(|id| record.finishes[id].reason).collect();
    assert_eq!(reasons, [FinishReason::Cancelled, FinishReason::Stop, FinishReason::Cancelled]);
    assert_eq!(record.tokens[&ids[0]].len(), 3, "a cancelled sample gets no further token");
    assert_eq!(decoder.kv_tokens().0, 0);
}

#[test]
fn a_prompt_that_nobody_wants_any_more_is_not_read_to_its_end() {
    let mut decoder = decoder(engine(), limits(1, 4));
    let mut record = Record::default();
    let tokens = vec![5; 40];
    let long = decoder.submit(PromptRequest { tokens, ..prompt(5, vec![sample(0.0)]) }).unwrap()[0];
    let next = decoder.submit(prompt(5, vec![sample(0.0)])).unwrap()[0];
    decoder.step(&mut record).unwrap();
    decoder.cancel(long);
    decoder.step(&mut record).unwrap();
    assert_eq!(record.finishes[&long].reason, FinishReason::Cancelled, "with the next step");
    assert_eq!(record.tokens[&next].len(), 1, "its slot is free");
    decoder.run(&mut record).unwrap();
    assert_eq!(decoder.kv_tokens().0, 0);
}

#[test]
fn a_short_prompt_does_not_wait_for_the_long_ones_before_it() {
    let mut decoder = decoder(engine(), limits(8, 10));
    let mut record = Record::default();
    let long = || PromptRequest { tokens: vec![5; 200], ..prompt(5, vec![sample(0.0)]) };
    let first = decoder.submit(long()).unwrap()[0];
    let second = decoder.submit(long()).unwrap()[0];
    let short = decoder.submit(prompt(5, vec![sample(0.0)])).unwrap()[0];
    decoder.step(&mut record).unwrap();
    assert_eq!(record.tokens[&short].len(), 1, "its three tokens are in the first step's ten");
    // The long ones are read one after the other, with all of the room.
    step_until(&mut decoder, &mut record, first, 1);
    let expected = (1 + 21 + 1, false); // 7 tokens, 19 times 10 and 3, beside which the second begins
    assert_eq!((record.prompt_reports, record.tokens.contains_key(&second)), expected);
    decoder.run(&mut record).unwrap();
    assert_eq!(record.finishes.len(), 3);
}

/// Asks for the end at a position, with values that must not reach the logits.
struct Reckless;

impl Policy for Reckless {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        let end_thinking = observation.reading.position == 5;
        Control { think_end_bias: f32::INFINITY, end_thinking, ..Control::alpha(f32::NAN) }
    }
}

#[test]
fn a_policy_cannot_break_the_loop() {
    let reckless = SampleRequest { policy: Box::new(Reckless), ..sample(0.0) };
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(0, vec![reckless]));
    assert_eq!(record.finishes[&ids[0]].thinking_tokens, 5);
    assert_eq!(record.finishes[&ids[0]].reason, FinishReason::Stop);
}

/// Waits at every third position.
struct Waiting;

impl Policy for Waiting {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        let position = observation.reading.position;
        Control { wait: position.is_multiple_of(3), end_thinking: position == 9, ..Control::default() }
    }
}

#[test]
fn a_policy_can_make_a_thought_wait_and_closing_comes_first() {
    let waiting = SampleRequest { policy: Box::new(Waiting), ..sample(0.0) };
    let (ids, record) = run(&mut decoder(engine(), DecodeLimits::default()), prompt(5, vec![waiting]));
    let tokens = &record.tokens[&ids[0]];
    let forced: Vec<(u32, u32)> = tokens.iter().filter(|it| it.forced).map(|it| (it.index + 1, it.token)).collect();
    assert_eq!(forced, [(3, WAIT), (6, WAIT), (9, THINK_END)]);
    assert_eq!(record.finishes[&ids[0]].thinking_tokens, 9);
}

/// Samples that end, are cut, wait, are closed and break, greedily and by chance.
fn all_sorts() -> Vec<SampleRequest> {
    let chance = |seed| SampleRequest {
        sampling: SamplingParams { temperature: 8.0, ..SamplingParams::GREEDY },
        seed,
        max_new_tokens: 60,
        ..sample(0.0)
    };
    let mut samples: Vec<SampleRequest> = (0..6).map(chance).collect();
    samples.extend((1..9).map(|max_new_tokens| SampleRequest { max_new_tokens, ..sample(0.0) }));
    samples.extend([sample(0.0), sample(10.0), sample(17.0)]);
    samples.push(SampleRequest { intervene: IntervenePhase::All, ..sample(17.0) });
    samples.push(SampleRequest { policy: Box::new(Waiting), ..sample(0.0) });
    samples.push(SampleRequest { policy: Box::new(Reckless), ..sample(0.0) });
    samples.push(SampleRequest { stop_texts: [StopText::new("42")].into(), ..sample(0.0) });
    samples.push(SampleRequest { policy: Box::new(BreaksLater), ..sample(0.0) });
    samples
}

/// Breaks in the midst of a thought.
struct BreaksLater;

impl Policy for BreaksLater {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        assert!(observation.reading.position < 6, "it breaks, as it should");
        Control::default()
    }
}

/// What all sorts of samples say, how they end, and in how many steps.
fn outcome(limits: DecodeLimits) -> (Vec<Vec<TokenEvent>>, Vec<FinishEvent>, usize) {
    let mut decoder = with_limits(engine().with_capacity(4000), limits);
    let (mut record, mut steps) = (Record::default(), 0);
    for first in [0, 2, 5] {
        decoder.submit(prompt(first, all_sorts())).unwrap();
    }
    while decoder.step(&mut record).unwrap() {
        steps += 1;
    }
    assert_eq!(decoder.kv_tokens().0, 0, "everything is given back");
    let timeless = |event| FinishEvent { elapsed_secs: 0.0, thinking_secs: 0.0, ..event };
    let tokens = record.tokens.into_values().map(|events| events.into_iter().map(without_times).collect()).collect();
    (tokens, record.finishes.into_values().map(timeless).collect(), steps)
}

#[test]
fn drafts_change_the_number_of_steps_and_nothing_else() {
    for max_batch in [1, 5, 64] {
        let limits = |drafts| DecodeLimits { max_batch, drafts, ..DecodeLimits::default() };
        let (tokens, finishes, steps) = outcome(limits(DraftLimits::default()));
        for drafts in [
            DRAFTS,
            DraftLimits { tokens: 1, ..DRAFTS },
            DraftLimits { tokens: 9, shared: false, ..DRAFTS },
            DraftLimits { tokens: 9, rows: 7, shared: true },
        ] {
            let got = outcome(limits(drafts));
            assert_eq!(got.0, tokens, "{max_batch} {drafts:?}");
            assert_eq!(got.1, finishes, "{max_batch} {drafts:?}");
            // A batch that is larger than the rows leaves no room.
            let has_room = drafts.rows > max_batch;
            assert!(if has_room { got.2 < steps } else { got.2 <= steps }, "{max_batch} {drafts:?}: {} {steps}", got.2);
        }
    }
}
