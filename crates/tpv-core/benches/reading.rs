//! What a reading costs: one calibrated reading (heads, filter, quantiles, interval, verdict) and its parts.
//!
//! `cargo bench --bench reading`. A decode step pays `reading/calibrated` once for every sequence.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use tpv_core::reading::conformal::{BINS, Margins};
use tpv_core::reading::features::{FEATURES, FeatureFilter};
use tpv_core::reading::repetition::RepetitionDetector;
use tpv_core::reading::{
    Calibration, HeadTrace, HeadValues, ProgressReader, Reader, ReadingModel, StateView, TokenTimes, calibrate,
};
use tpv_core::vector::{LinearHead, ProgressVector};

/// Widths of the toy, of a 1.5B and of an 8B model.
const WIDTHS: [usize; 3] = [192, 1536, 4096];
/// Tokens that a reader has behind it when it is measured.
const WARM_TOKENS: u32 = 600;

/// Numbers in [-1, 1) without a pattern.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn vector(width: usize) -> ProgressVector {
    let head = |seed, intercept| LinearHead {
        weights: noise(seed, width).into_iter().map(|weight| weight / width as f32).collect(),
        intercept,
    };
    ProgressVector {
        theta: head(1, 0.0).weights,
        progress: head(2, 0.5),
        log_remaining: Some(head(3, 5.0)),
        ..ProgressVector::default()
    }
}

/// A calibration of made-up thoughts whose heads know the truth but for some noise.
fn calibration() -> Calibration {
    let thought = |problem: usize| {
        let thinking_tokens = 100 + 37 * problem % 300;
        let noise = noise(problem as u32, thinking_tokens);
        let values = (1..=thinking_tokens).zip(noise).map(|(j, noise)| HeadValues {
            theta: 0.0,
            progress: j as f32 / thinking_tokens as f32 + 0.1 * noise,
            log_remaining: ((thinking_tokens - j) as f32).ln_1p() + 0.3 * noise,
        });
        HeadTrace { problem, values: values.collect(), thinking_tokens, times: TokenTimes::default() }
    };
    calibrate(&(0..20).map(thought).collect::<Vec<_>>()).expect("enough problems")
}

/// A token of text that does not repeat itself but uses few different tokens, as digits and words do.
fn token(position: u32) -> u32 {
    let mixed = (position ^ (position >> 7)).wrapping_mul(2_654_435_761);
    (mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B) >> 26
}

fn view(state: &[f32], position: u32) -> StateView<'_> {
    StateView { hidden_post_norm: state, position, last_token: token(position) }
}

fn warm_reader(model: &Arc<ReadingModel>, state: &[f32]) -> ProgressReader {
    let mut reader = model.reader(None);
    for position in 1..=WARM_TOKENS {
        reader.read(view(state, position));
    }
    reader
}

fn whole_readings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reading");
    let calibration = calibration();
    for width in WIDTHS {
        let model = Arc::new(ReadingModel::new(&vector(width), Some(&calibration)));
        let state = noise(9, width);
        let (mut reader, mut position) = (warm_reader(&model, &state), WARM_TOKENS);
        group.bench_function(BenchmarkId::new("calibrated", width), |bencher| {
            bencher.iter(|| {
                position += 1;
                reader.read(black_box(view(&state, position)))
            });
        });
        group.bench_function(BenchmarkId::new("heads", width), |bencher| {
            let vector = vector(width);
            bencher.iter(|| HeadValues::of_state(&vector, black_box(&state)));
        });
    }
    group.finish();
}

fn parts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("part");
    let (mut filter, mut position) = (FeatureFilter::new(8.0), 0);
    group.bench_function("features", |bencher| {
        bencher.iter(|| {
            position += 1;
            filter.push(position, black_box(0.4), black_box(4.0))
        });
    });
    let calibration = Calibration { margins: Margins { low: vec![0.1; BINS], high: vec![0.2; BINS] }, ..calibration() };
    let columns = [0.5; FEATURES];
    group.bench_function("quantiles and interval", |bencher| {
        let max = calibration.log_remaining_max();
        bencher.iter(|| calibration.remaining(black_box(200), black_box(&columns), max));
    });
    let (mut detector, mut position) = (RepetitionDetector::default(), 0);
    group.bench_function("loops of tokens", |bencher| {
        bencher.iter(|| {
            position += 1;
            detector.push(black_box(token(position)))
        });
    });
    group.bench_function("loops of tokens, in a loop", |bencher| {
        let looping = || {
            let mut detector = RepetitionDetector::default();
            for token in 0..2000 {
                detector.push(token % 30);
            }
            detector
        };
        bencher.iter_batched_ref(looping, |detector| detector.push(black_box(20)), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, whole_readings, parts);
criterion_main!(benches);
