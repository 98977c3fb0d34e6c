//! Decoding and prefill speed of a model: `speed SHAPE|FOLDER|FILE.gguf DTYPE [BATCH ...]`.
//!
//! `SHAPE` is a named shape with random weights (`1.5b-8-layers`, ...); `DTYPE` is `f32`, `q8_0`, `bf16` or `auto`.
#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::path::PathBuf;
use std::time::Instant;

use tpv_engine::device::DtypeChoice;
use tpv_engine::engine::{Engine, SequenceId, StepInput, StepOutput};
use tpv_engine::error::{EngineError, Result};
use tpv_engine::load::{LoadOptions, Loaded, ModelSource, load_model, random_model};
use tpv_engine::random::named_shape;

const PROMPT_TOKENS: usize = 512;
/// Context at which decoding begins, in tokens.
const CONTEXT_TOKENS: usize = 64;
const DECODE_SECS: f64 = 4.0;
const MOST_STEPS: usize = 128;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, dtype, batches @ ..] = arguments.as_slice() else {
        return Err(EngineError::Request("usage: speed SHAPE|FOLDER|FILE.gguf DTYPE [BATCH ...]".to_owned()));
    };
    let start = Instant::now();
    let mut loaded = load(model, dtype)?;
    let spec = loaded.engine.spec().clone();
    println!("{model} {} on {}: loaded in {:.1} s", spec.dtype, spec.device, start.elapsed().as_secs_f64());
    loaded.notices.iter().for_each(|notice| println!("{notice}"));
    prefill(loaded.engine.as_mut())?;
    for batch in batches {
        let batch = batch.parse().map_err(|_| EngineError::Request(format!("batch `{batch}` is no number")))?;
        decode(loaded.engine.as_mut(), batch)?;
    }
    println!("peak memory {} MiB", peak_memory_mib());
    Ok(())
}

fn load(model: &str, dtype: &str) -> Result<Loaded> {
    let dtype = match dtype {
        "f32" => Some(DtypeChoice::F32),
        "q8_0" => Some(DtypeChoice::Q8_0),
        "bf16" => Some(DtypeChoice::Bf16),
        _ => None,
    };
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    let path = PathBuf::from(model);
    match named_shape(model) {
        Ok(config) => random_model(config, &options),
        Err(_) if path.is_dir() => load_model(&ModelSource::Folder(path), &options),
        Err(_) => load_model(&ModelSource::Gguf(path), &options),
    }
}

fn prompt(engine: &dyn Engine, seed: usize, length: usize) -> Vec<u32> {
    let length = length.min(engine.spec().max_positions / 2);
    (0..length).map(|i| ((i * 7919 + seed * 104_729) % engine.spec().vocab_size) as u32).collect()
}

fn prefill(engine: &mut dyn Engine) -> Result<()> {
    let tokens = prompt(engine, 1, PROMPT_TOKENS);
    for round in 0..2 {
        let sequence = engine.open()?;
        let start = Instant::now();
        engine.step(&[StepInput { sequence, tokens: &tokens, wants_output: true }], &mut StepOutput::default())?;
        if round == 1 {
            println!("prefill {}: {:.0} tokens/s", tokens.len(), tokens.len() as f64 / start.elapsed().as_secs_f64());
        }
        engine.close(sequence);
    }
    Ok(())
}

fn decode(engine: &mut dyn Engine, batch: usize) -> Result<()> {
    let sequences: Vec<SequenceId> = (0..batch).map(|_| engine.open()).collect::<Result<_>>()?;
    let mut output = StepOutput::default();
    for (seed, &sequence) in sequences.iter().enumerate() {
        let tokens = prompt(engine, seed, CONTEXT_TOKENS);
        engine.step(&[StepInput { sequence, tokens: &tokens, wants_output: false }], &mut output)?;
    }
    let mut secs = Vec::new();
    let start = Instant::now();
    while (start.elapsed().as_secs_f64() < DECODE_SECS || secs.len() < 3) && secs.len() < MOST_STEPS {
        let step = secs.len();
        let portions: Vec<Vec<u32>> = (0..batch).map(|s| prompt(engine, step * batch + s, 1)).collect();
        let inputs = sequences.iter().zip(&portions);
        let inputs: Vec<_> =
            inputs.map(|(&sequence, tokens)| StepInput { sequence, tokens, wants_output: true }).collect();
        let start = Instant::now();
        engine.step(&inputs, &mut output)?;
        secs.push(start.elapsed().as_secs_f64());
    }
    sequences.into_iter().for_each(|sequence| engine.close(sequence));
    let mut steps = secs.split_off(1);
    steps.sort_by(f64::total_cmp);
    let median = steps[steps.len() / 2];
    println!(
        "batch {batch}: {:.0} tokens/s (median step {:.3} ms, best {:.3} ms, {} steps)",
        batch as f64 / median,
        median * 1e3,
        steps[0] * 1e3,
        steps.len()
    );
    Ok(())
}

/// The largest resident size so far, where the system tells.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
