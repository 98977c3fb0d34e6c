//! Figures against SciPy, and baselines on traces whose answer is known.

use serde::Deserialize;
use tpv_core::baseline::{Baseline, ConstantLength, Predictors};
use tpv_core::metrics::{ReadingTrace, average_ranks, mae, mse, pearson, r2, spearman};

/// One pair of series measured by `golden/metrics.py`.
#[derive(Deserialize)]
struct Golden {
    predicted: Vec<f64>,
    target: Vec<f64>,
    ranks: Vec<f64>,
    mse: f64,
    mae: f64,
    r2: f64,
    pearson: f64,
    spearman: f64,
}

#[test]
fn figures_equal_those_of_scipy() {
    let golden: Vec<Golden> = serde_json::from_str(include_str!("golden/metrics.json")).unwrap();
    assert!(golden.len() >= 5);
    for case in golden {
        let (p, t) = (case.predicted.as_slice(), case.target.as_slice());
        assert_eq!(average_ranks(p), case.ranks);
        for (value, expected) in [
            (mse(p, t), case.mse),
            (mae(p, t), case.mae),
            (r2(p, t).unwrap(), case.r2),
            (pearson(p, t).unwrap(), case.pearson),
            (spearman(p, t).unwrap(), case.spearman),
        ] {
            assert!((value - expected).abs() < 1e-12, "{value}, expected {expected}");
        }
    }
}

/// Traces whose progress depends on position and a reading in a known way.
fn traces(count: u64, target: impl Fn(u32, f64) -> f64) -> Vec<ReadingTrace> {
    let trace = |problem: u64| {
        let length = 40 + (problem * 17) % 60;
        let reading = |j: u64| ((j * 7919 + problem * 31) % 97) as f64 / 97.0;
        let predicted: Vec<f64> = (1..=length).map(reading).collect();
        let target = (1..).zip(&predicted).map(|(j, &reading)| target(j, reading)).collect();
        ReadingTrace { problem, first_position: 1, predicted, target }
    };
    (0..count).map(trace).collect()
}

fn error(baseline: &Baseline, traces: &[ReadingTrace]) -> f64 {
    let errors = traces.iter().map(|trace| mse(&baseline.apply(trace).predicted, &trace.target));
    errors.sum::<f64>() / traces.len() as f64
}

#[test]
fn the_mean_baseline_is_the_mean() {
    let traces = traces(5, |j, _| f64::from(j));
    let all: Vec<f64> = traces.iter().flat_map(|trace| trace.target.clone()).collect();
    let baseline = Baseline::fit(Predictors::Mean, &traces).unwrap();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    assert!((baseline.predict(1, 0.0) - mean).abs() < 1e-9);
    assert_eq!(baseline.predict(1, 0.0), baseline.predict(70, 1.0));
}

#[test]
fn a_linear_function_of_the_position_is_found() {
    let traces = traces(8, |j, _| 0.02 * f64::from(j) - 0.3);
    let baseline = Baseline::fit(Predictors::Position, &traces).unwrap();
    assert!((baseline.predict(33, 9.0) - 0.36).abs() < 1e-4);
}

#[test]
fn radial_functions_follow_a_bent_curve() {
    let curve = |j: u32, _: f64| (f64::from(j) / 30.0).tanh();
    let (train, test) = (traces(20, curve), traces(30, curve));
    let linear = error(&Baseline::fit(Predictors::Position, &train).unwrap(), &test);
    let radial = error(&Baseline::fit(Predictors::RadialPosition, &train).unwrap(), &test);
    assert!(radial < 1e-4 && radial < linear / 50.0, "radial {radial}, linear {linear}");
}

#[test]
fn the_reading_adds_what_the_position_does_not_know() {
    let both = |j: u32, reading: f64| (f64::from(j) / 30.0).tanh() + 0.5 * reading;
    let (train, test) = (traces(20, both), traces(30, both));
    let alone = error(&Baseline::fit(Predictors::RadialPosition, &train).unwrap(), &test);
    let joined = error(&Baseline::fit(Predictors::RadialPositionAndReading, &train).unwrap(), &test);
    assert!(joined < 1e-4 && alone > 0.01, "joined {joined}, alone {alone}");
}

#[test]
fn positions_beyond_training_are_the_last_one() {
    let train = traces(3, |j, _| f64::from(j));
    for predictors in [Predictors::Position, Predictors::RadialPosition] {
        let baseline = Baseline::fit(predictors, &train).unwrap();
        let last = train.iter().map(|trace| trace.target.len() as u32).max().unwrap();
        assert_eq!(baseline.predict(last, 0.0), baseline.predict(last + 500, 0.0));
    }
}

#[test]
fn a_single_token_is_enough_and_none_is_not() {
    let one = ReadingTrace { problem: 0, first_position: 1, predicted: vec![0.5], target: vec![1.0] };
    for predictors in [Predictors::Mean, Predictors::Position, Predictors::RadialPositionAndReading] {
        assert!((Baseline::fit(predictors, std::slice::from_ref(&one)).unwrap().predict(1, 0.5) - 1.0).abs() < 1e-9);
        assert!(Baseline::fit(predictors, &[]).is_err());
    }
}

#[test]
fn a_constant_length_counts_down() {
    let constant = ConstantLength::fit(&[10, 30, 20]).unwrap();
    assert_eq!((constant.progress(5), constant.remaining(5)), (0.25, 15.0));
    assert_eq!((constant.progress(25), constant.remaining(25)), (1.0, 0.0));
    assert_eq!(ConstantLength::fit(&[]), None);
}

#[test]
fn the_position_baseline_needs_no_more_than_lengths() {
    let lengths = [40u32, 90, 7, 300];
    let trace = |(problem, &length): (usize, &u32)| ReadingTrace {
        problem: problem as u64,
        first_position: 1,
        predicted: vec![0.0; length as usize],
        target: (1..=length).map(|j| f64::from(j) / f64::from(length)).collect(),
    };
    let traces: Vec<ReadingTrace> = lengths.iter().enumerate().map(trace).collect();
    let of_traces = Baseline::fit(Predictors::RadialPosition, &traces).unwrap();
    assert_eq!(Baseline::of_lengths(&lengths).unwrap(), of_traces);
    let huge = Baseline::of_lengths(&[u32::MAX, 1_000_000]).unwrap();
    assert!(huge.predict(u32::MAX, 0.0) > huge.predict(1000, 0.0), "as little memory as for any others");
    assert!(Baseline::of_lengths(&[]).is_err() && Baseline::of_lengths(&[0]).is_err());
}
