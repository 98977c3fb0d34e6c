//! One step of an engine: the bundled model in f32 and a small made-up shape in f32 and Q8_0, batch 1, 8 and 32.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tpv_engine::config::DecoderConfig;
use tpv_engine::device::{DeviceChoice, DtypeChoice};
use tpv_engine::engine::{Engine, SequenceId, StepInput, StepOutput};
use tpv_engine::load::{LoadOptions, ModelSource, load_model, random_model};

/// Tokens that every sequence holds; the same at every step, so that steps do not grow.
const CONTEXT_TOKENS: usize = 64;

/// Width 896, no multiple of 256, as in models of half a billion weights.
const SMALL_SHAPE: &str = r#"{"model_type":"qwen2","hidden_size":896,"intermediate_size":1216,"num_hidden_layers":2,
    "num_attention_heads":14,"num_key_value_heads":2,"vocab_size":8192,"max_position_embeddings":4096}"#;

fn options(dtype: DtypeChoice) -> LoadOptions {
    LoadOptions { dtype: Some(dtype), device: DeviceChoice::Cpu, ..LoadOptions::default() }
}

fn bundled() -> Box<dyn Engine> {
    let source = ModelSource::Embedded { config: tpv_thinker::CONFIG, weights: tpv_thinker::WEIGHTS };
    load_model(&source, &options(DtypeChoice::F32)).expect("the bundled model loads").engine
}

fn small(dtype: DtypeChoice) -> Box<dyn Engine> {
    let config = DecoderConfig::from_json(SMALL_SHAPE.as_bytes()).expect("the shape is valid");
    random_model(config, &options(dtype)).expect("made-up weights load").engine
}

/// Forks of one prompt take a step and are closed again.
fn step(engine: &mut dyn Engine, prompt: SequenceId, batch: usize, output: &mut StepOutput) {
    let forks: Vec<SequenceId> = (0..batch).map(|_| engine.fork(prompt).expect("the prompt is open")).collect();
    let inputs: Vec<_> = forks.iter().map(|&sequence| StepInput { sequence, tokens: &[7], outputs: 1 }).collect();
    engine.step(&inputs, output).expect("the step is possible");
    forks.into_iter().for_each(|fork| engine.close(fork));
}

fn decode_step(criterion: &mut Criterion) {
    let models = [
        ("bundled f32", bundled()),
        ("small shape f32", small(DtypeChoice::F32)),
        ("small shape q8_0", small(DtypeChoice::Q8_0)),
    ];
    let mut group = criterion.benchmark_group("decode step");
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500)).sample_size(20);
    for (name, mut engine) in models {
        let mut output = StepOutput::default();
        let prompt = engine.open().expect("a sequence opens");
        let tokens: Vec<u32> = (0..CONTEXT_TOKENS as u32).collect();
        let input = StepInput { sequence: prompt, tokens: &tokens, outputs: 0 };
        engine.step(&[input], &mut output).expect("the prompt is read");
        for batch in [1, 8, 32] {
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new(name, batch), |bencher| {
                bencher.iter(|| step(engine.as_mut(), prompt, batch, &mut output));
            });
        }
    }
}

criterion_group!(benches, decode_step);
criterion_main!(benches);
