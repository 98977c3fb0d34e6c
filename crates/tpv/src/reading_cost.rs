//! What one calibrated reading costs on this machine, apart from everything else that monitoring does.

use crate::vectors::bundled;
use anyhow::Result;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use tpv_core::reading::{Calibration, Reader, ReadingModel, StateView};
use tpv_core::vector::{LinearHead, ProgressVector};

/// The thought that is read again and again, in tokens.
const THOUGHT_TOKENS: u32 = 512;
/// Thoughts; the cost is that of the fastest one, because whatever else the machine does can only add to it.
const THOUGHTS: usize = 16;

/// A calibrated reading of states of this width, with made-up weights.
pub fn made_up_reading(hidden_size: usize) -> Result<Arc<ReadingModel>> {
    let weights: Vec<f32> = (0..hidden_size).map(|i| ((i % 7) as f32 - 3.0) * 1e-4).collect();
    let head = |intercept| LinearHead { weights: weights.clone(), intercept };
    let vector = ProgressVector {
        theta: weights.clone(),
        progress: head(0.5),
        log_remaining: Some(head(4.0)),
        ..ProgressVector::default()
    };
    // A calibration sees the heads' values only, so that of the bundled vector serves for every width.
    let calibration = Calibration::of_vector(&bundled()?.vector)?;
    Ok(Arc::new(ReadingModel::new(&vector, calibration.as_ref())))
}

/// Seconds of one reading of states of this width, on one thread.
pub fn reading_secs(hidden_size: usize) -> Result<f64> {
    let model = made_up_reading(hidden_size)?;
    let state: Vec<f32> = (0..hidden_size).map(|i| (i % 11) as f32 - 5.0).collect();
    let thought = || {
        let mut reader = model.reader(None);
        let started = Instant::now();
        for position in 1..=THOUGHT_TOKENS {
            let last_token = position * position % 1009;
            black_box(reader.read(StateView { hidden_post_norm: black_box(&state), position, last_token }));
        }
        started.elapsed().as_secs_f64() / f64::from(THOUGHT_TOKENS)
    };
    Ok((0..THOUGHTS).map(|_| thought()).fold(f64::INFINITY, f64::min))
}
