//! How fast the Gram sums are, against a plain f64 matrix product of the same size in the same run.
//!
//! `cargo bench --bench gram`, or `cargo bench --bench gram -- 4096` for one width. After criterion's figures comes the
//! ratio: medians of runs that take turns, against the faster of two plain products: matrices as faer lays them out, and with
//! a gap between columns, without which the caches collide at widths such as 4096. All count the operations that are
//! needed: `2 n d^2` for the plain product of `[d, n]` and `[n, d]`, `n d (d + 1)` for the sums, of which only one
//! triangle is needed. The sums' time
//! includes the checks of the rows, the widening of f32 to f64 and the products with the labels.
#![expect(clippy::print_stdout, reason = "a benchmark that prints figures")]

use criterion::{Criterion, Throughput};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tpv_core::bootstrap::median;
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
    for (name, gap) in [("plain f64 product", 0), ("plain f64 product with gaps", 8)] {
        let mut product = Product::new(width, gap);
        group.bench_function(name, |bencher| bencher.iter(|| product.run()));
    }
    group.finish();
}

fn print_ratio(width: usize) {
    let (mut sums, mut plain, mut gapped) = (Sums::new(width), Product::new(width, 0), Product::new(width, 8));
    let mut turn = || [seconds(|| sums.add()), seconds(|| plain.run()), seconds(|| gapped.run())];
    turn();
    let turns: Vec<[f64; 3]> = (0..TURNS).map(|_| turn()).collect();
    let secs = |side: usize| median(turns.iter().map(|turn| turn[side]).collect()).expect("there is a turn");
    let speed = |side: usize, operations: usize| operations as f64 / secs(side) / 1e9;
    let gram = speed(0, ROWS * width * (width + 1));
    let [plain, gapped] = [1, 2].map(|side| speed(side, 2 * ROWS * width * width));
    let ratio = gram / plain.max(gapped);
    println!(
        "d = {width}: Gram sums {gram:.1} GFLOP/s, f64 product {plain:.1}, with gaps {gapped:.1}, ratio {ratio:.2}"
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
    fn new(width: usize, gap: usize) -> Self {
        let state = |i: usize, j: usize| ((i * 31 + j * 17) % 97) as f64 / 97.0 - 0.5;
        let [mut states, mut result] = [ROWS, width].map(|columns| Mat::with_capacity(width + gap, columns));
        states.resize_with(width, ROWS, state);
        result.resize_with(width, width, |_, _| 1.0);
        Self { states, result }
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
