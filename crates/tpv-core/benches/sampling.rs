//! Choosing a token among 152,000: greedily and with top-p, with one token that has nearly everything (as trained models mostly have), with
//! thousands in the nucleus, and with nearly all; with and without a shift.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::time::Duration;
use tpv_core::sampling::{Sampler, SamplingParams};

const VOCAB_SIZE: usize = 152_000;
const TOP_P: SamplingParams = SamplingParams { temperature: 0.6, top_p: 0.95, top_k: 0 };

/// Logits of this spread; with 1 all tokens are about as likely, with 6 some thousands have nearly everything.
fn logits(spread: f32) -> Vec<f32> {
    // Sums of uniform numbers, so that the tails are thin as those of real logits.
    let uniform = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1u64 << 24) as f32;
    let normal = |i: usize| (0..12).map(|k| uniform(12 * i + k)).sum::<f32>() - 6.0;
    (0..VOCAB_SIZE).map(|i| normal(i) * spread).collect()
}

fn sampling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sampling");
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300)).sample_size(30);
    let shift: Vec<f32> = logits(0.01);
    for (shape, spread, lead) in [("peaked", 3.0, 20.0), ("spread", 6.0, 0.0), ("flat", 1.0, 0.0)] {
        let mut logits = logits(spread);
        logits[VOCAB_SIZE / 2] += lead;
        for (name, params) in [("greedy", SamplingParams::GREEDY), ("top-p", TOP_P)] {
            for (push, shift) in [("plain", None), ("shifted", Some((5.0, &shift[..])))] {
                let mut sampler = Sampler::new(params, 1).expect("the parameters are sensible");
                group.bench_function(BenchmarkId::new(format!("{name}, {shape}"), push), |bencher| {
                    bencher.iter(|| sampler.sample(&logits, shift, &[]).expect("the logits are finite"));
                });
            }
        }
    }
}

criterion_group!(benches, sampling);
criterion_main!(benches);
