//! The reader: from one final hidden state after another to progress, time left and a verdict.
//!
//! With a calibration, the two heads' values go through the causal filter and the calibrated quantiles. Without one,
//! progress is the paper's display (exponential average of weight 0.1, clamped) and no time left is claimed.
//! A state costs three dot products of width d and a fixed amount of work beside them.

use super::calibration::{Calibration, progress_of};
use super::features::FeatureFilter;
use super::heads::HeadValues;
use super::verdict::{Judge, Limits};
use super::{Estimate, PROGRESS_CEILING, Reader, Reading, StateView};
use crate::vector::ProgressVector;
use std::sync::Arc;

/// Weight of the newest value in the paper's smoothing.
pub const PAPER_EMA_WEIGHT: f32 = 0.1;

/// A vector made ready for reading; shared by the readers of many sequences.
#[derive(Debug, Clone)]
pub struct ReadingModel {
    vector: ProgressVector,
    calibration: Option<Arc<Calibration>>,
}

impl ReadingModel {
    /// Joins a vector and a calibration; without the head for remaining tokens a calibration is of no use and left out.
    pub fn new(vector: &ProgressVector, calibration: Option<&Calibration>) -> Self {
        let calibration = calibration.filter(|_| vector.log_remaining.is_some()).cloned().map(Arc::new);
        Self { vector: ProgressVector { calibration: None, pattern: None, ..vector.clone() }, calibration }
    }

    /// Whether readings will be calibrated.
    pub fn is_calibrated(&self) -> bool {
        self.calibration.is_some()
    }

    /// A reader for one new thought.
    pub fn reader(self: &Arc<Self>, budget_tokens: Option<u32>) -> ProgressReader {
        ProgressReader { model: Arc::clone(self), filter: ReadingFilter::new(self.calibration.clone(), budget_tokens) }
    }
}

/// Reads one thought from its final hidden states.
#[derive(Debug, Clone)]
pub struct ProgressReader {
    model: Arc<ReadingModel>,
    filter: ReadingFilter,
}

impl ProgressReader {
    /// A reader for one thought without budget; see [`ReadingModel`] for many.
    pub fn new(vector: &ProgressVector, calibration: Option<&Calibration>) -> Self {
        Arc::new(ReadingModel::new(vector, calibration)).reader(None)
    }
}

impl Reader for ProgressReader {
    fn read(&mut self, state: StateView<'_>) -> Reading {
        let values = HeadValues::of_state(&self.model.vector, state.hidden_post_norm);
        self.filter.push(state.position, state.last_token, values)
    }
}

/// The part of the reader that comes after the heads; evaluations feed it from stored values.
#[derive(Debug, Clone)]
pub struct ReadingFilter {
    state: FilterState,
    judge: Judge,
}

#[derive(Debug, Clone)]
enum FilterState {
    Calibrated(Arc<Calibration>, FeatureFilter),
    Smoothed(Option<f32>),
}

impl ReadingFilter {
    /// A filter at the start of a thought.
    pub fn new(calibration: Option<Arc<Calibration>>, budget_tokens: Option<u32>) -> Self {
        let stall_tokens = calibration.as_ref().map(|calibration| calibration.stall_tokens);
        let state = match calibration {
            Some(calibration) => {
                let filter = FeatureFilter::new(calibration.log_remaining_max());
                FilterState::Calibrated(calibration, filter)
            }
            None => FilterState::Smoothed(None),
        };
        Self { state, judge: Judge::new(Limits { budget_tokens, stall_tokens }) }
    }

    /// Takes the heads' values at `position` and the token before it.
    pub fn push(&mut self, position: u32, last_token: u32, values: HeadValues) -> Reading {
        let (progress, remaining_tokens) = self.state.push(position, values);
        let progress_raw = values.theta.is_finite().then_some(values.theta);
        let verdict = self.judge.push(position, last_token, progress);
        Reading { position, progress_raw, progress, remaining_tokens, verdict }
    }
}

impl FilterState {
    fn push(&mut self, position: u32, values: HeadValues) -> (Option<f32>, Option<Estimate>) {
        match self {
            Self::Calibrated(calibration, filter) => {
                let columns = filter.push(position, values.progress, values.log_remaining);
                let remaining =
                    columns.map(|columns| calibration.remaining(position, &columns, filter.log_remaining_max));
                (remaining.map(|remaining| progress_of(position, remaining.value)), remaining)
            }
            Self::Smoothed(average) => (smooth(average, values.progress), None),
        }
    }
}

fn smooth(average: &mut Option<f32>, value: f32) -> Option<f32> {
    if !value.is_finite() {
        return None;
    }
    let value = value.clamp(-1.0, 2.0);
    let smoothed = average.map_or(value, |average| average + PAPER_EMA_WEIGHT * (value - average));
    *average = Some(smoothed);
    Some(smoothed.clamp(0.0, PROGRESS_CEILING))
}

#[cfg(test)]
mod tests {
    use super::super::calibration::calibrate;
    use super::super::synthetic::{traces, vector};
    use super::*;
    use crate::reading::Verdict;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn calibration() -> &'static Calibration {
        static CALIBRATION: OnceLock<Calibration> = OnceLock::new();
        CALIBRATION.get_or_init(|| calibrate(&traces(12, 1)).expect("enough problems"))
    }

    fn read_all(reader: &mut ProgressReader, states: &[Vec<f32>]) -> Vec<Reading> {
        (1..)
            .zip(states)
            .map(|(position, state)| {
                reader.read(StateView { hidden_post_norm: state, position, last_token: position % 3 })
            })
            .collect()
    }

    fn states() -> impl Strategy<Value = Vec<Vec<f32>>> {
        let value = prop_oneof![8 => -3f32..3.0, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(f32::MAX)];
        prop::collection::vec(prop::collection::vec(value, 3), 1..60)
    }

    proptest! {
        #[test]
        fn truncating_a_thought_changes_no_earlier_reading(states in states(), share in 0.0..1.0f64) {
            for calibration in [None, Some(calibration())] {
                let whole = read_all(&mut ProgressReader::new(&vector(), calibration), &states);
                let kept = (states.len() as f64 * share) as usize;
                let part = read_all(&mut ProgressReader::new(&vector(), calibration), &states[..kept]);
                prop_assert_eq!(bits(&part), bits(&whole[..kept]));
            }
        }

        #[test]
        fn readings_are_finite_and_never_complete(states in states()) {
            for calibration in [None, Some(calibration())] {
                for reading in read_all(&mut ProgressReader::new(&vector(), calibration), &states) {
                    prop_assert!(reading.progress.is_none_or(|p| (0.0..1.0).contains(&p)), "{:?}", reading);
                    prop_assert!(reading.progress_raw.is_none_or(f32::is_finite));
                    if let Some(Estimate { value, low, high }) = reading.remaining_tokens {
                        prop_assert!(0.0 <= low && low <= value && value <= high && high.is_finite(), "{:?}", reading);
                    }
                }
            }
        }
    }

    /// Every number of the readings, bit for bit.
    fn bits(readings: &[Reading]) -> Vec<(u32, [Option<u32>; 5], Verdict)> {
        let of = |reading: &Reading| {
            let left = reading.remaining_tokens;
            let numbers = [
                reading.progress_raw,
                reading.progress,
                left.map(|e| e.value),
                left.map(|e| e.low),
                left.map(|e| e.high),
            ];
            (reading.position, numbers.map(|number| number.map(f32::to_bits)), reading.verdict)
        };
        readings.iter().map(of).collect()
    }

    #[test]
    fn a_state_that_cannot_be_read_is_unknown() {
        for calibration in [None, Some(calibration())] {
            let readings = read_all(&mut ProgressReader::new(&vector(), calibration), &[vec![f32::NAN; 3]]);
            assert_eq!(readings, [Reading { position: 1, ..Reading::default() }]);
        }
    }

    #[test]
    fn without_calibration_progress_is_the_clamped_average_and_no_time_is_claimed() {
        let states = [0.0, 1.0, 5.0].map(|x| vec![x, 0.0, 0.0]);
        let readings = read_all(&mut ProgressReader::new(&vector(), None), &states);
        let progress: Vec<f32> = readings.iter().filter_map(|reading| reading.progress).collect();
        // The head is h_0 itself; 5 is clamped to 2: 0, 0.1, 0.1 + 0.1 * 1.9.
        for (got, expected) in progress.iter().zip([0.0, 0.1, 0.29]) {
            assert!((got - expected).abs() < 1e-6, "{got} against {expected}");
        }
        assert!(readings.iter().all(|reading| reading.remaining_tokens.is_none()));
    }

    #[test]
    fn a_calibration_without_the_second_head_is_left_out() {
        let vector = ProgressVector { log_remaining: None, ..vector() };
        assert!(!ReadingModel::new(&vector, Some(calibration())).is_calibrated());
    }

    #[test]
    fn the_budget_reaches_the_verdict() {
        let model = Arc::new(ReadingModel::new(&vector(), None));
        let readings = read_all(&mut model.reader(Some(2)), &[vec![0.1; 3], vec![0.1; 3], vec![0.1; 3]]);
        assert_eq!(readings[1].verdict, Verdict::Thinking);
        assert_eq!(readings[2].verdict, Verdict::OverBudget);
    }
}
