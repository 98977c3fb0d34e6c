//! How fast the Gram sums are, against a bare matrix product of the same machine, and how long sampling takes.
//!
//! `cargo run --release --example throughput -- [d]`
#![expect(clippy::print_stdout, reason = "an example that prints figures")]

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use std::time::Instant;
use tpv_core::gram::{GramAccumulator, PROGRESS, Parallelism, progress_labels};
use tpv_core::sampling::{Sampler, SamplingParams, normalised_entropy, sample_seed};

fn main() {
    let width = std::env::args().nth(1).and_then(|d| d.parse().ok()).unwrap_or(4096);
    let mut product: Vec<f64> = Vec::new();
    let mut gram: Vec<f64> = Vec::new();
    for _ in 0..5 {
        product.push(product_gflops(width));
        gram.push(gram_gflops(width));
    }
    let (product, gram) = (median(product), median(gram));
    println!("d = {width}: f64 product {product:.1} GFLOP/s, Gram sums {gram:.1} GFLOP/s, ratio {:.2}", gram / product);
    sampling();
}

/// A plain [d, 512] x [512, d] product, two operations per multiplication and addition; the result has been written before.
fn product_gflops(width: usize) -> f64 {
    let left = Mat::from_fn(width, 512, |i, j| ((i * 31 + j * 17) % 97) as f64);
    let mut result = Mat::from_fn(width, width, |_, _| 1.0);
    let secs = seconds(|| matmul(&mut result, Accum::Add, &left, left.transpose(), 1.0, Par::rayon(0)));
    2.0 * 512.0 * (width * width) as f64 / secs / 1e9
}

/// As many rows into the lower triangle, checks and widening to f64 included; half the operations are needed.
fn gram_gflops(width: usize) -> f64 {
    let rows: Vec<f32> = (0..512 * width).map(|i| (i % 89) as f32).collect();
    let labels = progress_labels(512);
    let mut sums = GramAccumulator::new(width, &[PROGRESS], Parallelism::All).expect("the width is positive");
    let mut add = || sums.add_rows(&rows, &[&labels]).expect("the rows are finite");
    add();
    512.0 * (width * (width + 1)) as f64 / seconds(add) / 1e9
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Bell-shaped logits (three hashed uniforms) with a few that stand out, as models make them.
fn made_up_logits(vocab_size: u64) -> Vec<f32> {
    let uniform = |i: u64, part: u64| (sample_seed(i, part, 0) >> 40) as f32 / (1u64 << 24) as f32;
    let bell = |i| (uniform(i, 0) + uniform(i, 1) + uniform(i, 2) - 1.5) * 5.0;
    (0..vocab_size).map(|i| bell(i) + if i % 20_000 == 7 { 14.0 } else { 0.0 }).collect()
}

fn sampling() {
    let logits = made_up_logits(151_936);
    let shift: Vec<f32> = logits.iter().map(|logit| logit * 0.01).collect();
    for (name, temperature, top_p, top_k) in [
        ("greedy", 0.0, 1.0, 0),
        ("T 0.6, top-p 0.95", 0.6, 0.95, 0),
        ("T 1", 1.0, 1.0, 0),
        ("T 1, top-k 50", 1.0, 1.0, 50),
    ] {
        let mut sampler = Sampler::new(SamplingParams { temperature, top_p, top_k }, 1).expect("sensible parameters");
        let mut draw = |shift| micros(|| assert!(sampler.sample(&logits, shift, &[]).is_ok()));
        println!("V = 151936, {name}: {:.0} us, with shift {:.0} us", draw(None), draw(Some((2.0, shift.as_slice()))));
    }
    println!("V = 151936, entropy: {:.0} us", micros(|| assert!(normalised_entropy(&logits) > 0.0)));
}

fn micros(mut work: impl FnMut()) -> f64 {
    let times = (0..50).map(|_| seconds(&mut work) * 1e6);
    median(times.collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
