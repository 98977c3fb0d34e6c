//! What the memory delivers, and how much of it the process takes.

use std::time::Instant;

use tpv_engine::memory::Memory;

/// Far more than any cache holds.
const BUFFER_BYTES: usize = 1 << 29;
const REPETITIONS: usize = 7;

/// Bytes per second that this many threads read from memory: the best of several sums over one large buffer, which lies in
/// the same kind of memory as the weights.
pub fn read_bandwidth(threads: usize) -> anyhow::Result<f64> {
    let mut numbers = Memory::<u64>::zeroed(BUFFER_BYTES / size_of::<u64>())?;
    numbers.fill(1);
    let part = numbers.len().div_ceil(threads);
    let read_all = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in numbers.chunks(part) {
                scope.spawn(|| std::hint::black_box(part.iter().sum::<u64>()));
            }
        });
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..REPETITIONS).map(|_| read_all()).fold(f64::INFINITY, f64::min);
    Ok(BUFFER_BYTES as f64 / fastest)
}

/// The largest resident size so far, in bytes, where the system tells.
pub fn peak_resident_bytes() -> Option<u64> {
    status("VmHWM")
}

/// The resident size now, in bytes, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    status("VmRSS")
}

fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
