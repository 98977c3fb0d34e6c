//! `tpv bench`: how fast this machine reads prompts and decodes, on shapes with random weights (no download) or a model.
//!
//! The decode loop runs twice, bare and with reading, shift and state capture, so the cost of monitoring and control is a
//! ratio within one run. Speeds are medians over steps; the weights that a step must read are counted, so the bandwidth
//! that was used can be held against what the memory delivers.

use crate::args::BenchArgs;
use crate::console::Console;
use crate::model::{load_options, open_source};
use crate::reading_cost::reading_secs;
use crate::recorder::{Keep, Recorder};
use crate::table::table;
use anyhow::{Result, bail};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use tpv_core::phase::{PhaseTracker, ThinkingMarkers};
use tpv_core::policy::{Alpha, Constant};
use tpv_core::reading::{BlindReader, Reader, ReadingModel};
use tpv_core::sampling::SamplingParams;
use tpv_core::vector::{LinearHead, ProgressVector};
use tpv_data::run::StatesDtype;
use tpv_engine::decode::{DecodeLimits, Decoder, IntervenePhase, PromptRequest, SampleRequest};
use tpv_engine::engine::{Engine, ModelSpec, StepInput, StepOutput};
use tpv_engine::load::{LoadOptions, Loaded, load_model, random_model};
use tpv_engine::random::named_shape;
use tpv_engine::vocabulary::Vocabulary;

/// Context at which decoding begins, in tokens.
const CONTEXT_TOKENS: usize = 64;
/// Bare and monitored runs of the loop take turns this many times.
const ROUNDS: usize = 3;

/// What one model did.
#[derive(Debug, Clone, Serialize)]
pub struct BenchResult {
    /// The shape's name or the model.
    pub model: String,
    /// The arithmetic.
    pub dtype: String,
    /// Where it ran.
    pub device: String,
    /// Seconds to make or load the weights.
    pub load_secs: f64,
    /// Prompt tokens read per second.
    pub prefill_tokens_per_sec: f64,
    /// Bytes of weights that a decode step reads.
    pub weight_bytes: f64,
    /// One entry for each batch size.
    pub decode: Vec<DecodeResult>,
    /// Largest resident size of the process, where the system tells.
    pub peak_memory_mib: u64,
}

/// Decoding at one batch size.
#[derive(Debug, Clone, Serialize)]
pub struct DecodeResult {
    /// Sequences.
    pub batch: usize,
    /// Median milliseconds of a bare engine step.
    pub engine_step_ms: f64,
    /// Median milliseconds of a step of the decode loop: engine and the choice of tokens.
    pub loop_step_ms: f64,
    /// The same with reading, shift and state capture.
    pub monitored_step_ms: f64,
    /// Milliseconds that the readings of a step take by themselves, one after the other on one thread.
    pub reading_ms: f64,
    /// Tokens per second of the bare engine.
    pub engine_tokens_per_sec: f64,
    /// Gigabytes of weights per second that the bare engine reads.
    pub weight_gigabytes_per_sec: f64,
}

/// Runs the command.
pub fn run(args: &BenchArgs, console: &Console) -> Result<()> {
    if args.batch.is_empty() || args.batch.contains(&0) || args.steps < 3 || args.prompt_tokens == 0 {
        bail!("--batch and --prompt_tokens must be at least 1 and --steps at least 3");
    }
    let options = load_options(&args.run)?;
    let mut results = Vec::new();
    for model in &args.models {
        console.say(format!("{model} ..."));
        let result = bench(model, &options, args, console)?;
        console.emit("bench", &result);
        results.push(result);
    }
    report(&results, console);
    Ok(())
}

fn bench(model: &str, options: &LoadOptions, args: &BenchArgs, console: &Console) -> Result<BenchResult> {
    let start = Instant::now();
    let mut loaded = load(model, options, args, console)?;
    loaded.notices.iter().for_each(|notice| console.notice(notice));
    let load_secs = start.elapsed().as_secs_f64();
    let spec = loaded.engine.spec().clone();
    let prefill_tokens_per_sec = prefill(&mut *loaded.engine, args.prompt_tokens)?;
    let weight_bytes = loaded.weights_per_step as f64 * bytes_per_weight(&spec.dtype);
    let mut decode = Vec::new();
    let mut engine = loaded.engine;
    for &batch in &args.batch {
        console.check_interrupted()?;
        let step_secs = engine_step_secs(&mut *engine, batch, args.steps)?;
        let mut decoder =
            Decoder::new(engine, Arc::new(NoText), DecodeLimits { max_batch: batch, ..DecodeLimits::default() });
        let (mut bare, mut monitored) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.extend(loop_steps_ms(&mut decoder, batch, args.steps, false)?);
            monitored.extend(loop_steps_ms(&mut decoder, batch, args.steps, true)?);
        }
        let (loop_step_ms, monitored_step_ms) = (median(&mut bare), median(&mut monitored));
        engine = decoder.into_engine();
        decode.push(DecodeResult {
            batch,
            engine_step_ms: step_secs * 1e3,
            loop_step_ms,
            monitored_step_ms,
            reading_ms: batch as f64 * reading_secs(spec.hidden_size)? * 1e3,
            engine_tokens_per_sec: batch as f64 / step_secs,
            weight_gigabytes_per_sec: weight_bytes / step_secs / 1e9,
        });
    }
    let (dtype, device) = (spec.dtype, spec.device);
    let peak_memory_mib = peak_memory_mib();
    Ok(BenchResult {
        model: model.into(),
        dtype,
        device,
        load_secs,
        prefill_tokens_per_sec,
        weight_bytes,
        decode,
        peak_memory_mib,
    })
}

fn load(model: &str, options: &LoadOptions, args: &BenchArgs, console: &Console) -> Result<Loaded> {
    Ok(match named_shape(model) {
        Ok(config) => random_model(config, options)?,
        Err(_) => load_model(&open_source(model, &args.run, console)?, options)?,
    })
}

fn bytes_per_weight(dtype: &str) -> f64 {
    match dtype {
        "f32" => 4.0,
        "q8_0" => 34.0 / 32.0,
        _ => 2.0,
    }
}

fn made_up_tokens(spec: &ModelSpec, seed: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % spec.vocab_size) as u32).collect()
}

fn prefill(engine: &mut dyn Engine, tokens: usize) -> Result<f64> {
    let tokens = made_up_tokens(engine.spec(), 1, tokens.min(engine.spec().max_positions / 2));
    let mut secs = Vec::new();
    for _ in 0..4 {
        let sequence = engine.open()?;
        let start = Instant::now();
        engine.step(&[StepInput { sequence, tokens: &tokens, wants_output: true }], &mut StepOutput::default())?;
        secs.push(start.elapsed().as_secs_f64());
        engine.close(sequence);
    }
    Ok(tokens.len() as f64 / median(&mut secs[1..]))
}

fn engine_step_secs(engine: &mut dyn Engine, batch: usize, steps: usize) -> Result<f64> {
    let mut output = StepOutput::default();
    let mut sequences = Vec::new();
    for seed in 0..batch {
        let sequence = engine.open()?;
        let tokens = made_up_tokens(engine.spec(), seed, CONTEXT_TOKENS);
        engine.step(&[StepInput { sequence, tokens: &tokens, wants_output: false }], &mut output)?;
        sequences.push(sequence);
    }
    let mut secs = Vec::new();
    for step in 0..steps + 2 {
        let tokens = made_up_tokens(engine.spec(), step, batch);
        let inputs = sequences.iter().zip(&tokens);
        let inputs: Vec<StepInput<'_>> = inputs
            .map(|(&sequence, token)| StepInput { sequence, tokens: std::slice::from_ref(token), wants_output: true })
            .collect();
        let start = Instant::now();
        engine.step(&inputs, &mut output)?;
        secs.push(start.elapsed().as_secs_f64());
    }
    sequences.into_iter().for_each(|sequence| engine.close(sequence));
    Ok(median(&mut secs[2..]))
}

/// Milliseconds of each step of the decode loop once all samples generate. Tokens are chosen greedily, so that the flat
/// distributions of random weights, the worst case of top-p sampling, do not hide the cost of monitoring.
fn loop_steps_ms(decoder: &mut Decoder, batch: usize, steps: usize, monitored: bool) -> Result<Vec<f64>> {
    let spec = decoder.spec().clone();
    let theta: Vec<f32> = (0..spec.hidden_size).map(|i| ((i % 7) as f32 - 3.0) * 1e-4).collect();
    let shift: Arc<[f32]> = decoder.project(&theta)?.into();
    let vector = ProgressVector {
        progress: LinearHead { weights: theta.clone(), intercept: 0.5 },
        log_remaining: Some(LinearHead { weights: theta.clone(), intercept: 4.0 }),
        theta,
        ..ProgressVector::default()
    };
    let reading = Arc::new(ReadingModel::new(&vector, None));
    let states = monitored.then_some(StatesDtype::F16);
    let mut recorder = Recorder::new(Keep { states, thinking_only: false });
    for seed in 0..batch {
        let reader: Box<dyn Reader> = if monitored { Box::new(reading.reader(None)) } else { Box::new(BlindReader) };
        let request = SampleRequest {
            sampling: SamplingParams::GREEDY,
            seed: seed as u64,
            max_new_tokens: steps + 4,
            shift: monitored.then(|| Arc::clone(&shift)),
            intervene: IntervenePhase::Thinking,
            reader,
            policy: Box::new(Constant(Alpha(1.0))),
            logit_bias: Vec::new(),
            stop_texts: Vec::new(),
        };
        let phase = PhaseTracker::after_prompt(&ThinkingMarkers::default(), "<think>");
        let tokens = made_up_tokens(&spec, seed, CONTEXT_TOKENS);
        let ids = decoder.submit(PromptRequest { tokens, phase, samples: vec![request] })?;
        ids.into_iter().for_each(|id| recorder.start(id, ()));
    }
    let mut secs = Vec::new();
    loop {
        let before = recorder.tokens;
        let start = Instant::now();
        let more = decoder.step(&mut recorder)?;
        if recorder.tokens - before == batch as u64 {
            secs.push(start.elapsed().as_secs_f64());
        }
        if !more {
            break;
        }
    }
    Ok(secs.iter().skip(2).map(|secs| secs * 1e3).collect())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Tokens without text, none of which ends anything.
struct NoText;

impl Vocabulary for NoText {
    fn token_bytes(&self, _: u32) -> &[u8] {
        b"."
    }

    fn is_end_of_sequence(&self, _: u32) -> bool {
        false
    }

    fn think_end_tokens(&self) -> &[u32] {
        &[0]
    }
}

/// The largest resident size so far, where the system tells.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn report(results: &[BenchResult], console: &Console) {
    let rows = results.iter().flat_map(|result| {
        result.decode.iter().map(move |decode| {
            vec![
                format!("{} {} {}", result.model, result.dtype, result.device),
                format!("{:.0}", result.prefill_tokens_per_sec),
                decode.batch.to_string(),
                format!("{:.1}", decode.engine_tokens_per_sec),
                format!("{:.2}", decode.engine_step_ms),
                format!("{:.2}", decode.loop_step_ms),
                format!("{:+.2} %", (decode.monitored_step_ms / decode.loop_step_ms - 1.0) * 100.0),
                format!("{:.2} %", decode.reading_ms / decode.loop_step_ms * 100.0),
                format!("{:.1}", decode.weight_gigabytes_per_sec),
            ]
        })
    });
    let header = [
        "model",
        "prefill tok/s",
        "batch",
        "tok/s",
        "step ms",
        "loop ms",
        "monitoring",
        "reading alone",
        "weights GB/s",
    ];
    console.print(table(&header, rows));
}
