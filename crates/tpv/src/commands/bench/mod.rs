//! `tpv bench`: how fast this machine reads prompts and decodes, on shapes with random weights (no download) or a model.
//!
//! Speeds are medians over steps. The cost of monitoring and control is a ratio of neighbouring steps of one run
//! (`monitoring.rs`), and the weights that a step reads are held against what the memory delivers in the same run
//! (`memory.rs`). `--compare` says what another arithmetic changes (`accuracy.rs`).

mod accuracy;
mod memory;
mod monitoring;

use crate::args::BenchArgs;
use crate::console::Console;
use crate::model::{choose_arithmetic, load_options, open_source};
use crate::reading_cost::reading_secs;
use crate::table::table;
use accuracy::Accuracy;
use anyhow::{Context, Result, bail};
use memory::{peak_resident_bytes, read_bandwidth, resident_bytes};
use monitoring::Monitoring;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use tpv_core::bootstrap::median;
use tpv_engine::decode::{DecodeLimits, Decoder};
use tpv_engine::device::thread_count;
use tpv_engine::engine::{Engine, ModelSpec, StepInput, StepOutput};
use tpv_engine::load::{LoadOptions, Loaded, load_model, random_model};
use tpv_engine::random::named_shape;
use tpv_engine::vocabulary::Vocabulary;

/// Context at which decoding begins, in tokens.
const CONTEXT_TOKENS: usize = 64;

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
    /// Tokens of the prompt whose reading is timed.
    pub prompt_tokens: usize,
    /// Prompt tokens read per second.
    pub prefill_tokens_per_sec: f64,
    /// Bytes of weights that a decode step reads.
    pub weight_bytes: f64,
    /// Bytes that the weights take in memory, where they lie in it.
    pub weight_memory_bytes: Option<usize>,
    /// The process' largest size while it loaded the weights, less its size before, in units of the weights; of the
    /// first model only.
    pub load_peak_ratio: Option<f64>,
    /// Gigabytes per second that as many threads read from memory, on CPUs.
    pub memory_gigabytes_per_sec: Option<f64>,
    /// One entry for each batch size.
    pub decode: Vec<DecodeResult>,
    /// Largest resident size of the process, where the system tells.
    pub peak_memory_mib: u64,
    /// What the arithmetic of `--compare` changes.
    pub accuracy: Option<Accuracy>,
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
    /// What that costs, from neighbouring steps.
    pub monitoring: Monitoring,
    /// Milliseconds that the readings of a step take by themselves, one after the other on one thread.
    pub reading_ms: f64,
    /// Tokens per second of the bare engine.
    pub engine_tokens_per_sec: f64,
    /// Gigabytes of weights per second that the bare engine reads.
    pub weight_gigabytes_per_sec: f64,
    /// Their share of what the memory delivers.
    pub bandwidth_share: Option<f64>,
}

/// Runs the command.
pub fn run(args: &BenchArgs, console: &Console) -> Result<()> {
    if args.batch.is_empty() || args.steps < 3 || args.prompt_tokens == 0 {
        bail!("--batch and --prompt_tokens must be at least 1 and --steps at least 3");
    }
    let options = load_options(&args.run)?;
    let mut results = Vec::new();
    for model in &args.models {
        console.say(format!("{model} ..."));
        let result = bench(model, &options, args, results.is_empty(), console)?;
        console.emit("bench", &result);
        results.push(result);
    }
    report(&results, console);
    Ok(())
}

fn bench(
    model: &str,
    options: &LoadOptions,
    args: &BenchArgs,
    is_first: bool,
    console: &Console,
) -> Result<BenchResult> {
    let (start, before) = (Instant::now(), resident_bytes());
    let mut loaded = load(model, options, args, console)?;
    let (load_secs, peak) = (start.elapsed().as_secs_f64(), peak_resident_bytes());
    loaded.notices.iter().for_each(|notice| console.notice(notice));
    let spec = loaded.engine.spec().clone();
    let load_peak = before.zip(peak).map(|(before, peak)| peak.saturating_sub(before) as f64).filter(|_| is_first);
    let memory_rate = (spec.device == "cpu").then(|| read_bandwidth(thread_count(options.threads))).transpose()?;
    let prompt_tokens = args.prompt_tokens.min(spec.max_positions / 2);
    if prompt_tokens < args.prompt_tokens {
        console.notice(format!("the prompt has {prompt_tokens} tokens, half of the model's positions"));
    }
    let prefill_tokens_per_sec = prefill(&mut *loaded.engine, prompt_tokens)?;
    let mut decode = Vec::new();
    let mut engine = loaded.engine;
    let weight_bytes = engine.step_bytes().context("the engine does not say what a step reads")? as f64;
    for &batch in &args.batch {
        console.check_interrupted()?;
        let step_secs = engine_step_secs(&mut *engine, batch, args.steps)?;
        let limits = DecodeLimits { max_batch: batch, ..DecodeLimits::default() };
        let mut decoder = Decoder::new(engine, Arc::new(NoText), limits);
        let monitoring = monitoring::measure(&mut decoder, batch, args.steps, step_secs)?;
        engine = decoder.into_engine();
        decode.push(DecodeResult {
            batch,
            engine_step_ms: step_secs * 1e3,
            loop_step_ms: monitoring.bare_ms,
            monitored_step_ms: monitoring.monitored_ms,
            monitoring,
            reading_ms: batch as f64 * reading_secs(spec.hidden_size)? * 1e3,
            engine_tokens_per_sec: batch as f64 / step_secs,
            weight_gigabytes_per_sec: weight_bytes / step_secs / 1e9,
            bandwidth_share: memory_rate.map(|rate| weight_bytes / step_secs / rate),
        });
    }
    let accuracy = match args.compare {
        Some(other) => {
            let options = LoadOptions { dtype: choose_arithmetic(other), ..options.clone() };
            Some(accuracy::compare(&mut *engine, &mut *load(model, &options, args, console)?.engine)?)
        }
        None => None,
    };
    Ok(BenchResult {
        model: model.into(),
        dtype: spec.dtype,
        device: spec.device,
        load_secs,
        prompt_tokens,
        prefill_tokens_per_sec,
        weight_bytes,
        weight_memory_bytes: loaded.weight_memory,
        load_peak_ratio: load_peak.zip(loaded.weight_memory).map(|(peak, weights)| peak / weights as f64),
        memory_gigabytes_per_sec: memory_rate.map(|rate| rate / 1e9),
        decode,
        peak_memory_mib: peak_resident_bytes().unwrap_or(0) >> 20,
        accuracy,
    })
}

fn load(model: &str, options: &LoadOptions, args: &BenchArgs, console: &Console) -> Result<Loaded> {
    Ok(match named_shape(model) {
        Ok(config) => random_model(config, options)?,
        Err(_) => load_model(&open_source(model, &args.run, console)?, options)?,
    })
}

fn made_up_tokens(spec: &ModelSpec, seed: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % spec.vocab_size) as u32).collect()
}

fn prefill(engine: &mut dyn Engine, tokens: usize) -> Result<f64> {
    let tokens = made_up_tokens(engine.spec(), 1, tokens);
    let mut secs = Vec::new();
    for _ in 0..4 {
        let sequence = engine.open()?;
        let start = Instant::now();
        engine.step(&[StepInput { sequence, tokens: &tokens, outputs: 1 }], &mut StepOutput::default())?;
        secs.push(start.elapsed().as_secs_f64());
        engine.close(sequence);
    }
    Ok(tokens.len() as f64 / median(secs.split_off(1)).context("no prompt was read")?)
}

fn engine_step_secs(engine: &mut dyn Engine, batch: usize, steps: usize) -> Result<f64> {
    let mut output = StepOutput::default();
    let mut sequences = Vec::new();
    for seed in 0..batch {
        let sequence = engine.open()?;
        let tokens = made_up_tokens(engine.spec(), seed, CONTEXT_TOKENS);
        engine.step(&[StepInput { sequence, tokens: &tokens, outputs: 0 }], &mut output)?;
        sequences.push(sequence);
    }
    let mut secs = Vec::new();
    for step in 0..steps + 2 {
        let tokens = made_up_tokens(engine.spec(), step, batch);
        let inputs = sequences.iter().zip(&tokens);
        let inputs: Vec<StepInput<'_>> = inputs
            .map(|(&sequence, token)| StepInput { sequence, tokens: std::slice::from_ref(token), outputs: 1 })
            .collect();
        let start = Instant::now();
        engine.step(&inputs, &mut output)?;
        secs.push(start.elapsed().as_secs_f64());
    }
    sequences.into_iter().for_each(|sequence| engine.close(sequence));
    median(secs.split_off(2)).context("no step was made")
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

    fn wait_tokens(&self) -> &[u32] {
        &[]
    }
}

fn report(results: &[BenchResult], console: &Console) {
    let rows = results.iter().flat_map(|result| {
        result.decode.iter().map(move |decode| {
            let Monitoring { cost, cost_interval: (low, high), .. } = decode.monitoring;
            let share = match decode.bandwidth_share {
                None => String::new(),
                // More than the memory delivers is read from the cache.
                Some(share) if share > 1.0 => " (cached)".into(),
                Some(share) => format!(" ({:.0} %)", share * 100.0),
            };
            vec![
                format!("{} {} {}", result.model, result.dtype, result.device),
                format!("{:.0}", result.prefill_tokens_per_sec),
                decode.batch.to_string(),
                format!("{:.1}", decode.engine_tokens_per_sec),
                format!("{:.2}", decode.engine_step_ms),
                format!("{:.2}", decode.loop_step_ms),
                format!("{:+.1} % ({:.1} to {:.1})", cost * 100.0, low * 100.0, high * 100.0),
                format!("{:.2} %", decode.reading_ms / decode.loop_step_ms * 100.0),
                format!("{:.1}{share}", decode.weight_gigabytes_per_sec),
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
    for result in results {
        if let Some(rate) = result.memory_gigabytes_per_sec {
            console.say(format!("{}: memory delivers {rate:.1} GB/s", result.model));
        }
        if let Some((ratio, bytes)) = result.load_peak_ratio.zip(result.weight_memory_bytes) {
            let mib = bytes >> 20;
            console.say(format!("{}: loading took {ratio:.2} times the {mib} MiB of the weights", result.model));
        }
        if let Some(accuracy) = &result.accuracy {
            console.print(accuracy.sentence(&result.model, &result.dtype));
        }
    }
}
