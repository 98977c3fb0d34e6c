//! How fast the Gram sums are, against a plain f64 matrix product of the same size in the same run.
//!
//! `cargo bench --bench gram`, or `cargo bench --bench gram -- 4096` for one width. After criterion's figures comes the
//! ratio: medians of runs that take turns. Both sides count the operations that are needed: `2 n d^2` for the plain
//! product of `[d, n]` and `[n, d]`, `n d (d + 1)` for the sums, of which only one triangle is needed. The sums' time
//! includes the checks of the rows, the widening of f32 to f64 and the products with the labels.
#![expect(clippy::print_stdout, reason = "a benchmark that prints figures")]

use criterion::{Criterion, Throughput};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tpv_core::gram::{GramAccumulator, LOG_REMAINING, PROGRESS, Parallelism, log_remaining_labels, progress_labels};

/// Hidden sizes of the bundled thinker, a 1.5B and an 8B model.
const WIDTHS: [usize; 3] = [192, 1536, 4096];
/// States that are added at a time: one thought of so many tokens.
const ROWS: usize = 1024;
/// Turns of the two sides for the ratio.
const TURNS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measuring = arguments.iter().any(|it| it == "--bench");
    let chosen: Vec<usize> = arguments.iter().filter_map(|it| it.parse().ok()).collect();
    let widths = if chosen.is_empty() { WIDTHS.to_vec() } else { chosen };
    let widths = if measuring { widths } else { vec![WIDTHS[0]] };
    let mut criterion = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    if !measuring {
        criterion = criterion.configure_from_args();
    }
    for &width in &widths {
        bench_width(&mut criterion, width);
    }
    criterion.final_summary();
    if measuring {
        widths.into_iter().for_each(print_ratio);
    }
}

fn bench_width(criterion: &mut Criterion, width: usize) {
    let mut group = criterion.benchmark_group(format!("gram/d{width}"));
    group.throughput(Throughput::Elements(ROWS as u64));
    let mut sums = Sums::new(width);
    group.bench_function("sums", |bencher| bencher.iter(|| sums.add()));
    let mut product = Product::new(width);
    group.bench_function("plain f64 product", |bencher| bencher.iter(|| product.run()));
    group.finish();
}

fn print_ratio(width: usize) {
    let (mut sums, mut product) = (Sums::new(width), Product::new(width));
    sums.add();
    product.run();
    let turns: Vec<(f64, f64)> = (0..TURNS).map(|_| (seconds(|| sums.add()), seconds(|| product.run()))).collect();
    let square = (width * width) as f64;
    let gram = (ROWS * width * (width + 1)) as f64 / median(turns.iter().map(|turn| turn.0)) / 1e9;
    let plain = 2.0 * ROWS as f64 * square / median(turns.iter().map(|turn| turn.1)) / 1e9;
    println!(
        "d = {width}: Gram sums {gram:.1} GFLOP/s, plain f64 product {plain:.1} GFLOP/s, ratio {:.2}",
        gram / plain
    );
}

/// The sums of one thought after the other.
struct Sums {
    states: Vec<f32>,
    progress: Vec<f64>,
    remaining: Vec<f64>,
    accumulator: GramAccumulator,
}

impl Sums {
    fn new(width: usize) -> Self {
        let accumulator = GramAccumulator::new(width, &[PROGRESS, LOG_REMAINING], Parallelism::All);
        Self {
            states: (0..ROWS * width).map(|i| (i % 89) as f32 / 89.0 - 0.5).collect(),
            progress: progress_labels(ROWS),
            remaining: log_remaining_labels(ROWS),
            accumulator: accumulator.expect("the width is positive and the names differ"),
        }
    }

    fn add(&mut self) {
        let labels = [self.progress.as_slice(), self.remaining.as_slice()];
        self.accumulator.add_rows(&self.states, &labels).expect("the rows are finite");
        black_box(self.accumulator.sums());
    }
}

/// The product of the same states, already in f64, into the whole square.
struct Product {
    states: Mat<f64>,
    result: Mat<f64>,
}

impl Product {
    fn new(width: usize) -> Self {
        let states = Mat::from_fn(width, ROWS, |i, j| ((i * 31 + j * 17) % 97) as f64 / 97.0 - 0.5);
        Self { states, result: Mat::from_fn(width, width, |_, _| 1.0) }
    }

    fn run(&mut self) {
        matmul(&mut self.result, Accum::Add, &self.states, self.states.transpose(), 1.0, Par::rayon(0));
        black_box(&self.result);
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
